package gatemesh_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// diary notes who learned of the end, in which order and how it was.
type diary struct {
	mu    sync.Mutex
	names []string
	last  gatemesh.Outcome
}

func (d *diary) layer(name string) gatemesh.Layer {
	return admits(name, gatemesh.Admission{Finish: finishFunc(func(_ *gatemesh.Call, o gatemesh.Outcome) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.names, d.last = append(d.names, name), o
	})})
}

func (d *diary) read() (string, gatemesh.Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.names, ""), d.last
}

// serveAborting runs h as net/http would, and reports whether it aborted.
func serveAborting(h http.Handler, w http.ResponseWriter, r *http.Request) (aborted bool) {
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler {
				panic(v)
			}
			aborted = true
		}
	}()
	h.ServeHTTP(w, r)
	return false
}

func TestFinishExactlyOnce(t *testing.T) {
	t.Parallel()
	no := gatemesh.Deny(gatemesh.PermissionDenied, "no", "")
	for _, test := range []struct {
		name    string
		last    gatemesh.Layer
		handler http.HandlerFunc
		ctx     func() context.Context
		told    string
		want    gatemesh.Outcome
		status  int
		aborted bool
	}{
		{name: "ok", handler: noContent, told: "cba", status: 204, want: gatemesh.Outcome{Code: gatemesh.OK, Status: 204}},
		{name: "writes nothing", handler: func(http.ResponseWriter, *http.Request) {}, told: "cba", status: 200, want: gatemesh.Outcome{Status: 200}},
		{name: "bytes", handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "four") }, told: "cba", status: 200, want: gatemesh.Outcome{Status: 200}},
		{name: "handler's own 404", handler: http.NotFound, told: "cba", status: 404, want: gatemesh.Outcome{Code: gatemesh.NotFound, Status: 404}},
		{name: "later denial", last: refuses("z", no), told: "cba", status: 403, want: gatemesh.Outcome{Code: gatemesh.PermissionDenied, Status: 403, Denial: no}},
		{name: "later panic", last: gate("z", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) { panic("SECRET") }), told: "cba", status: 500, want: gatemesh.Outcome{Code: gatemesh.Internal, Status: 500}},
		{name: "later error", last: refuses("z", errors.New("SECRET")), told: "cba", status: 500, want: gatemesh.Outcome{Code: gatemesh.Internal, Status: 500}},
		{name: "nil denial", last: refuses("z", (*gatemesh.Denial)(nil)), told: "cba", status: 500, want: gatemesh.Outcome{Code: gatemesh.Internal, Status: 500}},
		{name: "panic", handler: func(http.ResponseWriter, *http.Request) { panic("SECRET") }, told: "cba", status: 500, want: gatemesh.Outcome{Code: gatemesh.Internal, Status: 500, Panicked: true}},
		{name: "panic after the first byte", handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x"); panic("SECRET") }, told: "cba", status: 200, aborted: true, want: gatemesh.Outcome{Code: gatemesh.Internal, Status: 200, Panicked: true, Truncated: true}},
		{name: "abort", handler: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "x")
			panic(http.ErrAbortHandler)
		}, told: "cba", status: 200, aborted: true, want: gatemesh.Outcome{Code: gatemesh.Unknown, Status: 200, Truncated: true}},
		{name: "too high a status", handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(1000) }, told: "cba", status: 500, want: gatemesh.Outcome{Code: gatemesh.Internal, Status: 500, Panicked: true}},
		{name: "invalid status", handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(0) }, told: "cba", status: 500, want: gatemesh.Outcome{Code: gatemesh.Internal, Status: 500, Panicked: true}},
		{name: "hook panics", handler: func(w http.ResponseWriter, _ *http.Request) {
			rw, _ := gatemesh.Writer(w)
			rw.Before(func(int, http.Header) { panic("SECRET") })
		}, told: "cba", status: 200, aborted: true, want: gatemesh.Outcome{Code: gatemesh.Internal, Status: 200, Panicked: true, Truncated: true}},
		{name: "caller left", handler: noContent, ctx: func() context.Context {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return ctx
		}, told: "cba", status: 204, want: gatemesh.Outcome{Code: gatemesh.Canceled, Status: 204, Canceled: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d, observer := &diary{}, &recorder{}
			layers := []gatemesh.Layer{d.layer("a"), d.layer("b"), d.layer("c")}
			if test.last.Gate != nil {
				layers = append(layers, test.last, d.layer("never"))
			}
			r := request("/")
			if test.ctx != nil {
				r = r.WithContext(test.ctx())
			}
			w := httptest.NewRecorder()
			aborted := serveAborting(chain(gatemesh.EntryConfig{Observer: observer}, layers...).Handler(test.handler), w, r)
			assert.Equal(t, test.aborted, aborted)
			assert.Equal(t, test.status, w.Code)
			assert.NotContains(t, w.Body.String(), "SECRET")
			told, o := d.read()
			assert.Equal(t, test.told, told)
			assert.Positive(t, o.Duration)
			if test.want.Denial == nil {
				o.Denial = nil
			}
			assert.EqualValues(t, w.Body.Len(), o.Bytes)
			o.Duration, o.Bytes = 0, 0
			assert.Equal(t, test.want, o)
			assert.Equal(t, test.want.Code, observer.outcome(t).Code)
		})
	}
}

// TestFinisherThatPanics must not keep the others from learning.
func TestFinisherThatPanics(t *testing.T) {
	t.Parallel()
	d, observer := &diary{}, &recorder{}
	bad := admits("bad", gatemesh.Admission{Finish: finishFunc(func(*gatemesh.Call, gatemesh.Outcome) { panic("x") })})
	h := chain(gatemesh.EntryConfig{Observer: observer}, d.layer("a"), bad, d.layer("c")).Handler(noContent)
	h.ServeHTTP(httptest.NewRecorder(), request("/"))
	told, _ := d.read()
	assert.Equal(t, "ca", told)
	panics := observer.of(gatemesh.EventPanic)
	require.Len(t, panics, 1)
	assert.Equal(t, "bad", panics[0].Layer)
}

// TestMiddlewareThatReturnsEarly lets a gate admit a call that has ended. What
// it holds for the call must be given back all the same.
func TestMiddlewareThatReturnsEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		late := d.layer("late")
		inner := late.Gate
		late.Gate = gatemesh.GateFunc(func(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			time.Sleep(time.Second)
			return inner.Admit(ctx, c)
		})
		handled := false
		h := chain(gatemesh.EntryConfig{}, d.layer("first"), gatemesh.Middleware("timeout", func(next http.Handler) http.Handler {
			return http.TimeoutHandler(next, time.Millisecond, "")
		}), late).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { handled = true }))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request("/"))
		assert.Equal(t, http.StatusServiceUnavailable, w.Code)
		time.Sleep(time.Minute)
		synctest.Wait()
		told, _ := d.read()
		assert.Equal(t, "firstlate", told)
		assert.False(t, handled)
	})
}

func TestPX09_HandlerPanics(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		status  int // 0 is none: the connection is cut
	}{
		{"before the first byte", func(http.ResponseWriter, *http.Request) { panic("boom") }, 500},
		{"after the header was set", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Header().Set("Set-Cookie", "SECRET")
			panic("boom")
		}, 500},
		{"after the first byte", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic("boom")
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var log lines
			d := &diary{}
			s := serve(t, chain(gatemesh.EntryConfig{Observer: gatemesh.SlogObserver(slog.New(slog.NewJSONHandler(&log, nil)))},
				d.layer("limit")).Handler(test.handler))
			resp := rawHTTP(t, s, "GET /?SECRET-q HTTP/1.1\r\nHost: h\r\nAuthorization: SECRET-token\r\nConnection: close\r\n\r\n")
			if test.status != 0 {
				assert.Equal(t, test.status, resp.StatusCode)
				body := bodyOf(t, resp)
				assert.Contains(t, body, `"reason":"internal"`)
				assert.NotContains(t, body, "boom")
				assert.NotContains(t, resp.Header, "Set-Cookie")
				assert.NotEmpty(t, resp.Header.Get("X-Request-Id"))
			} else {
				_, err := io.ReadAll(resp.Body)
				assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			}
			s.Close() // the handler has returned
			stacks := 0
			for _, l := range log.all() {
				assert.NotContains(t, l, "SECRET")
				if strings.Contains(l, "goroutine ") {
					stacks++
				}
			}
			assert.Equal(t, 1, stacks)
			told, o := d.read()
			assert.Equal(t, "limit", told)
			assert.True(t, o.Panicked)
		})
	}
}

// lines collects what is written, line by line.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.buf.String(), "\n"), "\n")
}

// renewing is a gate whose consents hold for a minute and are renewed n times.
type renewing struct {
	n     int
	err   error // after that
	panic bool
	asked int
}

func (g *renewing) Admit(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
	return gatemesh.Admission{Until: time.Now().Add(time.Minute)}, nil
}

func (g *renewing) Revalidate(context.Context, *gatemesh.Call) (time.Time, error) {
	g.asked++
	switch {
	case g.asked <= g.n:
		return time.Now().Add(time.Minute), nil
	case g.panic:
		panic("x")
	case g.err != nil:
		return time.Time{}, g.err
	}
	return time.Time{}, nil // for ever
}

func TestUntilEndsAStream(t *testing.T) {
	t.Parallel()
	revoked := gatemesh.Deny(gatemesh.Unauthenticated, "revoked", "Revoked.")
	until := func(d time.Duration) gatemesh.Gate {
		return gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Until: time.Now().Add(d)}, nil
		})
	}
	at := func(u time.Time) gatemesh.Gate {
		return gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Until: u}, nil
		})
	}
	for _, test := range []struct {
		name  string
		gates []gatemesh.Gate
		sent  int // of 10 messages, one every 30 s from 0 s on
	}{
		{"no end", []gatemesh.Gate{at(time.Time{})}, 10},
		{"not renewable", []gatemesh.Gate{until(time.Minute)}, 2},
		{"earliest counts", []gatemesh.Gate{until(time.Hour), until(100 * time.Second), until(2 * time.Hour)}, 4},
		{"renewed for ever", []gatemesh.Gate{&renewing{}}, 10},
		{"renewed twice", []gatemesh.Gate{&renewing{n: 2, err: revoked}}, 6},
		{"refused at once", []gatemesh.Gate{&renewing{err: revoked}}, 2},
		{"panics", []gatemesh.Gate{&renewing{panic: true}}, 2},
		{"renewed until yesterday", []gatemesh.Gate{yesterday{}}, 2},
		{"one renewable, one not", []gatemesh.Gate{&renewing{}, until(150 * time.Second)}, 5},
		{"the epoch", []gatemesh.Gate{at(time.Unix(0, 0))}, 0},
		{"long before", []gatemesh.Gate{at(time.Unix(-1<<40, 0))}, 0},
		{"in 1,000 years", []gatemesh.Gate{at(time.Now().AddDate(1000, 0, 0))}, 10},
		{"in 100,000 years", []gatemesh.Gate{at(time.Unix(math.MaxInt64/1_000_000, 0))}, 10},
		{"in 1,000 years and soon", []gatemesh.Gate{at(time.Now().AddDate(1000, 0, 0)), until(time.Minute)}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				observer := &recorder{}
				var layers []gatemesh.Layer
				for i, g := range test.gates {
					layers = append(layers, gatemesh.Layer{Name: fmt.Sprint("gate ", i), Gate: g})
				}
				w := httptest.NewRecorder()
				h := chain(gatemesh.EntryConfig{Observer: observer}, layers...).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					for range 10 {
						_ = http.NewResponseController(w).Flush()
						_, _ = io.WriteString(w, "x") // a handler that looks at no error
						time.Sleep(30 * time.Second)
					}
				}))
				aborted := serveAborting(h, w, request("/"))
				assert.Equal(t, strings.Repeat("x", test.sent), w.Body.String())
				o := observer.outcome(t)
				cut := test.sent < 10
				assert.Equal(t, cut, aborted, "half a stream does not look like a whole one")
				assert.Equal(t, cut, o.Truncated)
				assert.Equal(t, cut, o.Denial != nil)
				if cut {
					assert.Len(t, observer.of(gatemesh.EventDenied), 1, "one line, however often the handler tries")
				}
			})
		})
	}
}

func TestUntilIsOnTheCall(t *testing.T) {
	t.Parallel()
	first := time.Unix(2_000_000_000, 0)
	h := chain(gatemesh.EntryConfig{}, admits("a", gatemesh.Admission{Until: first.Add(1)}), admits("b", gatemesh.Admission{Until: first}),
		admits("c", gatemesh.Admission{Until: first.Add(2)})).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		assert.Equal(t, first, gatemesh.FromContext(r.Context()).Until())
	}))
	h.ServeHTTP(httptest.NewRecorder(), request("/"))
}

func TestUntilDoesNotCutAResponseThatIsNoStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := chain(gatemesh.EntryConfig{}, gatemesh.Layer{Name: "g", Gate: &renewing{err: errors.New("x")}}).
			Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(time.Hour)
				_, _ = io.WriteString(w, "done")
			}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request("/"))
		assert.Equal(t, "done", w.Body.String())
	})
}

// hijackable is a response writer over a pipe, with bytes read ahead.
type hijackable struct {
	*httptest.ResponseRecorder
	conn  net.Conn
	ahead string
}

func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r := bufio.NewReader(io.MultiReader(strings.NewReader(h.ahead), h.conn))
	_, _ = r.Peek(len(h.ahead))
	return h.conn, bufio.NewReadWriter(r, bufio.NewWriter(h.conn)), nil
}

func TestUntilEndsAHijackedConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		observer, d := &recorder{}, &diary{}
		client, server := net.Pipe()
		w := &hijackable{ResponseRecorder: httptest.NewRecorder(), conn: server, ahead: "ahead"}
		var conn net.Conn
		h := chain(gatemesh.EntryConfig{Observer: observer}, d.layer("limit"), gatemesh.Layer{Name: "g", Gate: &renewing{n: 1, err: errors.New("x")}}).
			Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				var rw *bufio.ReadWriter
				var err error
				conn, rw, err = http.NewResponseController(w).Hijack()
				require.NoError(t, err)
				buffered, _ := rw.Reader.Peek(rw.Reader.Buffered())
				assert.Equal(t, "ahead", string(buffered), "where websocket packages look for it")
				rw.Reader.Reset(io.MultiReader(bytes.NewReader(bytes.Clone(buffered)), conn)) // as some of them do
				go func() { _, _ = io.WriteString(client, "x") }()
				got := make([]byte, 6)
				_, err = io.ReadFull(rw, got)
				require.NoError(t, err)
				assert.Equal(t, "aheadx", string(got))
			}))
		h.ServeHTTP(w, request("/"))
		told, _ := d.read()
		assert.Empty(t, told, "the call goes on")

		go func() { _, _ = io.Copy(io.Discard, client) }()
		_, err := conn.Write([]byte("x"))
		require.NoError(t, err)
		time.Sleep(61 * time.Second)
		_, err = conn.Write([]byte("x"))
		require.NoError(t, err, "renewed once")
		time.Sleep(61 * time.Second)
		var wg sync.WaitGroup
		for range 2 { // both directions notice at the same time
			wg.Go(func() {
				n, err := conn.Write([]byte("x"))
				assert.Error(t, err)
				assert.Zero(t, n)
			})
		}
		wg.Wait()
		_, err = client.Write([]byte("x"))
		assert.Error(t, err, "closed")
		_ = conn.Close()
		told, o := d.read()
		assert.Equal(t, "limit", told)
		assert.Equal(t, http.StatusSwitchingProtocols, o.Status)
		assert.NotNil(t, o.Denial)
		assert.Len(t, observer.of(gatemesh.EventDenied), 1)
		_ = client.Close()
	})
}

// TestHijackedReadJudgesLateBytes: what arrives after the end is not handed over.
func TestHijackedReadJudgesLateBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		h := chain(gatemesh.EntryConfig{}, gatemesh.Layer{Name: "g", Gate: &renewing{err: errors.New("x")}}).
			Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				require.NoError(t, err)
				go func() {
					time.Sleep(time.Hour)
					_, _ = io.WriteString(client, "late")
				}()
				n, err := conn.Read(make([]byte, 10))
				assert.Zero(t, n)
				assert.Error(t, err)
			}))
		h.ServeHTTP(&hijackable{ResponseRecorder: httptest.NewRecorder(), conn: server}, request("/"))
	})
}

// yesterday renews for a time that has passed.
type yesterday struct{}

func (yesterday) Admit(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
	return gatemesh.Admission{Until: time.Now().Add(time.Minute)}, nil
}

func (yesterday) Revalidate(context.Context, *gatemesh.Call) (time.Time, error) {
	return time.Now().AddDate(0, 0, -1), nil
}

// TestUntilEndsACopy: a body that is copied to a stream is judged part by part.
func TestUntilEndsACopy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := chain(gatemesh.EntryConfig{}, gatemesh.Layer{Name: "g", Gate: &renewing{err: errors.New("x")}}).
			Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.(http.Flusher).Flush()
				_, err := io.Copy(w, readerFunc(func(b []byte) (int, error) {
					time.Sleep(25 * time.Second)
					return copy(b, "x"), nil
				}))
				assert.Error(t, err)
			}))
		w := httptest.NewRecorder()
		assert.True(t, serveAborting(h, w, request("/")))
		assert.Equal(t, "xx", w.Body.String())
	})
}

// TestHijackedLastWordsAreJudged: an error beside the bytes is no way around.
func TestHijackedLastWordsAreJudged(t *testing.T) {
	t.Parallel()
	h := chain(gatemesh.EntryConfig{}, admits("g", gatemesh.Admission{Until: time.Unix(1, 0)})).
		Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			n, err := conn.Read(make([]byte, 10))
			assert.Zero(t, n)
			assert.NotErrorIs(t, err, io.EOF)
		}))
	h.ServeHTTP(&hijackable{ResponseRecorder: httptest.NewRecorder(), conn: lastWords{}}, request("/"))
}

// TestFarUntil: times beyond those that fit into nanoseconds have not passed.
func TestFarUntil(t *testing.T) {
	t.Parallel()
	for _, years := range []int{1, 200, 300, 1000, 100_000} {
		x, d := chain(gatemesh.EntryConfig{}, admits("a", gatemesh.Admission{Until: time.Now().AddDate(years, 0, 0)})).
			Start(context.Background(), gatemesh.Inbound{Method: "POST", Path: "/"})
		require.Nil(t, d)
		_, d = x.Admit(x.Context())
		require.Nil(t, d)
		assert.True(t, x.Bounded())
		assert.False(t, x.Expired(time.Now()), years)
	}
}

// TestFinishFromEverywhere: whoever is first says how the call ended.
func TestFinishFromEverywhere(t *testing.T) {
	t.Parallel()
	d, observer := &diary{}, &recorder{}
	x, refused := chain(gatemesh.EntryConfig{Observer: observer}, d.layer("a"), d.layer("b")).
		Start(context.Background(), gatemesh.Inbound{Method: "POST", Path: "/"})
	require.Nil(t, refused)
	_, refused = x.Admit(x.Context())
	require.Nil(t, refused)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { x.Finish(gatemesh.Outcome{}) })
	}
	wg.Wait()
	told, _ := d.read()
	assert.Equal(t, "ba", told)
	observer.outcome(t)
}

// lastWords returns its last bytes together with io.EOF, as tls.Conn does.
type lastWords struct{ net.Conn }

func (lastWords) Read(b []byte) (int, error) { return copy(b, "bye"), io.EOF }
func (lastWords) CloseWrite() error          { return nil }
func (lastWords) Close() error               { return nil }

func TestHijackedConnection(t *testing.T) {
	t.Parallel()
	d := &diary{}
	h := chain(gatemesh.EntryConfig{}, d.layer("limit")).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		assert.Zero(t, rw.Reader.Buffered())
		n, err := conn.Read(make([]byte, 10))
		assert.Equal(t, 3, n)
		assert.ErrorIs(t, err, io.EOF)
		half, ok := conn.(interface{ CloseWrite() error })
		require.True(t, ok)
		assert.NoError(t, half.CloseWrite())
		told, _ := d.read()
		assert.Empty(t, told)
		_ = conn.Close()
		_ = conn.Close()
		told, o := d.read()
		assert.Equal(t, "limit", told)
		assert.Equal(t, gatemesh.OK, o.Code)
	}))
	h.ServeHTTP(&hijackable{ResponseRecorder: httptest.NewRecorder(), conn: lastWords{}}, request("/"))
	told, _ := d.read()
	assert.Equal(t, "limit", told)

	// A pipe cannot be closed by halves.
	client, server := net.Pipe()
	defer client.Close()
	chain(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		_, ok := conn.(interface{ CloseWrite() error })
		assert.False(t, ok)
	})).ServeHTTP(&hijackable{ResponseRecorder: httptest.NewRecorder(), conn: server}, request("/"))
}

func TestPanicAfterHijack(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	d := &diary{}
	h := chain(gatemesh.EntryConfig{}, d.layer("limit")).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		panic("x")
	}))
	assert.True(t, serveAborting(h, &hijackable{ResponseRecorder: httptest.NewRecorder(), conn: server}, request("/")))
	_, err := client.Read(make([]byte, 1))
	assert.ErrorIs(t, err, io.EOF, "nobody else would close it")
	told, o := d.read()
	assert.Equal(t, "limit", told)
	assert.True(t, o.Panicked)
}

// cached is a CachedGate.
type cached struct {
	gatemesh.GateFunc
	ask func() (gatemesh.Admission, bool, error)
}

func (c cached) AdmitCached(context.Context, *gatemesh.Call) (gatemesh.Admission, bool, error) {
	return c.ask()
}

func TestAdmitCached(t *testing.T) {
	t.Parallel()
	no := gatemesh.Deny(gatemesh.PermissionDenied, "no", "")
	yes := gatemesh.Admission{}
	var order string
	layer := func(name string, ok bool, err error) gatemesh.Layer {
		return gatemesh.Layer{Name: name, Gate: cached{
			func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) { order += name; return yes, nil },
			func() (gatemesh.Admission, bool, error) {
				order += strings.ToUpper(name)
				return yes, ok, err
			},
		}}
	}
	plain := func(name string) gatemesh.Layer {
		return gate(name, func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) { order += name; return yes, nil })
	}
	panics := gatemesh.Layer{Name: "p", Gate: cached{nil, func() (gatemesh.Admission, bool, error) { panic("x") }}}
	for _, test := range []struct {
		name         string
		layers       []gatemesh.Layer
		cached, then string
		code         gatemesh.Code
	}{
		{"all", []gatemesh.Layer{layer("a", true, nil), layer("b", true, nil)}, "AB", "AB", gatemesh.OK},
		{"one cannot", []gatemesh.Layer{layer("a", true, nil), layer("b", false, nil), layer("c", true, nil)}, "AB", "ABbc", gatemesh.OK},
		{"one is no CachedGate", []gatemesh.Layer{layer("a", true, nil), plain("b"), layer("c", true, nil)}, "A", "Abc", gatemesh.OK},
		{"refused", []gatemesh.Layer{layer("a", true, nil), layer("b", true, no), layer("c", true, nil)}, "AB", "AB", gatemesh.PermissionDenied},
		{"refused without ok", []gatemesh.Layer{layer("a", false, no)}, "A", "A", gatemesh.PermissionDenied},
		{"panics", []gatemesh.Layer{panics, plain("b")}, "", "", gatemesh.Internal},
	} {
		order = ""
		x, d := chain(gatemesh.EntryConfig{}, test.layers...).Start(context.Background(), gatemesh.Inbound{Protocol: gatemesh.GRPC, Method: "POST", Authority: "h", Path: "/s/M"})
		require.Nil(t, d)
		_, first := x.AdmitCached(x.Context())
		assert.Equal(t, test.cached, order, test.name)
		_, second := x.Admit(x.Context())
		assert.Equal(t, test.then, order, test.name)
		if test.code == gatemesh.OK {
			assert.Nil(t, first)
			assert.Nil(t, second)
			continue
		}
		require.NotNil(t, first, test.name)
		assert.Equal(t, test.code, first.Code)
		assert.Same(t, first, second, "a refusal stands")
	}
}
