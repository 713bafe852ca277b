// Package harness runs the services of the examples over real sockets, in a
// folder that has what their deployment would give them: certificates, the
// keys of the edge, API keys and policies.
package harness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/meshtest"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// Serve runs serve on a loopback listener until the test ends, and returns its
// address.
func Serve(t *testing.T, serve func(context.Context, net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	return l.Addr().String()
}

// Folder is the working directory of a service, orders-service in production.
type Folder struct {
	*meshtest.Mesh
	Key      string // an API key of the consumer acme
	OtherKey string // one of the consumer globex
}

// Enter makes a folder, fills it and goes there for the rest of the test. It
// also sets the environment as the Kubernetes downward API does.
func Enter(t *testing.T) *Folder {
	t.Helper()
	t.Chdir(t.TempDir())
	mesh, err := meshtest.New(meshtest.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, mesh.Close()) })
	f := &Folder{Mesh: mesh}
	var hash, otherHash string
	f.Key, hash = auth.GenerateKey()
	f.OtherKey, otherHash = auth.GenerateKey()
	write(t, "keys.txt", "acme-1 acme "+hash+"\nglobex-1 globex "+otherHash+"\n")
	write(t, "identity.jwks", string(mesh.Minter().JWKS()))
	require.NoError(t, os.Mkdir("policies", 0o700))
	write(t, "policies/orders.yaml", policies)
	workload := gatemesh.Workload{Name: "orders-service", TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: "orders-service"}
	source, err := mesh.CA().Source(devca.WorkloadConfig{Workload: workload})
	require.NoError(t, err)
	require.NoError(t, source.WriteFiles("."))
	cert, err := mesh.CA().ServerCertificate("127.0.0.1", "localhost")
	require.NoError(t, err)
	certPEM, keyPEM, err := devca.EncodePEM(cert)
	require.NoError(t, err)
	write(t, "server.crt", string(certPEM))
	write(t, "server.key", string(keyPEM))
	t.Setenv("SERVICE_NAME", workload.Name)
	t.Setenv("POD_NAMESPACE", workload.Namespace)
	t.Setenv("SERVICE_ACCOUNT", workload.ServiceAccount)
	t.Setenv("POD_LABELS", "app=orders-service")
	return f
}

// policies let shop-frontend, and nobody else, call orders-service.
const policies = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders-service, namespace: production}
spec:
  selector: {matchLabels: {app: orders-service}}
  rules:
    - from: [{source: {principals: [cluster.local/ns/production/sa/shop-frontend]}}]
`

func write(t *testing.T, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
}

// Roots are the authorities that signed server.crt.
func (f *Folder) Roots() *x509.CertPool { return f.CA().Pool() }

// Identity is the token that the edge makes for a call of the user.
func (f *Folder) Identity(t *testing.T, user string) string {
	t.Helper()
	in, err := gatemesh.NewCall(gatemesh.CallInfo{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Issuer: "https://auth.example.com/", Subject: user, Method: "jwt",
	})})
	require.NoError(t, err)
	out, err := gatemesh.NewCall(gatemesh.CallInfo{Parent: in})
	require.NoError(t, err)
	adm, err := f.Minter().Admit(t.Context(), out)
	require.NoError(t, err)
	require.Len(t, adm.Header, 1)
	return adm.Header[0].Value
}

// ServerTLS is a configuration with the certificate server.crt.
func ServerTLS(t *testing.T) *tls.Config {
	t.Helper()
	cert, err := tls.LoadX509KeyPair("server.crt", "server.key")
	require.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
}

// Inbound runs handle as the handler of a request that the user ada makes.
func (f *Folder) Inbound(t *testing.T, handle func(ctx context.Context)) (requestID string) {
	t.Helper()
	member, err := f.Join("orders-service")
	require.NoError(t, err)
	chain, err := member.Chain(meshtest.ServiceConfig{DisablePolicy: true})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{
		Handler:   chain.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { handle(r.Context()) })),
		TLSConfig: member.TLS().ServerConfig(), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(l, "", "") }()
	frontend := &http.Transport{TLSClientConfig: f.ClientTLS(t, "shop-frontend")}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+l.Addr().String(), http.NoBody)
	require.NoError(t, err)
	r.Header.Set(gatemesh.IdentityHeader, f.Identity(t, "ada"))
	resp, err := frontend.RoundTrip(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	frontend.CloseIdleConnections()
	require.NoError(t, srv.Close())
	assert.ErrorIs(t, <-served, http.ErrServerClosed)
	return resp.Header.Get(gatemesh.RequestIDHeader)
}

// Answer is what a client sees of a response.
type Answer struct {
	Status  int
	Header  http.Header
	Body    string
	Trailer http.Header
}

// String leaves out what differs between two answers to the same request:
// dates, and the fields that gatemesh adds.
func (a Answer) String() string {
	h := a.Header.Clone()
	for _, name := range []string{"Date", gatemesh.RequestIDHeader, "Ratelimit", "Ratelimit-Policy"} {
		h.Del(name)
	}
	var b strings.Builder
	fmt.Fprintln(&b, a.Status)
	_ = h.Write(&b) // a Builder has no errors
	fmt.Fprintln(&b, a.Body)
	_ = a.Trailer.Write(&b)
	return b.String()
}

// Do makes a request with a client of its own that follows no redirects.
func Do(t *testing.T, method, url string, fields ...string) Answer {
	t.Helper()
	var body io.Reader = http.NoBody
	if method == http.MethodPost {
		body = strings.NewReader("the body")
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(r)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return Answer{resp.StatusCode, resp.Header, string(text), resp.Trailer}
}
