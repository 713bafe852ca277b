package devca_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// socket returns a short path in a folder that does not exist yet.
func socket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gm")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "ca", "s")
}

func newServer(t testing.TB, cfg devca.ServerConfig) *devca.Server {
	t.Helper()
	s, err := devca.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func request(t testing.TB, key any, uris ...string) []byte {
	t.Helper()
	template := &x509.CertificateRequest{DNSNames: []string{"bank.example"}}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		require.NoError(t, err)
		template.URIs = append(template.URIs, parsed)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	require.NoError(t, err)
	return csr
}

func overSocket(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
}

func TestNewServer_Invalid(t *testing.T) {
	t.Parallel()
	_, err := devca.NewServer(devca.ServerConfig{
		Lifetime: -1, Allow: []string{"x"}, Socket: "@abstract",
	})
	for _, want := range []string{"CA", "Lifetime", "Allow", "Socket"} {
		assert.ErrorContains(t, err, "ServerConfig."+want)
	}
	ca := gatemesh.Must(devca.New("cluster.local"))
	_, err = devca.NewServer(devca.ServerConfig{CA: ca, Allow: []string{"spiffe://other/a"}})
	assert.ErrorContains(t, err, "ServerConfig.Allow")

	path := socket(t)
	for _, addr := range []string{"127.0.0.1:0", ":8080", "tcp://0.0.0.0:1", "relative.sock"} {
		_, err = devca.NewServer(devca.ServerConfig{CA: ca, Socket: addr})
		assert.ErrorContains(t, err, "absolute", "nothing but a unix socket: %s", addr)
	}
	_, err = devca.NewServer(devca.ServerConfig{CA: ca, Socket: filepath.Dir(filepath.Dir(path)) + strings.Repeat("/long", 30)})
	assert.Error(t, err)

	open := filepath.Join(filepath.Dir(filepath.Dir(path)), "open")
	require.NoError(t, os.Mkdir(open, 0o755))
	_, err = devca.NewServer(devca.ServerConfig{CA: ca, Socket: filepath.Join(open, "s")})
	assert.ErrorContains(t, err, "0700")
	synctest.Test(t, func(t *testing.T) { // has time for all attempts, however slow the machine is
		_, err = devca.NewClient(t.Context(), devca.ClientConfig{ID: id, Socket: filepath.Join(open, "s")})
		assert.ErrorContains(t, err, "0700", "a client does not trust what anybody may have put there")
	})
}

func TestNewServer_Socket(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("cluster.local"))
	path := socket(t)
	first := newServer(t, devca.ServerConfig{CA: ca, Socket: path})
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		assert.Equal(t, want, info.Mode().Perm(), name)
	}
	_, err := devca.NewServer(devca.ServerConfig{CA: ca, Socket: path})
	assert.ErrorContains(t, err, "served already")
	require.NoError(t, first.Close())
	assert.NoFileExists(t, path)

	// What a server that was killed leaves.
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	require.NoError(t, newServer(t, devca.ServerConfig{CA: ca, Socket: path}).Close())

	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
	_, err = devca.NewServer(devca.ServerConfig{CA: ca, Socket: path})
	assert.ErrorContains(t, err, "no socket")
	assert.FileExists(t, path)
}

// TestServer_Refuses sends what no Client would.
func TestServer_Refuses(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("cluster.local"))
	path := socket(t)
	var heard events
	newServer(t, devca.ServerConfig{CA: ca, Socket: path, Observer: &heard, Allow: []string{id, "spiffe://cluster.local/b"}})
	key := gatemesh.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	other := gatemesh.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	weak := gatemesh.Must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	rsaKey := gatemesh.Must(rsa.GenerateKey(rand.Reader, 2048))
	good := request(t, key, id)
	// A request with the public key of somebody else, signed with ours.
	stolen := bytes.Replace(good, spki(t, key), spki(t, other), 1)
	require.NotEqual(t, good, stolen)

	for name, test := range map[string]struct {
		body   []byte
		status int
	}{
		"good":                     {good, 200},
		"nothing":                  {nil, 400},
		"no request":               {[]byte("x"), 400},
		"no proof of possession":   {stolen, 400},
		"no id":                    {request(t, key), 400},
		"two ids":                  {request(t, key, id, "spiffe://cluster.local/b"), 400},
		"no SPIFFE id":             {request(t, key, "https://cluster.local/b"), 400},
		"a weak curve":             {request(t, weak, id), 400},
		"RSA":                      {request(t, rsaKey, id), 400},
		"the trust domain itself":  {request(t, key, "spiffe://cluster.local"), 400},
		"an id that is not listed": {request(t, key, "spiffe://cluster.local/c"), 403},
		"another trust domain":     {request(t, key, "spiffe://other.example/b"), 403},
		"too long":                 {append(bytes.Clone(good), make([]byte, 16<<10)...), 413},
	} {
		before := heard.notices.Load()
		resp, err := overSocket(path).Post("http://devca/v1/certificate", "", bytes.NewReader(test.body))
		require.NoError(t, err, name)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err, name)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, test.status, resp.StatusCode, name)
		assert.Equal(t, test.status == 200, bytes.Contains(body, []byte(`"certificate"`)), name)
		assert.EqualValues(t, 1, heard.notices.Load()-before, name)
	}
}

// A key that will not be certified is not worked with: checking a signature with
// a large RSA key takes long.
func TestParseRequest_KeyBeforeSignature(t *testing.T) {
	t.Parallel()
	der := request(t, gatemesh.Must(rsa.GenerateKey(rand.Reader, 2048)), id)
	der[len(der)-1] ^= 1 // of the signature
	_, _, err := devca.ParseRequest(der)
	assert.ErrorContains(t, err, "*rsa.PublicKey is not supported")
}

// TestPrivate has folders that are not for us alone.
func TestPrivate(t *testing.T) {
	t.Parallel()
	dir, us := filepath.Dir(filepath.Dir(socket(t))), os.Geteuid()
	require.NoError(t, devca.Private(dir, us))
	assert.ErrorContains(t, devca.Private(dir, us+1), "belongs to", "its owner could put another socket there")
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(dir, link))
	assert.ErrorContains(t, devca.Private(link, us), "not a folder", "it could lead elsewhere the next time")
}

func spki(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	return der
}

// TestServer_TakesOnlyKeyAndID asks for more than an id.
func TestServer_TakesOnlyKeyAndID(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("cluster.local"))
	path := socket(t)
	newServer(t, devca.ServerConfig{CA: ca, Socket: path})
	c, err := devca.NewClient(t.Context(), devca.ClientConfig{ID: id, Socket: path})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	leaf := c.Credentials().Certificate.Leaf
	assert.Empty(t, leaf.DNSNames)
	assert.False(t, leaf.IsCA)
	assert.Equal(t, x509.KeyUsageDigitalSignature, leaf.KeyUsage)
	assert.Equal(t, id, leaf.URIs[0].String())

	key := gatemesh.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	resp, err := overSocket(path).Post("http://devca/v1/certificate", "", bytes.NewReader(request(t, key, id)))
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.NotContains(t, string(body), "bank", "the DNS name of the request")

	resp, err = overSocket(path).Post("http://devca/v1/certificate", "", bytes.NewReader(request(t, key, "spiffe://other.example/a")))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, 403, resp.StatusCode, "whatever is allowed, another trust domain is not ours")
}

func FuzzParseRequest(f *testing.F) {
	key := gatemesh.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	f.Add(request(f, key, id))
	f.Add(request(f, key, id, id))
	f.Add(request(f, key, "spiffe://cluster.local"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		got, public, err := devca.ParseRequest(der)
		if err != nil {
			return
		}
		again, err := mtls.ParseID(got.String())
		require.NoError(t, err)
		assert.Equal(t, again, got)
		csr, err := x509.ParseCertificateRequest(der)
		require.NoError(t, err)
		assert.NoError(t, csr.CheckSignature())
		assert.Equal(t, csr.PublicKey, public)
	})
}
