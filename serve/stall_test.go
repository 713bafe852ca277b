package serve_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/serve"
)

// stalled is what a handler has met.
type stalled struct {
	read  int64
	err   error
	after time.Duration
}

// reading reads bodies whole and says what came of it.
func reading(told chan<- stalled) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			w.WriteHeader(http.StatusRequestTimeout)
		}
		told <- stalled{n, err, time.Since(began)}
	})
}

// over returns a transport of HTTP/2 without TLS on the connections of m.
func (m *memory) http2(t *testing.T) *http.Transport {
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) { return m.dial() }}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func post(t *testing.T, header string, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://test/", body)
	require.NoError(t, err)
	if header != "" {
		req.Header.Set("Content-Type", header)
	}
	return req
}

// drip sends a byte of each pace to w until it ends or enough have been sent.
func drip(w io.Writer, part string, pace time.Duration, most int) (sent int) {
	for sent < most {
		time.Sleep(pace)
		if _, err := io.WriteString(w, part); err != nil {
			return sent
		}
		sent++
	}
	return sent
}

// TestF10_StalledBody: a client that sends a body too slowly holds a handler, and
// with it a place of its limiter, for a bounded time.
func TestF10_StalledBody(t *testing.T) {
	server, client := selfSigned(t)
	for _, c := range []struct {
		name     string
		pace     time.Duration
		part     string
		from, to time.Duration
	}{
		{"nothing", time.Hour, "x", time.Minute, time.Minute},
		{"drips", time.Second, "x", time.Minute, 61 * time.Second},
		{"drips a little faster", time.Second, strings.Repeat("x", 200), time.Minute, 7 * time.Minute},
		{"stops", 59 * time.Second, "x", time.Minute, time.Minute + 5*time.Millisecond},
	} {
		for _, over := range []string{"HTTP/1.1", "HTTP/1.1 with TLS", "HTTP/2"} {
			t.Run(c.name+", "+over, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l, told := newMemory(), make(chan stalled, 1)
					s := serve.Server{Name: "app", Listener: l, Handler: reading(told)}
					if over == "HTTP/1.1 with TLS" {
						server.Time, client.Time = wall, wall
						s.TLS = server
					}
					r := run(t, serve.Config{Servers: []serve.Server{s}})
					if over == "HTTP/2" {
						body, feed := io.Pipe()
						done := make(chan struct{})
						go func() { defer close(done); drip(feed, c.part, c.pace, 10000) }()
						tr := l.http2(t)
						resp, err := tr.RoundTrip(post(t, "", body))
						require.NoError(t, err)
						assert.Equal(t, 408, resp.StatusCode)
						_ = body.Close()
						_ = resp.Body.Close()
						<-done
						tr.CloseIdleConnections()
					} else {
						conn := l.raw(t)
						if s.TLS != nil {
							conn = conn.secure(t, client)
						}
						_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10000000\r\n\r\n")
						require.NoError(t, err)
						done := make(chan struct{})
						go func() { defer close(done); drip(conn, c.part, c.pace, 10000) }()
						resp, _, err := conn.answer()
						require.NoError(t, err)
						assert.Equal(t, 408, resp.StatusCode)
						_, err = conn.r.ReadByte()
						require.Error(t, err, "the connection is closed")
						_ = conn.Close()
						<-done
					}
					got := <-told
					require.ErrorIs(t, got.err, os.ErrDeadlineExceeded)
					assert.GreaterOrEqual(t, got.after, c.from)
					assert.LessOrEqual(t, got.after, c.to)
					r.stop()
					require.NoError(t, <-r.done)
				})
			})
		}
	}
}

// Who sends fast enough, however long it takes, is not disturbed; nor is who waits
// for the handler, or talks with it, or calls over gRPC, or has upgraded.
func TestPatience(t *testing.T) {
	const long = 10 * time.Minute
	echo := func(w http.ResponseWriter, r *http.Request) { // the answer begins first
		w.WriteHeader(200)
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		b := make([]byte, 1)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				_, _ = w.Write(b)
				_ = rc.Flush()
			}
			if err != nil {
				return
			}
		}
	}
	reads := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			w.WriteHeader(408)
		}
	}
	for _, c := range []struct {
		name, kind string
		pace       time.Duration
		part       string
		count      int
		handler    http.HandlerFunc
		http2      bool
		bare       bool // without body timeout
	}{
		{"fast enough", "", time.Second, strings.Repeat("x", 240), 1800, reads, false, false},
		{"fast enough, HTTP/2", "", time.Second, strings.Repeat("x", 240), 1800, reads, true, false},
		{"some faster, then a pause", "", 59 * time.Second, strings.Repeat("x", 240*60), 10, reads, false, false},
		{"the handler takes its time", "", 10 * time.Millisecond, "x", 10, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadFull(r.Body, make([]byte, 5))
			time.Sleep(long)
			reads(w, r)
		}, true, false},
		{"conversation", "", long, "x", 5, echo, false, false},
		{"conversation, HTTP/2", "", long, "x", 5, echo, true, false},
		{"gRPC", "application/grpc", long, "x", 5, reads, true, false},
		{"gRPC with a codec", "application/grpc+proto", long, "x", 5, reads, true, false},
		{"for ever", "", long, "x", 5, reads, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newMemory()
				r := run(t, serve.Config{DisableBodyTimeout: c.bare, Servers: []serve.Server{{Name: "app", Listener: l, Handler: c.handler}}})
				tr := l.http2(t)
				if !c.http2 {
					tr = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return l.dial() }}
				}
				body, feed := io.Pipe()
				go func() {
					assert.Equal(t, c.count, drip(feed, c.part, c.pace, c.count))
					_ = feed.Close()
				}()
				resp, err := tr.RoundTrip(post(t, c.kind, body))
				require.NoError(t, err)
				assert.Equal(t, 200, resp.StatusCode)
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				_ = resp.Body.Close()
				tr.CloseIdleConnections()
				r.stop()
				require.NoError(t, <-r.done)
			})
		})
	}
}

// Who calls himself gRPC on HTTP/1 is not believed: it needs HTTP/2.
func TestF10_StalledBodyOfNoGRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, told := newMemory(), make(chan stalled, 1)
		r := run(t, serve.Config{BodyTimeout: time.Second, Servers: []serve.Server{{Name: "app", Listener: l, Handler: reading(told)}}})
		conn := l.raw(t)
		_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Type: application/grpc\r\nContent-Length: 10\r\n\r\n")
		require.NoError(t, err)
		resp, _, err := conn.answer()
		require.NoError(t, err)
		assert.Equal(t, 408, resp.StatusCode)
		assert.Equal(t, time.Second, (<-told).after)
		_ = conn.Close()
		r.stop()
		require.NoError(t, <-r.done)
	})
}

// A limit of one request is not one of the next on its connection, nor of what
// follows the handler.
func TestPatienceEndsWithTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		leaked := make(chan io.Reader, 10)
		r := run(t, serve.Config{BodyTimeout: time.Second, Servers: []serve.Server{{Name: "app", Listener: l, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			leaked <- r.Body
		})}}})
		conn := l.raw(t)
		for range 3 {
			_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx")
			require.NoError(t, err)
			_, _, err = conn.answer()
			require.NoError(t, err)
			_, err = (<-leaked).Read(make([]byte, 1)) // by a goroutine that the handler has left
			require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
			time.Sleep(time.Minute)
		}
		_ = conn.Close()
		r.stop()
		require.NoError(t, <-r.done)
	})
}

// writing writes size bytes in parts and says what came of it.
func writing(told chan<- stalled, size, part int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/short" {
			_, _ = io.WriteString(w, "ok")
			return
		}
		began, n := time.Now(), 0
		var err error
		for b := make([]byte, part); n < size && err == nil; {
			var m int
			m, err = w.Write(b)
			n += m
		}
		told <- stalled{int64(n), err, time.Since(began)}
	}
}

// TestF10_StalledAnswer: a client that does not read holds a handler for a
// bounded time, and one that reads slowly gets its answer.
func TestF10_StalledAnswer(t *testing.T) {
	const size = 1 << 20
	for _, part := range []int{1 << 10, size} {
		for _, reads := range []bool{false, true} {
			t.Run(fmt.Sprint(part, reads), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l, told := newMemory(), make(chan stalled, 1)
					r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: writing(told, size, part)}}})
					conn := l.raw(t)
					require.NoError(t, conn.send("/"))
					if reads {
						resp, err := http.ReadResponse(conn.r, nil)
						require.NoError(t, err)
						n := int64(0)
						for n < size {
							time.Sleep(25 * time.Second) // a piece may end in the next one
							m, err := io.CopyN(io.Discard, resp.Body, min(piece, size-n))
							n += m
							require.NoError(t, err)
						}
						require.NoError(t, (<-told).err)
						_ = conn.Close()
					} else {
						got := <-told
						require.Error(t, got.err)
						assert.GreaterOrEqual(t, got.after, 52*time.Second)
						assert.LessOrEqual(t, got.after, time.Minute)
						_, err := conn.r.ReadByte()
						assert.Error(t, err, "the connection is closed")
					}
					r.stop()
					require.NoError(t, <-r.done)
				})
			})
		}
	}
}

const piece = 64 << 10

// TestF10_StalledStream: on HTTP/2 it is one stream, and the others go on.
func TestF10_StalledStream(t *testing.T) {
	for _, kind := range []string{"", "application/grpc"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, told := newMemory(), make(chan stalled, 1)
				r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: writing(told, 64<<20, 1<<20)}}})
				tr := l.http2(t)
				resp, err := tr.RoundTrip(post(t, kind, nil))
				require.NoError(t, err)
				for range 10 {
					time.Sleep(time.Minute)
					req := post(t, "", nil)
					req.URL.Path = "/short"
					short, err := tr.RoundTrip(req)
					require.NoError(t, err)
					b, err := io.ReadAll(short.Body)
					require.NoError(t, err)
					assert.Equal(t, "ok", string(b))
				}
				if kind == "" {
					got := <-told
					require.Error(t, got.err)
					assert.LessOrEqual(t, got.after, 2*time.Minute)
					_, err = io.Copy(io.Discard, resp.Body)
					assert.Error(t, err, "the answer is cut short")
				} else {
					n, err := io.Copy(io.Discard, resp.Body)
					require.NoError(t, err)
					assert.EqualValues(t, 64<<20, n)
					require.NoError(t, (<-told).err)
				}
				_ = resp.Body.Close()
				tr.CloseIdleConnections()
				r.stop()
				require.NoError(t, <-r.done)
			})
		})
	}
}

// Deadlines that handlers set themselves hold, and hijacked connections have none.
func TestOwnDeadlines(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin func(w http.ResponseWriter) (io.Writer, error)
		after time.Duration // 0: never
	}{
		{"earlier", func(w http.ResponseWriter) (io.Writer, error) {
			return w, http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second))
		}, time.Second},
		{"later", func(w http.ResponseWriter) (io.Writer, error) {
			return w, http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour))
		}, time.Hour},
		{"hijacked", func(w http.ResponseWriter) (io.Writer, error) {
			conn, _, err := http.NewResponseController(w).Hijack()
			return conn, err
		}, 0},
	} {
		for _, body := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, body), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l, told := newMemory(), make(chan stalled, 1)
					r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						began := time.Now()
						to, err := c.begin(w)
						if assert.NoError(t, err) {
							_, err = to.Write(make([]byte, 1<<20))
						}
						told <- stalled{0, err, time.Since(began)}
						if conn, ok := to.(net.Conn); ok {
							_ = conn.Close()
						}
					})}}})
					conn := l.raw(t)
					if body {
						_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx")
						require.NoError(t, err)
					} else {
						require.NoError(t, conn.send("/"))
					}
					if c.after == 0 {
						time.Sleep(10 * time.Hour)
						n, err := io.Copy(io.Discard, conn.r)
						require.NoError(t, err)
						assert.EqualValues(t, 1<<20, n)
						require.NoError(t, (<-told).err)
					} else {
						got := <-told
						require.Error(t, got.err)
						assert.Equal(t, c.after, got.after)
						_ = conn.Close()
					}
					r.stop()
					require.NoError(t, <-r.done)
				})
			})
		}
	}
}

// TestF10_StalledSockets: the same over the kernel's sockets, files included.
func TestF10_StalledSockets(t *testing.T) {
	told := make(chan stalled, 1)
	file := t.TempDir() + "/file"
	require.NoError(t, os.WriteFile(file, make([]byte, 16<<20), 0o600))
	mux := http.NewServeMux()
	mux.Handle("/read", reading(told))
	mux.Handle("/write", writing(told, 1<<30, 1<<20))
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(file)
		if err != nil {
			panic(err)
		}
		defer func() { _ = f.Close() }()
		n, err := io.Copy(w, f)
		told <- stalled{n, err, 0}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := run(t, serve.Config{BodyTimeout: 200 * time.Millisecond, AnswerTimeout: 200 * time.Millisecond,
		Servers: []serve.Server{{Name: "app", Listener: l, Handler: mux}}})
	for _, path := range []string{"/read", "/write", "/file"} {
		conn, err := newRaw(net.Dial("tcp", l.Addr().String()))
		require.NoError(t, err)
		_, err = io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n")
		require.NoError(t, err)
		if path == "/read" {
			resp, _, err := conn.answer()
			require.NoError(t, err)
			assert.Equal(t, 408, resp.StatusCode)
		}
		select {
		case got := <-told:
			require.ErrorIs(t, got.err, os.ErrDeadlineExceeded, path)
		case <-time.After(time.Minute):
			require.FailNow(t, "the handler is held", path)
		}
		_ = conn.Close()
	}
	r.stop()
	require.NoError(t, <-r.done)
	l, err = net.Listen("tcp", "127.0.0.1:0") // and it comes whole to who reads
	require.NoError(t, err)
	r = run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: mux}}})
	conn, err := newRaw(net.Dial("tcp", l.Addr().String()))
	require.NoError(t, err)
	require.NoError(t, conn.send("/file"))
	resp, err := http.ReadResponse(conn.r, nil)
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	assert.EqualValues(t, 16<<20, n)
	require.NoError(t, (<-told).err)
	_ = conn.Close()
	r.stop()
	require.NoError(t, <-r.done)
}

func TestPatienceFaults(t *testing.T) {
	bad := serve.Config{Servers: []serve.Server{{Name: "app", Addr: ":0", Handler: http.NotFoundHandler()}}, Logger: slogOf(newEvents())}
	for _, c := range []struct {
		change func(*serve.Config)
		want   string
	}{
		{func(c *serve.Config) { c.BodyTimeout = -1 }, "must not be negative"},
		{func(c *serve.Config) { c.BodyRate = -1 }, "must not be negative"},
		{func(c *serve.Config) { c.AnswerTimeout = -1 }, "must not be negative"},
		{func(c *serve.Config) { c.DisableBodyTimeout, c.BodyTimeout = true, 1 }, "DisableBodyTimeout excludes"},
		{func(c *serve.Config) { c.DisableBodyTimeout, c.BodyRate = true, 1 }, "DisableBodyTimeout excludes"},
		{func(c *serve.Config) { c.DisableAnswerTimeout, c.AnswerTimeout = true, 1 }, "DisableAnswerTimeout excludes"},
	} {
		cfg := bad
		c.change(&cfg)
		err := serve.Run(t.Context(), cfg)
		require.ErrorContains(t, err, c.want)
		assert.False(t, errors.Is(err, context.DeadlineExceeded))
	}
}

// TestF10_StalledBodyBehindAnAnswer: net/http reads the rest of a body before it
// begins to write, within the handler.
func TestF10_StalledBodyBehindAnAnswer(t *testing.T) {
	for _, duplex := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l, told := newMemory(), make(chan stalled, 1)
			r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				began := time.Now()
				if duplex {
					assert.NoError(t, http.NewResponseController(w).EnableFullDuplex())
				}
				_, err := w.Write(make([]byte, 100<<10))
				told <- stalled{0, err, time.Since(began)}
			})}}})
			conn := l.raw(t)
			_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n")
			require.NoError(t, err)
			resp, body, err := conn.answer()
			require.NoError(t, err)
			assert.Equal(t, 200, resp.StatusCode)
			assert.Len(t, body, 100<<10)
			got := <-told
			require.NoError(t, got.err)
			if duplex {
				assert.Zero(t, got.after)
			} else {
				assert.Equal(t, time.Minute, got.after)
			}
			_ = conn.Close()
			r.stop()
			require.NoError(t, <-r.done)
		})
	}
}
