package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/internal/dnstest"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// upstream echoes what it got.
func upstream(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Got-Path", r.RequestURI)
		w.Header().Set("X-Got-Host", r.Host)
		w.Header().Set("X-Got-Key", r.Header.Get("X-Api-Key"))
		w.Header().Set("X-Got-Identity", r.Header.Get(gatemesh.IdentityHeader))
		w.Header().Set("X-Got-Forwarded-For", r.Header.Get("X-Forwarded-For"))
		_, _ = io.WriteString(w, "upstream")
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// startGateway runs the gateway and returns the addresses of its servers.
func startGateway(t *testing.T, args ...string) map[string]net.Addr {
	t.Helper()
	return startWith(t, func(*options) {}, args...)
}

// startWith is startGateway with what no flag can change.
func startWith(t *testing.T, change func(*options), args ...string) map[string]net.Addr {
	t.Helper()
	return startLogged(t, io.Discard, change, args...)
}

// startLogged is startWith with a log.
func startLogged(t *testing.T, log io.Writer, change func(*options), args ...string) map[string]net.Addr {
	t.Helper()
	o, err := parseFlags(append([]string{"-listen", "127.0.0.1:0"}, args...), io.Discard)
	require.NoError(t, err)
	change(o)
	return serveWith(t, o, log)
}

// serveWith serves as o says until the test ends.
func serveWith(t *testing.T, o *options, log io.Writer) map[string]net.Addr {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan map[string]net.Addr, 1), make(chan error, 1)
	o.started = func(a map[string]net.Addr) { started <- a }
	go func() { ended <- o.serve(ctx, log) }()
	select {
	case addrs := <-started:
		t.Cleanup(func() {
			cancel()
			assert.NoError(t, <-ended)
		})
		return addrs
	case err := <-ended:
		cancel()
		require.NoError(t, err)
		return nil
	}
}

func get(t *testing.T, client *http.Client, url string, header http.Header) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	r.Header = header
	resp, err := client.Do(r)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp, string(body)
}

func plainClient(t *testing.T) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func file(t *testing.T, name, text string) string {
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// Without -manifests, -upstream default=URL alone makes it a plain proxy.
func TestPlainProxy(t *testing.T) {
	addrs := startGateway(t, "-upstream", "default="+upstream(t), "-health", "127.0.0.1:0", "-admin", "127.0.0.1:0")
	client := plainClient(t)
	resp, body := get(t, client, "http://"+addrs["public"].String()+"/a/%7Eb?q=1", http.Header{"X-Forwarded-For": {"203.0.113.9"}})
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, "upstream", body)
	assert.Equal(t, "/a/~b?q=1", resp.Header.Get("X-Got-Path"), "the canonical path is forwarded")
	assert.Equal(t, "127.0.0.1", resp.Header.Get("X-Got-Forwarded-For"))
	assert.Len(t, resp.Header.Values("X-Request-Id"), 1)

	resp, _ = get(t, client, "http://"+addrs["health"].String()+"/readyz", nil)
	assert.Equal(t, 200, resp.StatusCode)
	_, body = get(t, client, "http://"+addrs["admin"].String()+"/config", nil)
	assert.Contains(t, body, `"entry"`)
	assert.Contains(t, body, `"route"`)
}

// The pods of a headless service listen at a port that its address records do
// not say, and the SRV record does; the manifests have that of the service.
func TestUpstreamBySRV(t *testing.T) {
	dns, err := dnstest.New()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, dns.Close()) })
	at := netip.MustParseAddrPort(strings.TrimPrefix(upstream(t), "http://"))
	dns.Set("pod-1.user-service.production.svc.cluster.local", at.Addr())
	dns.SetSRV("_http._tcp.user-service.production.svc.cluster.local",
		dnstest.SRV{Target: "pod-1.user-service.production.svc.cluster.local", Port: at.Port()})
	addrs := startWith(t, func(o *options) { o.resolver = dns.Resolver() },
		"-upstream", "default=http://_http._tcp.user-service.production.svc.cluster.local")
	resp, body := get(t, plainClient(t), "http://"+addrs["public"].String()+"/a", nil)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, "upstream", body)
}

func TestAPIKeysAndRate(t *testing.T) {
	keys := file(t, "keys.txt", "acme-1 acme "+auth.HashKey("secret-of-acme-0123456789")+"\n")
	private := file(t, "identity.pem", identityKey(t))
	addrs := startGateway(t, "-upstream", "default="+upstream(t), "-api-keys", keys, "-rate", "2/1h", "-identity-key", private, "-admin", "127.0.0.1:0")
	client, url := plainClient(t), "http://"+addrs["public"].String()+"/"
	resp, _ := get(t, client, url, nil)
	assert.Equal(t, 401, resp.StatusCode)
	key := http.Header{"X-Api-Key": {"secret-of-acme-0123456789"}}
	for range 2 {
		resp, _ = get(t, client, url, key)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Empty(t, resp.Header.Get("X-Got-Key"), "the key is for the gateway")
		assert.NotEmpty(t, resp.Header.Get("X-Got-Identity"))
	}
	resp, _ = get(t, client, url, key)
	assert.Equal(t, 429, resp.StatusCode)
	_, jwks := get(t, client, "http://"+addrs["admin"].String()+"/jwks.json", nil)
	assert.Contains(t, jwks, `"Ed25519"`)
}

// A key that is taken out of the file is refused soon, and a new one passes.
func TestAPIKeysAreFollowed(t *testing.T) {
	line := func(id, secret string) string { return id + " acme " + auth.HashKey(secret) + "\n" }
	const first, second = "first-secret-of-acme-0123456789", "second-secret-of-acme-012345678"
	keys := file(t, "keys.txt", line("a", first))
	addrs := startWith(t, func(o *options) { o.reread = 10 * time.Millisecond }, "-upstream", "default="+upstream(t), "-api-keys", keys)
	client, url := plainClient(t), "http://"+addrs["public"].String()+"/"
	status := func(secret string) int {
		resp, _ := get(t, client, url, http.Header{"X-Api-Key": {secret}})
		return resp.StatusCode
	}
	require.Equal(t, []int{200, 401}, []int{status(first), status(second)})
	require.NoError(t, os.WriteFile(keys+".new", []byte(line("b", second)), 0o600))
	require.NoError(t, os.Rename(keys+".new", keys))
	require.Eventually(t, func() bool { return status(second) == 200 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, 401, status(first))
}

func identityKey(t *testing.T) string {
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func TestManifestsOverTLS(t *testing.T) {
	ca, err := devca.New("cluster.local")
	require.NoError(t, err)
	cert, err := ca.ServerCertificate("api.example.com")
	require.NoError(t, err)
	certPEM, keyPEM, err := devca.EncodePEM(cert)
	require.NoError(t, err)
	v1, v2 := upstream(t), upstream(t)
	addrs := startGateway(t, "-manifests", "../platform/manifests", "-workload", "main-gateway.production",
		"-upstream", "user-service/v1="+v1, "-upstream", "user-service.production/v2:8080="+v2, "-upstream", "order-service="+v1,
		"-tls-cert", file(t, "cert.pem", string(certPEM)), "-tls-key", file(t, "key.pem", string(keyPEM)))
	tr := &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addrs["public"].String())
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	client := &http.Client{Transport: tr}
	resp, _ := get(t, client, "https://api.example.com/v1/users/1", nil)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, 2, resp.ProtoMajor)
	assert.Equal(t, "api.example.com", resp.Header.Get("X-Got-Host"))
	resp, _ = get(t, client, "https://api.example.com/v2/users/1", nil)
	assert.Equal(t, 404, resp.StatusCode)
}

// Every mistake ends in a line that names it, and in no server.
func TestMistakes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	bad := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bad, "r.yaml"), []byte("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: r\nspec:\n  hostname: [a.example]\n"), 0o600))
	missing := filepath.Join(bad, "missing")
	const known = "no route goes there; routes go to order-service.production:8080, user-service.production/v1:8080, user-service.production/v2:8080"
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"nothing to do", nil, []string{"nothing to do: give -manifests DIR, or -upstream default=URL for a plain reverse proxy"}},
		{"argument", []string{"serve"}, []string{`unexpected argument "serve"; all settings are flags, see -h`}},
		{"empty flag", []string{"-upstream", "default=http://x", "-api-keys", ""}, []string{"-api-keys is given and empty"}},
		{"certificate alone", []string{"-upstream", "default=http://x", "-tls-cert", "c"}, []string{"-tls-cert needs -tls-key"}},
		{"key alone", []string{"-upstream", "default=http://x", "-tls-key", "k"}, []string{"-tls-key needs -tls-cert"}},
		{"pairs", []string{"-upstream", "default=http://x", "-tls-cert", "c", "-tls-cert", "d", "-tls-key", "k"}, []string{"-tls-cert is given 2 times, -tls-key 1 times"}},
		{"empty pair", []string{"-upstream", "default=http://x", "-tls-cert", ""}, []string{`invalid value "" for flag -tls-cert: is empty`}},
		{"empty folder", []string{"-upstream", "default=http://x", "-tls-dir", ""}, []string{"-tls-dir is given and empty"}},
		{"clients without TLS", []string{"-upstream", "default=http://x", "-tls-client-ca", "c"}, []string{"-tls-client-ca and -tls-default need -tls-cert or -tls-dir"}},
		{"default without TLS", []string{"-upstream", "default=http://x", "-tls-default", "c"}, []string{"-tls-client-ca and -tls-default need -tls-cert or -tls-dir"}},
		{"clients of nobody", []string{"-upstream", "default=http://x", "-tls-dir", missing, "-tls-client-auth", "optional"}, []string{"-tls-client-auth optional needs -tls-client-ca"}},
		{"clients in no way", []string{"-upstream", "default=http://x", "-tls-client-auth", ""}, []string{`-tls-client-auth "": must be required or optional`}},
		{"folder", []string{"-upstream", "default=http://x", "-tls-dir", missing}, []string{"EdgeConfig.Folder", missing}},
		{"mesh in part", []string{"-upstream", "default=http://x", "-mesh-cert", "c"}, []string{"-mesh-cert, -mesh-key and -mesh-ca go together"}},
		{"flag", []string{"-rate", "many"}, []string{`invalid value "many" for flag -rate`}},
		{"upstream", []string{"-upstream", "default"}, []string{"must be name[.namespace][/subset][:port]=URL"}},
		{"upstream port", []string{"-upstream", "a:0=http://x"}, []string{`"0" is not a port`}},
		{"upstream URLs", []string{
			"-upstream", "default=ftp://x", "-upstream", "default/a=http://%zz", "-upstream", "default/b=http://", "-upstream", "default/c=http://x/path",
			"-upstream", "default.shop/d:80=http://user:secret@x",
		}, []string{
			"-upstream default: the URL must start with http://, https:// or h2c://", "-upstream default/a: the URL is malformed",
			"-upstream default/b: the URL must have a valid host",
			"-upstream default/c: the URL must be a scheme and a host alone: no user, path, query or fragment",
			"-upstream default.shop/d:80: the URL must be a scheme and a host alone",
		}},
		{"upstream twice", []string{"-upstream", "default=http://x", "-upstream", "default=http://x:80"}, []string{"-upstream default: is given twice with the same URL"}},
		{"upstream by two schemes", []string{"-upstream", "default=http://x", "-upstream", "default=https://x"}, []string{"-upstream default: some URLs are http and some https"}},
		{"upstream by SRV and more", []string{"-upstream", "default=http://x", "-upstream", "default=http://_http._tcp.x"}, []string{"-upstream default: an SRV name says all endpoints there are"}},
		{"second upstream faulty", []string{"-upstream", "default=http://x", "-upstream", "default=http://x/y"}, []string{"-upstream default: the URL must be a scheme and a host alone"}},
		{"second upstream in plain text", []string{"-upstream", "default=http://127.0.0.1:1", "-upstream", "default=http://10.1.2.3", "-api-keys", file(t, "k2.txt", "a a "+auth.HashKey("secret-of-acme-0123456789")+"\n"), "-identity-key", file(t, "k2.pem", identityKey(t))},
			[]string{"-upstream default: http://10.1.2.3 is plain text"}},
		{"upstream twice, with everything", []string{"-manifests", "../platform/manifests", "-upstream", "user-service.production/v1:8080=http://x", "-upstream", "user-service.production/v1:8080=http://x"},
			[]string{"-upstream user-service.production/v1:8080: is given twice"}},
		{"upstream without manifests", []string{"-upstream", "default=http://x", "-upstream", "orders=http://y"},
			[]string{"-upstream orders: nothing goes there: without -manifests, everything goes to default"}},
		{"upstream with a slip", []string{"-upstream", "defualt=http://x"}, []string{"-upstream defualt: nothing goes there", "nothing to do"}},
		{"upstreams without a route", []string{
			"-manifests", "../platform/manifests", "-upstream", "user-servce=http://x", "-upstream", "user-service/v3=http://x",
			"-upstream", "order-service.staging=http://x", "-upstream", "order-service:8081=http://x", "-upstream", "default=http://x",
		}, []string{
			"-upstream user-servce: " + known, "-upstream user-service/v3: " + known, "-upstream order-service.staging: " + known,
			"-upstream order-service:8081: " + known, "-upstream default: " + known,
		}},
		{"duration without a unit", []string{"-lame-duck", "5"}, []string{`invalid value "5" for flag -lame-duck: must be a number and its unit, such as 5s, 500ms or 1m30s`}},
		{"duration without a number", []string{"-drain", "soon"}, []string{`invalid value "soon" for flag -drain: must be a number and its unit`}},
		{"negative duration", []string{"-drain", "-5s"}, []string{`invalid value "-5s" for flag -drain: must not be negative`}},
		{"no drain", []string{"-upstream", "default=http://x", "-drain", "0s"}, []string{"-drain must be longer than 0"}},
		{"SRV with a port", []string{"-upstream", "default=http://_http._tcp.x:80"}, []string{"has a port, which its SRV record says"}},
		{"SRV that is none", []string{"-upstream", "default=http://_http..x"}, []string{"DNSConfig.SRV"}},
		{"port taken", []string{"-upstream", "default=http://x", "-listen", taken.Addr().String()},
			[]string{"serve: public: listen tcp " + taken.Addr().String() + ": bind: address already in use"}},
		{"manifest field", []string{"-manifests", bad}, []string{"r.yaml:6:", "hostname"}},
		{"listener without certificate", []string{"-manifests", "../platform/manifests"},
			[]string{"gateway.yaml:11: listener https: HTTPS takes -tls-cert and -tls-key, or -tls-dir, HTTP takes none of them"}},
		{"all at once", []string{
			"-manifests", missing, "-api-keys", missing, "-tls-cert", missing, "-tls-key", missing,
			"-jwks", missing, "-identity-key", missing,
		}, []string{
			missing, "auth: key file:", "-jwks: auth:", "mtls: open", "-issuer is required with -jwks", "-audience is required with -jwks", "-algs is required with -jwks",
		}},
		{"rate without auth", []string{"-upstream", "default=http://x", "-rate", "1/1s"}, []string{"-rate counts consumers"}},
		{"issuer without jwks", []string{"-upstream", "default=http://x", "-issuer", "i"}, []string{"which takes -jwks"}},
		{"identity without auth", []string{"-upstream", "default=http://x", "-identity-key", file(t, "k.pem", identityKey(t))}, []string{"-identity-key signs who was authenticated"}},
		{"identity in plain text", []string{"-upstream", "default=http://10.1.2.3", "-api-keys", file(t, "k.txt", "a a "+auth.HashKey("secret-of-acme-0123456789")+"\n"), "-identity-key", file(t, "k.pem", identityKey(t))},
			[]string{"-upstream default: http://10.1.2.3 is plain text, and -identity-key would send identities over it"}},
		{"admin for everybody", []string{"-upstream", "default=http://x", "-admin", ":9901"}, []string{"-admin :9901: must be a loopback address"}},
		{"not PEM", []string{"-upstream", "default=http://x", "-identity-key", file(t, "k.pem", "x")}, []string{"k.pem: not PEM"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			err := run(ctx, c.args, io.Discard)
			require.Error(t, err)
			for _, want := range c.want {
				assert.Contains(t, oneLine(err), want)
			}
			assert.NotContains(t, err.Error(), "secret")
			assert.NotContains(t, err.Error(), "Config.Upstreams", "the operator has written flags")
			for _, line := range strings.Split(oneLine(err), "\n") {
				assert.True(t, strings.HasPrefix(line, "gateway: "), line)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	var text strings.Builder
	require.Error(t, run(t.Context(), []string{"-h"}, &text))
	assert.Regexp(t, `(?m)^  -lame-duck duration\n.+close$`, text.String())
	assert.Regexp(t, `(?m)^  -drain duration\n.+\(default 20s\)$`, text.String())
	for _, flag := range []string{"-listen", "-admin", "-health", "-manifests", "-upstream", "-jwks", "-issuer", "-audience", "-algs", "-api-keys", "-rate", "-tls-cert", "-tls-key", "-tls-dir", "-tls-default", "-tls-client-ca", "-tls-client-auth"} {
		assert.Regexp(t, `(?m)^  `+flag+` .+\n    \t.{10,}`, text.String(), "-h explains each flag")
	}
}
