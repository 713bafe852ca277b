package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// logbook is what a service writes, for tests that wait for a line of it.
type logbook struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	news chan struct{} // closed and replaced with every write
}

func newLogbook() *logbook { return &logbook{news: make(chan struct{})} }

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.news)
	l.news = make(chan struct{})
	return l.buf.Write(b)
}

// count returns how many lines have all of parts, and a channel for more.
func (l *logbook) count(parts ...string) (n int, news chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
lines:
	for line := range strings.Lines(l.buf.String()) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue lines
			}
		}
		n++
	}
	return n, l.news
}

// wait waits until n lines have all of parts.
func (l *logbook) wait(t *testing.T, n int, parts ...string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		got, news := l.count(parts...)
		if got >= n {
			return
		}
		select {
		case <-news:
		case <-late:
			l.mu.Lock()
			defer l.mu.Unlock()
			require.FailNow(t, "no such line", "%q in\n%s", parts, l.buf.String())
		}
	}
}

// world is everything a service finds on its machine.
type world struct {
	t           *testing.T
	dir         string
	ca          *devca.CA
	self, order *devca.Source
	minter      *identity.Minter
}

const paymentPolicy = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payments, namespace: production}
spec:
  selector: {matchLabels: {app: payment-service}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/production/sa/order-service]}}]
    to: [{operation: {methods: [POST], paths: [/v1/payments/*]}}]
`

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), ca: gatemesh.Must(devca.New("cluster.local"))}
	source := func(name string) *devca.Source {
		s, err := w.ca.Source(devca.WorkloadConfig{ID: "spiffe://cluster.local/ns/production/sa/" + name})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, s.Close()) })
		return s
	}
	w.self, w.order = source("payment-service"), source("order-service")
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	w.minter, err = identity.NewMinter(identity.MinterConfig{
		Issuer: "https://edge.cluster.local", Audience: []string{"cluster.local"}, Key: identity.SigningKey{Private: private},
	})
	require.NoError(t, err)
	require.NoError(t, w.self.WriteFiles(w.dir))
	w.write("identity.jwks", string(w.minter.JWKS()))
	require.NoError(t, os.Mkdir(filepath.Join(w.dir, "manifests"), 0o700))
	w.write("manifests/policy.yaml", paymentPolicy)
	return w
}

// write replaces a file at once.
func (w *world) write(name, data string) {
	path := filepath.Join(w.dir, name)
	require.NoError(w.t, os.WriteFile(path+".new", []byte(data), 0o600))
	require.NoError(w.t, os.Rename(path+".new", path))
}

func (w *world) flags(more ...string) []string {
	return append([]string{
		"-listen", "127.0.0.1:0", "-reload", "20ms", "-manifests", filepath.Join(w.dir, "manifests"),
		"-identity-jwks", filepath.Join(w.dir, "identity.jwks"), "-identity-issuer", "https://edge.cluster.local",
	}, more...)
}

// start runs the service until the test ends.
func (w *world) start(args []string) (addr string, logs *logbook) {
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan map[string]net.Addr, 1), make(chan error, 1)
	logs = newLogbook()
	go func() { ended <- run(ctx, args, logs, func(a map[string]net.Addr) { started <- a }) }()
	w.t.Cleanup(func() {
		cancel()
		assert.NoError(w.t, <-ended)
	})
	select {
	case a := <-started:
		return a["payment-service"].String(), logs
	case err := <-ended:
		ended <- nil
		require.NoError(w.t, err)
		return "", nil
	}
}

// ask makes a call as order-service over conns of their own, or in plain text,
// and returns status and body.
func (w *world) ask(addr, scheme string) (int, map[string]string, error) {
	cert := w.order.Credentials().Certificate
	tr := &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13,
	}}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, scheme+"://"+addr+"/v1/payments/7", http.NoBody)
	require.NoError(w.t, err)
	token, err := mint(w.minter)
	require.NoError(w.t, err)
	r.Header.Set(gatemesh.IdentityHeader, token)
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, nil, err
	}
	var body map[string]string
	_ = json.Unmarshal(data, &body) // a refusal has another shape
	return resp.StatusCode, body, nil
}

const (
	loaded = `manifests are in use"`
	broken = `"level":"ERROR"`
)

// Policies, modes, certificates and keys change under a running service.
func TestLive(t *testing.T) {
	w := newWorld(t)
	addr, logs := w.start(w.flags("-cert", filepath.Join(w.dir, "tls.crt"), "-key", filepath.Join(w.dir, "tls.key"), "-ca", filepath.Join(w.dir, "ca.crt")))
	status := func(scheme string) int {
		code, _, err := w.ask(addr, scheme)
		require.NoError(t, err)
		return code
	}
	defer func() {
		if t.Failed() {
			t.Log(logs.buf.String())
		}
	}()
	assert.Equal(t, 201, status("https"))
	// What net/http says to plain text on a TLS connection, if it arrives.
	refused := func() bool {
		code, _, err := w.ask(addr, "http")
		return err != nil || code == http.StatusBadRequest
	}
	assert.True(t, refused(), "no plain text unless somebody says so")

	// A policy that allows nobody, then one that is broken, then the first one.
	w.write("manifests/policy.yaml", paymentPolicy[:strings.Index(paymentPolicy, "  rules:")])
	logs.wait(t, 1, loaded)
	assert.Equal(t, 403, status("https"))
	w.write("manifests/policy.yaml", strings.Replace(paymentPolicy, "methods: [POST]", "method: [POST]", 1))
	logs.wait(t, 1, broken, "policy.yaml:8")
	assert.Equal(t, 403, status("https"), "the last good set stays")
	w.write("manifests/policy.yaml", paymentPolicy)
	logs.wait(t, 2, loaded)
	assert.Equal(t, 201, status("https"))

	// PERMISSIVE lets plain text in, and the policy sees that nobody is there.
	const peers = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: production}\nspec: {mtls: {mode: MODE}}\n"
	w.write("manifests/peers.yaml", strings.Replace(peers, "MODE", "PERMISSIVE", 1))
	logs.wait(t, 3, loaded)
	assert.Equal(t, 201, status("https"))
	assert.Equal(t, 403, status("http"))
	w.write("manifests/policy.yaml", strings.Replace(paymentPolicy, "principals: [cluster.local/ns/production/sa/order-service]", "ipBlocks: [127.0.0.0/8]", 1))
	logs.wait(t, 4, loaded)
	code, body, err := w.ask(addr, "http")
	require.NoError(t, err)
	assert.Equal(t, 201, code)
	assert.Equal(t, "unknown", body["caller"])
	w.write("manifests/peers.yaml", strings.Replace(peers, "MODE", "STRICT", 1))
	w.write("manifests/policy.yaml", paymentPolicy)
	logs.wait(t, 5, loaded)
	assert.True(t, refused())

	// A new root is trusted, and then everybody has a certificate of it.
	require.NoError(t, w.ca.Rotate())
	require.NoError(t, w.self.WriteFiles(w.dir))
	logs.wait(t, 1, `"msg":"certificate files loaded"`)
	require.NoError(t, w.order.Renew())
	assert.Equal(t, 201, status("https"))
	require.NoError(t, w.self.Renew())
	require.NoError(t, w.self.WriteFiles(w.dir))
	logs.wait(t, 2, `"msg":"certificate files loaded"`)
	assert.Equal(t, 201, status("https"))

	// The edge signs with another key.
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	require.NoError(t, w.minter.Update(identity.MinterConfig{
		Issuer: "https://edge.cluster.local", Audience: []string{"cluster.local"}, Key: identity.SigningKey{Private: private},
	}))
	assert.Equal(t, 401, status("https"), "nobody has told the service")
	w.write("identity.jwks", string(w.minter.JWKS()))
	logs.wait(t, 1, `"msg":"identity keys loaded"`)
	assert.Equal(t, 201, status("https"))
}

// Two processes with certificates of one development CA.
func TestDevCA(t *testing.T) {
	w := newWorld(t)
	private := filepath.Join(w.dir, "private")
	require.NoError(t, os.Mkdir(private, 0o700))
	socket := filepath.Join(private, "ca.sock")
	server, err := devca.NewServer(devca.ServerConfig{CA: w.ca, Socket: socket})
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Close()) }()
	addr, _ := w.start(w.flags("-dev-ca", socket))
	code, body, err := w.ask(addr, "https")
	require.NoError(t, err)
	assert.Equal(t, 201, code)
	assert.Equal(t, "spiffe://cluster.local/ns/production/sa/order-service", body["caller"])
}

func TestOneSourceOfCertificates(t *testing.T) {
	for _, args := range [][]string{{"-spire", "unix:///x", "-cert", "x"}, {"-spire", "unix:///x", "-dev-ca", "x"}, {"-dev-ca", "x", "-key", "x"}} {
		assert.ErrorContains(t, run(t.Context(), args, io.Discard, nil), "certificates come from one source", args)
	}
}
