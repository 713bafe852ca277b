package mtls_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls"
)

// pipes is a listener of pipes, whose deadlines are those of synctest.
type pipes struct {
	conns  chan net.Conn
	errs   chan error
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), errs: make(chan error), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case err := <-p.errs:
		return nil, err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// accepts collects what l accepts until it fails.
func accepts(l net.Listener) (got chan net.Conn, failed chan error) {
	got, failed = make(chan net.Conn, 100), make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				continue
			}
			if err != nil {
				failed <- err
				return
			}
			got <- c
		}
	}()
	return got, failed
}

// Who says nothing holds up nobody, and is closed after 10 s.
func TestListener_Silent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, m, _, s, _ := pair(t)
		modes(t, m, s, mtls.ModePermissive, nil)
		p := newPipes()
		l := m.Listener(p, nil)
		got, failed := accepts(l)
		start := time.Now()
		var silent []net.Conn
		for range 20 {
			silent = append(silent, p.dial())
		}
		loud := p.dial()
		_, err := loud.Write([]byte("G"))
		require.NoError(t, err)
		c := <-got
		require.Zero(t, time.Since(start), "at once")
		go func() { _, _ = io.WriteString(loud, "ET"); _ = loud.Close() }()
		time.Sleep(11 * time.Second)
		all, err := io.ReadAll(c)
		require.NoError(t, err, "the deadline of the first byte is gone")
		assert.Equal(t, "GET", string(all))
		for _, conn := range silent {
			_, err := conn.Read(make([]byte, 1))
			assert.ErrorIs(t, err, io.EOF, "closed")
			assert.Equal(t, 11*time.Second, time.Since(start))
		}
		require.NoError(t, l.Close())
		assert.ErrorIs(t, <-failed, net.ErrClosed)
	})
}

// Close ends what has not been accepted, silent or ready; it may come twice and
// before the first Accept.
func TestListener_Close(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, m, _, s, _ := pair(t)
		modes(t, m, s, mtls.ModePermissive, nil)
		p := newPipes()
		l := m.Listener(p, nil)
		got, failed := accepts(l)
		first := p.dial()
		_, _ = first.Write([]byte("G"))
		c := <-got
		silent := p.dial()
		start := time.Now()
		require.NoError(t, l.Close())
		require.NoError(t, l.Close())
		assert.ErrorIs(t, <-failed, net.ErrClosed)
		_, err := silent.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF)
		assert.Zero(t, time.Since(start))
		_ = c.Close() // ours

		l = m.Listener(newPipes(), nil)
		require.NoError(t, l.Close())
		_, err = l.Accept()
		assert.ErrorIs(t, err, net.ErrClosed)
	})
}

// What the listener below accepted before it failed is accepted, and then comes
// its error. Errors that pass do not end anything.
func TestListener_Fails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, m, _, s, _ := pair(t)
		modes(t, m, s, mtls.ModePermissive, nil)
		p := newPipes()
		l := m.Listener(p, nil)
		got, failed := accepts(l)
		p.errs <- &net.DNSError{IsTimeout: true, IsTemporary: true}
		late, silent := p.dial(), p.dial()
		synctest.Wait()
		broken := errors.New("broken")
		p.errs <- broken
		start := time.Now()
		time.Sleep(300 * time.Millisecond)
		_, err := late.Write([]byte("G"))
		require.NoError(t, err)
		c := <-got
		require.ErrorIs(t, <-failed, broken)
		assert.Equal(t, 400*time.Millisecond, time.Since(start))
		_, err = silent.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF)
		_, err = l.Accept()
		assert.ErrorIs(t, err, broken, "again")
		_ = c.Close()
		require.NoError(t, l.Close())
	})
}

// The mode of the moment in which the first byte comes counts.
func TestListener_StrictMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, m, _, s, _ := pair(t)
		modes(t, m, s, mtls.ModePermissive, nil)
		p := newPipes()
		l := m.Listener(p, nil)
		_, failed := accepts(l)
		c := p.dial()
		synctest.Wait()
		modes(t, m, s, mtls.ModeStrict, nil)
		_, err := c.Write([]byte("G"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF)
		require.NoError(t, l.Close())
		<-failed
	})
}

// net/http finds the methods that it looks for on plain connections.
func TestListener_ConnectionMethods(t *testing.T) {
	t.Parallel()
	_, m, _, s, _ := pair(t)
	modes(t, m, s, mtls.ModePermissive, nil)
	got := make(chan net.Conn, 1)
	addr := serveBoth(t, m, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		assert.NoError(t, err)
		got <- c
	}))
	client, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	_, err = io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	c := <-got
	defer func() { _ = c.Close() }()
	assert.IsType(t, &net.TCPConn{}, c.(interface{ NetConn() net.Conn }).NetConn())
	n, err := c.(io.ReaderFrom).ReadFrom(strings.NewReader("hello\n"))
	require.NoError(t, err)
	assert.EqualValues(t, 6, n)
	require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
	line, err := bufio.NewReader(client).ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "hello\n", line)
}

func TestSniff_Context(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, m, _, s, _ := pair(t)
		modes(t, m, s, mtls.ModePermissive, nil)
		client, server := net.Pipe()
		defer func() { _, _ = client.Close(), server.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, _, err := m.Sniff(ctx, server)
		require.Error(t, err)
		assert.Equal(t, time.Second, time.Since(start))
	})
}

// The port that we listen on decides, and nothing else about the connection.
func TestListener_Ports(t *testing.T) {
	t.Parallel()
	_, m, client, s, _ := pair(t)
	h := mesh(t, m, whoami)
	open, strict := serveBoth(t, m, h), serveBoth(t, m, h)
	require.NoError(t, m.Update(mtls.Config{Source: s, Authorize: member(t), Modes: mtls.Modes{
		Default: mtls.ModeStrict, Ports: map[uint16]mtls.Mode{netip.MustParseAddrPort(open).Port(): mtls.ModePermissive},
	}}))
	for addr, want := range map[string]int{open: 200, strict: 400} { // net/http's answer to plain text at a port with TLS
		status, _, _, err := getPlain(t, plainClient(t, false), addr, nil)
		require.NoError(t, err)
		assert.Equal(t, want, status)
		status, _, body, err := get(t, transport(t, client, exactly(t, callee)), addr)
		require.NoError(t, err)
		assert.Equal(t, "200 caller", fmt.Sprint(status, " ", body))
	}
	assert.EqualValues(t, 1, m.Status().PlainText)
}
