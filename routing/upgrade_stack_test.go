package routing_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
	edge "github.com/gatemesh-go/gatemesh/serve"
)

// sockets is an upstream that speaks websocket to whom the edge vouches for,
// and counts its connections.
type sockets struct {
	url    string
	conns  atomic.Int64
	served chan net.Conn // those that were upgraded; the test echoes
}

func newSockets(t testing.TB) *sockets {
	t.Helper()
	u := &sockets{served: make(chan net.Conn, 4)}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header[gatemesh.IdentityHeader]) != 1 || r.Header["Authorization"] != nil || r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		u.served <- conn
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			u.conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	u.url = s.URL
	return u
}

// dialSocket sends a handshake and returns the connection and the answer.
func dialSocket(t testing.TB, addr, fields string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(addr, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, strings.ReplaceAll("GET /chat HTTP/1.1\nHost: h\n"+fields+handshake+"\n", "\n", "\r\n"))
	require.NoError(t, err)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	return conn, br, resp
}

// ended is a layer that tells when calls end.
func ended(t testing.TB) (gatemesh.Layer, chan gatemesh.Outcome) {
	t.Helper()
	done := make(chan gatemesh.Outcome, 4)
	return layer("slot", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Finish: finishFunc(func(_ *gatemesh.Call, o gatemesh.Outcome) { done <- o })}, nil
	}), done
}

type finishFunc func(*gatemesh.Call, gatemesh.Outcome)

func (f finishFunc) Finish(c *gatemesh.Call, o gatemesh.Outcome) { f(c, o) }

func TestPX03_Unauthenticated(t *testing.T) {
	t.Parallel()
	up := newSockets(t)
	s := newStack(t, stackConfig{upstream: up.url})
	_, _, resp := dialSocket(t, serve(t, s), "")
	assert.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	assert.Zero(t, up.conns.Load(), "nobody may open a connection to the upstream")
}

func TestPX03_OverLimit(t *testing.T) {
	t.Parallel()
	up := newSockets(t)
	s := newStack(t, stackConfig{upstream: up.url, limit: 1})
	url := serve(t, s)
	_, _, resp := dialSocket(t, url, s.bearer())
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	defer func(c net.Conn) { _ = c.Close() }(<-up.served)
	before := up.conns.Load()
	_, _, resp = dialSocket(t, url, s.bearer())
	assert.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	assert.NotEmpty(t, resp.Header.Get("Retry-After"))
	assert.Equal(t, before, up.conns.Load())
}

// TestPX03_Stacked goes through every middleware and transport there is, the
// breaker's, which a policy library would break, among them. Idle connections
// stay open, and end on both sides when one ends, whichever it is.
func TestPX03_Stacked(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"client", "upstream"} {
		t.Run(first+" ends first", func(t *testing.T) {
			t.Parallel()
			up := newSockets(t)
			slot, done := ended(t)
			s := newStack(t, stackConfig{upstream: up.url, layers: []gatemesh.Layer{slot}})
			conn, br, resp := dialSocket(t, serve(t, s), s.bearer())
			require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
			assert.Equal(t, "websocket", resp.Header.Get("Upgrade"))
			theirs := <-up.served
			defer func() { _ = theirs.Close() }()
			there := bufio.NewReader(theirs)
			for range 2 {
				_, err := io.WriteString(conn, "to\n")
				require.NoError(t, err)
				got, err := there.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, "to\n", got)
				_, err = io.WriteString(theirs, "fro\n")
				require.NoError(t, err)
				got, err = br.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, "fro\n", got)
			}
			assert.Empty(t, done, "the call goes on while nobody says anything")
			if first == "client" {
				require.NoError(t, conn.Close())
				_, err := there.ReadByte()
				require.ErrorIs(t, err, io.EOF)
				require.NoError(t, theirs.Close()) // the client may only have ended its half
			} else {
				require.NoError(t, theirs.Close())
				_, err := br.ReadByte()
				require.ErrorIs(t, err, io.EOF)
				require.NoError(t, conn.Close()) // the upstream may only have ended its half
			}
			assert.Equal(t, http.StatusSwitchingProtocols, (<-done).Status)
			d := backend
			for _, d.Subset = range []string{"v1", "v2"} {
				assert.NotEqual(t, breaker.Open, s.breaker.State(d))
			}
			assert.Empty(t, s.log.kind(gatemesh.EventFault))
		})
	}
}

// TestPX03_Shutdown: connections that say nothing are closed at the deadline of
// the shutdown, on both sides.
func TestPX03_Shutdown(t *testing.T) {
	t.Parallel()
	up := newSockets(t)
	slot, done := ended(t)
	s := newStack(t, stackConfig{upstream: up.url, layers: []gatemesh.Layer{slot}})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	started, stopped := make(chan string, 1), make(chan error, 1)
	go func() {
		stopped <- runEdge(ctx, s, started)
	}()
	addr := <-started
	_, br, resp := dialSocket(t, addr, s.bearer())
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	theirs := <-up.served
	defer func() { _ = theirs.Close() }()
	stop()
	assert.ErrorIs(t, <-stopped, context.DeadlineExceeded, "it did not end by itself")
	_, err := br.ReadByte()
	assert.Error(t, err)
	_, err = theirs.Read(make([]byte, 1))
	assert.Error(t, err, "nor is the upstream's side left open")
	<-done
}

func runEdge(ctx context.Context, h http.Handler, started chan<- string) error {
	return edge.Run(ctx, edge.Config{
		Servers: []edge.Server{{Name: "edge", Addr: "127.0.0.1:0", Handler: h}},
		Drain:   200 * time.Millisecond,
		Logger:  slog.New(slog.DiscardHandler),
		Started: func(addrs map[string]net.Addr) { started <- addrs["edge"].String() },
	})
}
