package mtls_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	domain = "td.example"
	callee = "spiffe://td.example/ns/prod/sa/callee"
	caller = "spiffe://td.example/ns/prod/sa/caller"
)

// authority signs whatever it is given, unlike devca.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	return sign(t, authority{}, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "root"}
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
		c.NotAfter = time.Now().Add(24 * time.Hour)
	})
}

// sign makes a certificate with a new key, signed by parent or by itself.
func sign(t testing.TB, parent authority, change func(*x509.Certificate)) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	change(template)
	if template.IsCA {
		template.ExtKeyUsage = nil
	}
	if parent.cert == nil {
		parent = authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return authority{cert, key}
}

func (a authority) leaf(t testing.TB, ids ...string) tls.Certificate {
	t.Helper()
	return a.leafWith(t, func(*x509.Certificate) {}, ids...)
}

func (a authority) leafWith(t testing.TB, change func(*x509.Certificate), ids ...string) tls.Certificate {
	t.Helper()
	l := sign(t, a, func(c *x509.Certificate) {
		for _, id := range ids {
			c.URIs = append(c.URIs, &url.URL{Opaque: id}) // String returns it as it is
		}
		change(c)
	})
	return l.tls()
}

func (a authority) tls(rest ...authority) tls.Certificate {
	c := tls.Certificate{Certificate: [][]byte{a.cert.Raw}, PrivateKey: a.key, Leaf: a.cert}
	for _, r := range rest {
		c.Certificate = append(c.Certificate, r.cert.Raw)
	}
	return c
}

func bundles(t testing.TB, roots ...authority) *mtls.Bundles {
	t.Helper()
	var certs []*x509.Certificate
	for _, r := range roots {
		certs = append(certs, r.cert)
	}
	b, err := mtls.NewBundles(map[string][]*x509.Certificate{domain: certs})
	require.NoError(t, err)
	return b
}

// source is a Source that tests change by hand.
type source struct {
	atomic.Pointer[mtls.Credentials]
}

func (s *source) Credentials() *mtls.Credentials { return s.Load() }

func newSource(t testing.TB, cert tls.Certificate, b *mtls.Bundles) *source {
	t.Helper()
	c, err := mtls.NewCredentials(cert, b)
	require.NoError(t, err)
	s := &source{}
	s.Store(c)
	return s
}

func (s *source) trust(t testing.TB, b *mtls.Bundles) {
	t.Helper()
	c, err := mtls.NewCredentials(s.Load().Certificate, b)
	require.NoError(t, err)
	s.Store(c)
}

func member(t testing.TB) mtls.Authorizer {
	t.Helper()
	a, err := mtls.MemberOf(domain)
	require.NoError(t, err)
	return a
}

func deny(*gatemesh.Peer) error { return errors.New("not today") }

func newTLS(t testing.TB, s mtls.Source) *mtls.TLS {
	t.Helper()
	m, err := mtls.New(mtls.Config{Source: s, Authorize: member(t)})
	require.NoError(t, err)
	return m
}

// pair returns the two ends of a mesh with one root.
func pair(t testing.TB) (root authority, server, client *mtls.TLS, serverSource, clientSource *source) {
	t.Helper()
	root = newAuthority(t)
	serverSource = newSource(t, root.leaf(t, callee), bundles(t, root))
	clientSource = newSource(t, root.leaf(t, caller), bundles(t, root))
	return root, newTLS(t, serverSource), newTLS(t, clientSource), serverSource, clientSource
}

// received is what a server's handshake with the holder of cert leaves behind.
func received(certs ...tls.Certificate) *tls.ConnectionState {
	cs := &tls.ConnectionState{HandshakeComplete: true}
	for _, c := range certs {
		for _, der := range c.Certificate {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				panic(err)
			}
			cs.PeerCertificates = append(cs.PeerCertificates, cert)
		}
	}
	return cs
}

// serve runs an HTTPS server on a real socket and counts its connections.
func serve(t testing.TB, cfg *tls.Config, http2 bool, h http.Handler) (addr string, conns *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	conns = &atomic.Int64{}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(http2)
	srv := &http.Server{
		Handler: h, TLSConfig: cfg, Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				conns.Add(1)
			}
		},
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.ServeTLS(l, "", "") })
	t.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
	})
	return l.Addr().String(), conns
}

// mesh is the handler behind Entry and the peer gate.
func mesh(t testing.TB, m *mtls.TLS, h http.HandlerFunc) http.Handler {
	t.Helper()
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{Peer: m.Peer})
	require.NoError(t, err)
	chain, err := gatemesh.NewChain(entry, m.Layer())
	require.NoError(t, err)
	return chain.Handler(h)
}

func transport(t testing.TB, m *mtls.TLS, a mtls.Authorizer) *mtls.Transport {
	t.Helper()
	tr, err := m.Transport(a)
	require.NoError(t, err)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func exactly(t testing.TB, id string) mtls.Authorizer {
	t.Helper()
	a, err := mtls.Exactly(id)
	require.NoError(t, err)
	return a
}

// get returns the status, protocol and body of a GET of addr.
func get(t testing.TB, rt http.RoundTripper, addr string) (status int, proto, body string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/", nil)
	require.NoError(t, err)
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return 0, "", "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Proto, string(b), err
}

// events collects what an Observer is told.
type events struct {
	mu  sync.Mutex
	all []gatemesh.Event
}

func (e *events) Observe(_ context.Context, ev gatemesh.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

// take returns the events since the last time.
func (e *events) take() []gatemesh.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.all
	e.all = nil
	return all
}

// leafURI returns a leaf with a URI SAN that crypto/x509 may refuse to parse,
// in which case it is nil.
func (a authority) leafURI(t testing.TB, uri string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		URIs: []*url.URL{{Opaque: uri}},
	}, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	if _, err := x509.ParseCertificate(der); err != nil {
		return nil
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
