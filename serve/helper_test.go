package serve_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/serve"
)

// events is a logger whose lines can be waited for.
type events struct {
	mu   sync.Mutex
	seen map[string]chan struct{}
}

func newEvents() *events { return &events{seen: map[string]chan struct{}{}} }

// at is closed when the line has been logged.
func (e *events) at(line string) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.line(line)
}

func (e *events) line(s string) chan struct{} {
	if e.seen[s] == nil {
		e.seen[s] = make(chan struct{})
	}
	return e.seen[s]
}

func (e *events) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (e *events) WithAttrs([]slog.Attr) slog.Handler           { return e }
func (e *events) WithGroup(string) slog.Handler                { return e }

func (e *events) Handle(_ context.Context, r slog.Record) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.line(r.Message)
	select {
	case <-c: // said before
	default:
		close(c)
	}
	return nil
}

// memory is a listener of pipes, for synctest. Also the listener that is of no
// type of package net.
type memory struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemory() *memory {
	return &memory{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error   { m.once.Do(func() { close(m.closed) }); return nil }
func (m *memory) Addr() net.Addr { return &net.TCPAddr{} }

func (m *memory) dial() (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case m.conns <- server:
		return client, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// raw is an HTTP/1.1 client on one connection that never sends anything twice.
type raw struct {
	net.Conn
	r *bufio.Reader
}

func newRaw(c net.Conn, err error) (*raw, error) {
	if err != nil {
		return nil, err
	}
	return &raw{c, bufio.NewReader(c)}, nil
}

func (m *memory) raw(t *testing.T) *raw {
	t.Helper()
	r, err := newRaw(m.dial())
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// secure returns a client on the TLS connection inside of r.
func (r *raw) secure(t *testing.T, config *tls.Config) *raw {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	c, err := newRaw(tls.Client(r.Conn, config), nil)
	require.NoError(t, err)
	return c
}

func (r *raw) send(path string) error {
	_, err := io.WriteString(r, "GET "+path+" HTTP/1.1\r\nHost: test\r\n\r\n")
	return err
}

// answer returns the next answer, with its body read.
func (r *raw) answer() (*http.Response, string, error) {
	resp, err := http.ReadResponse(r.r, nil)
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func (r *raw) get(t *testing.T, path string) (*http.Response, string) {
	t.Helper()
	require.NoError(t, r.send(path))
	resp, body, err := r.answer()
	require.NoError(t, err)
	return resp, body
}

// running is a Run in a synctest bubble, or outside of it with real ports.
type running struct {
	stop context.CancelFunc
	log  *events
	done chan error
}

func run(t *testing.T, cfg serve.Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r := &running{stop: cancel, log: newEvents(), done: make(chan error, 1)}
	cfg.Logger = slog.New(r.log)
	started := make(chan struct{})
	cfg.Started = func(map[string]net.Addr) { close(started) }
	go func() { r.done <- serve.Run(ctx, cfg) }()
	select {
	case <-started:
	case err := <-r.done:
		require.FailNow(t, "did not start", "%v", err)
	}
	return r
}

// selfSigned returns both ends of a TLS connection to "test".
func selfSigned(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: roots, ServerName: "test"}
}

// fakeGRPC says one line per connection. It behaves as grpc-go does where Run
// depends on it.
type fakeGRPC struct {
	accept <-chan struct{} // Serve accepts only after this; nil is at once
	calls  chan struct{}   // GracefulStop returns when it is closed; nil is at once

	mu       sync.Mutex
	graceful time.Time
	stopped  time.Time
	conns    []net.Conn
	wg       sync.WaitGroup
	quit     chan struct{}
}

func newFakeGRPC() *fakeGRPC { return &fakeGRPC{quit: make(chan struct{})} }

func (f *fakeGRPC) Serve(l net.Listener) error {
	if f.accept != nil {
		<-f.accept
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		f.mu.Lock()
		refuse := !f.graceful.IsZero()
		f.conns = append(f.conns, c)
		f.mu.Unlock()
		f.wg.Go(func() {
			if refuse {
				_ = c.Close()
				return
			}
			line, err := bufio.NewReader(c).ReadString('\n')
			if err == nil {
				_, _ = io.WriteString(c, "heard "+line)
			}
			_ = c.Close()
		})
	}
}

func (f *fakeGRPC) GracefulStop() {
	f.mu.Lock()
	f.graceful = time.Now()
	f.mu.Unlock()
	f.wg.Wait() // grpc-go waits for handshakes, too
	if f.calls != nil {
		select {
		case <-f.calls:
		case <-f.quit:
		}
	}
}

func (f *fakeGRPC) Stop() {
	f.mu.Lock()
	f.stopped = time.Now()
	f.mu.Unlock()
	f.wg.Wait() // grpc-go waits for handshakes here as well
	close(f.quit)
}

func (f *fakeGRPC) times() (graceful, stopped time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.graceful, f.stopped
}

func slogOf(e *events) *slog.Logger { return slog.New(e) }
