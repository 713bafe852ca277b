package devca

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh/mtls"
)

// SetIssue replaces what a Source has its certificates from.
func SetIssue(s *Source, issue func(string, time.Duration) (tls.Certificate, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issue = issue
}

// Pipes is a network in memory, for time that is not real.
type Pipes struct {
	Dials, Writes atomic.Int64 // of clients
	conns         chan net.Conn
}

type counted struct {
	net.Conn
	writes *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func NewPipes() *Pipes { return &Pipes{conns: make(chan net.Conn)} }

// Dial connects to the server, if there is one.
func (p *Pipes) Dial(context.Context) (net.Conn, error) {
	p.Dials.Add(1)
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return counted{ours, &p.Writes}, nil
	case <-time.After(time.Millisecond):
		return nil, errors.Join(errors.New("nobody listens"), ours.Close(), theirs.Close())
	}
}

type pipeListener struct {
	*Pipes
	closed chan struct{}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error   { close(l.closed); return nil }
func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "pipe"} }

// NewServerOn returns a Server on pipes.
func NewServerOn(cfg ServerConfig, p *Pipes) (*Server, error) {
	cfg.Socket = "/unused"
	return newServer(cfg, func() (net.Listener, error) { return pipeListener{p, make(chan struct{})}, nil })
}

// NewClientOn returns a Client that dials pipes.
func NewClientOn(ctx context.Context, cfg ClientConfig, p *Pipes) (*Client, error) {
	cfg.Socket = "/unused"
	return newClient(ctx, cfg, p.Dial)
}

// Sign returns a certificate of any id for the key of a request.
func Sign(c *CA, id string, csr []byte) []byte {
	_, public, err := parseRequest(csr)
	if err != nil {
		panic(err)
	}
	parsed, err := mtls.ParseID(id)
	if err != nil {
		panic(err)
	}
	leaf, err := c.workload(parsed, public, time.Hour)
	if err != nil {
		panic(err)
	}
	return leaf.Raw
}

var (
	ParseRequest = parseRequest
	Private      = private
)

// ListenOn returns the side of a server that is not ours.
func ListenOn(p *Pipes) net.Listener { return pipeListener{p, make(chan struct{})} }
