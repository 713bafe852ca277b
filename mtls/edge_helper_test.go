package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls"
)

func newEdge(t testing.TB, cfg mtls.EdgeConfig) *mtls.Edge {
	t.Helper()
	e, err := mtls.NewEdge(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// site returns the certificate of a web site.
func (a authority) site(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	return a.siteWith(t, func(*x509.Certificate) {}, names...)
}

func (a authority) siteWith(t testing.TB, change func(*x509.Certificate), names ...string) tls.Certificate {
	t.Helper()
	return a.leafWith(t, func(c *x509.Certificate) {
		for _, n := range names {
			if ip := net.ParseIP(n); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, n)
			}
		}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		change(c)
	})
}

func (a authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a authority) pem(t testing.TB) []byte { return pems(t, a.tls(), nil).cert }

// pairOf writes a certificate into a folder of its own.
func pairOf(t testing.TB, c tls.Certificate) mtls.EdgePair {
	t.Helper()
	return store(t, t.TempDir(), c)
}

func store(t testing.TB, dir string, c tls.Certificate) mtls.EdgePair {
	t.Helper()
	p := pems(t, c, nil)
	pair := mtls.EdgePair{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	put(t, pair.Cert, p.cert)
	put(t, pair.Key, p.key)
	return pair
}

// shake makes one connection in memory, so that it works in a bubble, and
// returns how both ends see it. err is the client's, at whatever moment it came.
func shake(t testing.TB, server, client *tls.Config) (ours, theirs tls.ConnectionState, err error) {
	t.Helper()
	a, b := wire()
	s, c := tls.Server(a, server), tls.Client(b, client)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := s.Write([]byte{1}); err != nil {
			_ = a.Close()
			return
		}
		_, _ = s.Read(make([]byte, 1)) // until the client is gone
		_ = a.Close()
	}()
	_, err = c.Read(make([]byte, 1)) // TLS 1.3 sends tickets, and refuses clients, after the handshake
	theirs = c.ConnectionState()
	_ = b.Close()
	<-done
	return s.ConnectionState(), theirs, err
}

// wire returns the two ends of a connection in memory. Unlike net.Pipe, it lets
// both sides write at the same time, as an alert may cross a certificate.
func wire() (a, b net.Conn) {
	a, b = net.Pipe() // for everything else
	there, back := newDirection(), newDirection()
	return &end{a, there, back}, &end{b, back, there}
}

type direction struct {
	*sync.Cond
	data   []byte
	closed bool
}

func newDirection() *direction { return &direction{Cond: sync.NewCond(&sync.Mutex{})} }

type end struct {
	net.Conn
	out, in *direction
}

func (e *end) Write(p []byte) (int, error) {
	e.out.L.Lock()
	defer e.out.L.Unlock()
	if e.out.closed {
		return 0, net.ErrClosed
	}
	e.out.data = append(e.out.data, p...)
	e.out.Broadcast()
	return len(p), nil
}

func (e *end) Read(p []byte) (int, error) {
	e.in.L.Lock()
	defer e.in.L.Unlock()
	for len(e.in.data) == 0 {
		if e.in.closed {
			return 0, io.EOF
		}
		e.in.Wait()
	}
	n := copy(p, e.in.data)
	e.in.data = e.in.data[n:]
	return n, nil
}

func (e *end) Close() error {
	for _, d := range []*direction{e.in, e.out} {
		d.L.Lock()
		d.closed = true
		d.Broadcast()
		d.L.Unlock()
	}
	return e.Conn.Close()
}

// visitor is a client who resumes sessions.
func visitor(root authority, version uint16, name string) *tls.Config {
	return &tls.Config{
		RootCAs: root.pool(), ServerName: name, MinVersion: version, MaxVersion: version,
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
}

// resumes reports whether the session was resumed; the connection must be good.
func resumes(t testing.TB, e *mtls.Edge, client *tls.Config) bool {
	t.Helper()
	ours, theirs, err := shake(t, e.TLSConfig(), client)
	require.NoError(t, err)
	require.Equal(t, ours.DidResume, theirs.DidResume)
	return theirs.DidResume
}

// once keeps the ticket it has.
type once struct{ cache tls.ClientSessionCache }

func (o *once) Get(key string) (*tls.ClientSessionState, bool) { return o.cache.Get(key) }
func (o *once) Put(string, *tls.ClientSessionState)            {}

// anywhere is a cache of a client that tries its ticket on everybody.
type anywhere struct{ last *tls.ClientSessionState }

func (a *anywhere) Get(string) (*tls.ClientSessionState, bool) { return a.last, a.last != nil }
func (a *anywhere) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		a.last = s
	}
}
