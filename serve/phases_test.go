package serve_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/serve"
)

// settle is what the package comment promises, plus one look of the drain.
const (
	settle = 500 * time.Millisecond
	header = 10 * time.Second
	look   = 5 * time.Millisecond
)

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })

// answers are those of kinds that end with a header of ours.
var answers = []string{"/plain", "/empty", "/stream", "/control", "/copy", "/flush", "/status", "/kept"}

// kinds answers in every way that has something to do with the header.
func kinds() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/plain", hello)
	mux.HandleFunc("/empty", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/early", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "hello")
	})
	mux.HandleFunc("/copy", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, struct{ io.Reader }{strings.NewReader("hello")})
	})
	mux.HandleFunc("/flush", func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		_, _ = w.Write([]byte("hello"))
	})
	mux.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	mux.HandleFunc("/kept", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "keep-alive") // as many event streams do
		_, _ = w.Write([]byte("hello"))
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		for _, s := range []string{"he", "llo"} {
			_, _ = io.WriteString(w, s)
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/control", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		err := errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Time{}), rc.EnableFullDuplex(), rc.Flush())
		if r.ProtoMajor == 1 && err != nil || r.ProtoMajor == 2 && errors.Is(err, errors.ErrUnsupported) && rc.Flush() != nil {
			panic(err)
		}
		_, _ = io.WriteString(w, "hello")
	})
	mux.HandleFunc("/methods", func(w http.ResponseWriter, r *http.Request) {
		_, flusher := w.(http.Flusher)
		//lint:ignore SA1019 some still ask
		_, notifier := w.(http.CloseNotifier)
		_, hijacker := w.(http.Hijacker)
		_, reader := w.(io.ReaderFrom)
		_, pusher := w.(http.Pusher)
		_, _ = fmt.Fprint(w, flusher, notifier, hijacker, reader, pusher)
	})
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Connection", "Upgrade")
		w.Header().Set("Upgrade", "line")
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		_ = (&http.Response{StatusCode: 101, ProtoMajor: 1, ProtoMinor: 1, Header: w.Header()}).Write(rw)
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(c, line)
	})
	return mux
}

// While the listeners still accept, every answer on HTTP/1.1 ends its connection.
func TestLameDuckHTTP1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		r := run(t, serve.Config{LameDuck: time.Hour, Servers: []serve.Server{{Name: "app", Listener: l, Handler: kinds()}}})
		old := l.raw(t)
		for range 2 {
			resp, _ := old.get(t, "/plain")
			assert.False(t, resp.Close, "before the drain, connections are kept")
		}
		_, methods := l.raw(t).get(t, "/methods")
		r.stop()
		<-r.log.at("lame duck")

		resp, body := old.get(t, "/plain")
		assert.True(t, resp.Close, "an old connection")
		assert.Equal(t, "hello", body)
		_, _, err := old.answer()
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "and the server closes it")
		for _, path := range answers {
			resp, _ := l.raw(t).get(t, path)
			assert.True(t, resp.Close, "%s: a new connection", path)
		}
		_, now := l.raw(t).get(t, "/methods")
		assert.Equal(t, methods, now, "the writer has the methods it had")

		early := l.raw(t)
		require.NoError(t, early.send("/early"))
		resp, err = http.ReadResponse(early.r, nil)
		require.NoError(t, err)
		assert.Equal(t, 103, resp.StatusCode)
		assert.Equal(t, "</a.css>", resp.Header.Get("Link"))
		assert.False(t, resp.Close, "the connection does not end with a 103")
		resp, body, err = early.answer()
		require.NoError(t, err)
		assert.True(t, resp.Close)
		assert.Equal(t, "hello", body)

		up := l.raw(t)
		_, err = io.WriteString(up, "GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: line\r\n\r\n")
		require.NoError(t, err)
		resp, err = http.ReadResponse(up.r, nil)
		require.NoError(t, err)
		assert.Equal(t, 101, resp.StatusCode)
		assert.Equal(t, []string{"Upgrade"}, resp.Header["Connection"])
		_, err = io.WriteString(up, "ping\n")
		require.NoError(t, err)
		line, err := up.r.ReadString('\n')
		require.NoError(t, err)
		assert.Equal(t, "ping\n", line)

		require.NoError(t, <-r.done)
	})
}

// On HTTP/2 an answer in the lame duck is followed by a GOAWAY: each request
// after it comes on a new connection, and none fails.
func TestLameDuckHTTP2(t *testing.T) {
	server, client := selfSigned(t)
	t.Run("TLS", func(t *testing.T) { lameDuckHTTP2(t, server, client, "https://test") })
	t.Run("plain", func(t *testing.T) { lameDuckHTTP2(t, nil, nil, "http://test") })
}

func lameDuckHTTP2(t *testing.T, server, client *tls.Config, url string) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		if server != nil {
			server.Time, client.Time = wall, wall
		}
		r := run(t, serve.Config{LameDuck: time.Hour, Servers: []serve.Server{{Name: "app", Listener: l, Handler: kinds(), TLS: server}}})
		var dials atomic.Int32
		tr := http2To(client, func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			return l.dial()
		})
		defer tr.CloseIdleConnections()
		get := func(path string) (string, []textproto.MIMEHeader) {
			var early []textproto.MIMEHeader
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
				early = append(early, h)
				return nil
			}})
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
			require.NoError(t, err)
			resp, err := tr.RoundTrip(req)
			require.NoError(t, err)
			assert.Equal(t, 2, resp.ProtoMajor)
			assert.Empty(t, resp.Header["Connection"])
			b, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			synctest.Wait() // a GOAWAY has been read
			return string(b), early
		}
		get("/plain")
		methods, _ := get("/methods")
		require.Equal(t, int32(1), dials.Load())
		r.stop()
		<-r.log.at("lame duck")
		now, _ := get("/methods")
		assert.Equal(t, methods, now, "the writer has the methods it had")
		for i, path := range answers {
			get(path)
			assert.Equal(t, int32(i+2), dials.Load(), "%s came on a connection of its own", path)
		}
		_, early := get("/early")
		require.Len(t, early, 1)
		assert.Equal(t, textproto.MIMEHeader{"Link": {"</a.css>"}}, early[0], "Connection is forbidden on HTTP/2")
		require.NoError(t, <-r.done)
	})
}

// A GOAWAY crosses requests that have to be sent again, so none is sent when
// the listener is about to close, nor when what was sent before may still come.
func TestGoAwayHeldBack(t *testing.T) {
	server, client := selfSigned(t)
	t.Run("TLS", func(t *testing.T) { goAwayHeldBack(t, server, client, "https://test") })
	t.Run("plain", func(t *testing.T) { goAwayHeldBack(t, nil, nil, "http://test") })
}

func goAwayHeldBack(t *testing.T, server, client *tls.Config, url string) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		if server != nil {
			server.Time, client.Time = wall, wall
		}
		entered, release := make(chan struct{}), make(chan struct{})
		r := run(t, serve.Config{LameDuck: time.Hour, Servers: []serve.Server{{Name: "app", Listener: l, TLS: server,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(entered)
					<-release
				}
				_, _ = io.WriteString(w, "hello")
			})}}})
		var dials atomic.Int32
		tr := http2To(client, func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			return l.dial()
		})
		defer tr.CloseIdleConnections()
		get := func(path string) error {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
			if err != nil {
				return err
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, resp.Body)
			return errors.Join(err, resp.Body.Close())
		}
		r.stop()
		<-r.log.at("lame duck")
		began := time.Now()
		at := func(d time.Duration) { time.Sleep(d - time.Since(began)); synctest.Wait() }
		slow := make(chan error, 1)
		go func() { slow <- get("/slow") }()
		<-entered
		at(time.Hour - settle + look)
		close(release)
		require.NoError(t, <-slow, "it began when there were GOAWAYs")
		at(time.Hour - look)
		require.NoError(t, get("/"))
		at(time.Hour + settle - look)
		require.NoError(t, get("/"))
		require.Equal(t, int32(1), dials.Load(), "all on one connection")
		at(time.Hour + settle + look)
		require.NoError(t, get("/"))
		synctest.Wait()
		require.ErrorIs(t, get("/"), net.ErrClosed, "now the connection is over, and there is no other")
		require.NoError(t, <-r.done)
	})
}

// http2To is an HTTP/2 client, with prior knowledge if config is nil.
func http2To(config *tls.Config, dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: config, DialContext: dial}
	if config == nil {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	return tr
}

// wall is the time of the certificates; that of a bubble begins in 2000.
func wall() time.Time { return realNow }

var realNow = time.Now()

// A request on a connection that was idle or new when the listener closed is
// served, and each gives the others no more than their own time.
func TestRequestAfterListenerClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: hello}}})
		idle := l.raw(t)
		idle.get(t, "/")
		fresh, slow := l.raw(t), l.raw(t)
		synctest.Wait()
		r.stop()
		<-r.log.at("draining")
		_, err := l.dial()
		require.ErrorIs(t, err, net.ErrClosed)

		time.Sleep(settle - 2*look)
		resp, body := idle.get(t, "/")
		assert.True(t, resp.Close)
		assert.Equal(t, "hello", body)
		_, err = io.WriteString(slow, "GET / HTTP/1.1\r\n")
		require.NoError(t, err)
		resp, body = fresh.get(t, "/")
		assert.True(t, resp.Close)
		assert.Equal(t, "hello", body)

		time.Sleep(settle - 2*look)
		_, err = io.WriteString(slow, "Host: test\r\n\r\n")
		require.NoError(t, err)
		_, body, err = slow.answer()
		require.NoError(t, err, "a header that is still coming")
		assert.Equal(t, "hello", body)
		require.NoError(t, <-r.done)
	})
}

// Whatever a client sends that does not become a request, it holds the end up
// for no longer than a header may take, of which it may use all.
func TestDribbledHeader(t *testing.T) {
	const pace = settle - 4*look
	for _, c := range []struct {
		name string
		kept bool // the connection has had a request before
		ends bool // the header does
	}{{"new", false, false}, {"kept", true, false}, {"new, whole in time", false, true}, {"kept, whole in time", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newMemory()
				r := run(t, serve.Config{Drain: time.Hour, Servers: []serve.Server{{Name: "app", Listener: l, Handler: hello}}})
				client := l.raw(t)
				if c.kept {
					client.get(t, "/")
				}
				synctest.Wait()
				r.stop()
				<-r.log.at("draining")
				began := time.Now()
				var err error
				for _, part := range []string{"G", "E", "T", " / HTTP/1.1\r\nHost: test\r\nX: "} {
					_, err = io.WriteString(client, part)
					require.NoError(t, err)
					time.Sleep(pace) // net/http counts from the fourth byte
				}
				for time.Since(began) < header-2*pace {
					_, err = io.WriteString(client, "x")
					require.NoError(t, err, "after %v", time.Since(began))
					time.Sleep(pace)
				}
				if c.ends {
					_, err = io.WriteString(client, "\r\n\r\n")
					require.NoError(t, err)
					resp, body, err := client.answer()
					require.NoError(t, err)
					assert.Equal(t, "hello", body)
					assert.True(t, resp.Close)
					require.NoError(t, <-r.done)
					assert.Less(t, time.Since(began), header)
					return
				}
				ended := make(chan struct{})
				go func() { // on and on
					defer close(ended)
					for err == nil {
						_, err = io.WriteString(client, "x")
						time.Sleep(pace)
					}
				}()
				require.NoError(t, <-r.done, "nobody is let down")
				assert.InDelta(t, header, time.Since(began), float64(5*look))
				<-ended
			})
		})
	}
}

// Pings keep an HTTP/2 connection without a request no longer than that either.
func TestPingsInDrain(t *testing.T) {
	server, client := selfSigned(t)
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		if server != nil {
			server.Time, client.Time = wall, wall
		}
		client.NextProtos = []string{"h2"}
		r := run(t, serve.Config{Drain: time.Hour, Servers: []serve.Server{{Name: "app", Listener: l, TLS: server, Handler: hello}}})
		c, err := l.dial()
		require.NoError(t, err)
		tc := tls.Client(c, client)
		defer tc.Close()
		_, err = io.WriteString(tc, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") // and empty SETTINGS
		require.NoError(t, err)
		go func() { _, _ = io.Copy(io.Discard, tc) }() // until the end
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				if _, err := io.WriteString(tc, "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"); err != nil {
					return
				}
				time.Sleep(settle / 2)
			}
		}()
		synctest.Wait()
		r.stop()
		<-r.log.at("draining")
		began := time.Now()
		require.NoError(t, <-r.done)
		took := time.Since(began)
		assert.Greater(t, took, header-5*look)
		assert.Less(t, took, header+1100*time.Millisecond, "with the second that net/http gives a GOAWAY")
		<-ended
	})
}

// Idle and silent connections hold the end up for as long as is promised, not
// for the 5 s of Shutdown.
func TestSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: hello}}})
		l.raw(t).get(t, "/")
		silent := l.raw(t)
		synctest.Wait()
		r.stop()
		<-r.log.at("draining")
		began := time.Now()
		require.NoError(t, <-r.done)
		assert.InDelta(t, settle, time.Since(began), float64(5*look))
		_, err := silent.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF)
	})
}

func TestNothingToDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: newMemory(), Handler: hello}}})
		synctest.Wait()
		r.stop()
		began := time.Now()
		require.NoError(t, <-r.done)
		assert.Less(t, time.Since(began), 5*look)
	})
}

// A lame duck shorter than the time without GOAWAY is as long as it is asked for.
func TestShortLameDuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const short = 100 * time.Millisecond
		r := run(t, serve.Config{LameDuck: short, Servers: []serve.Server{{Name: "app", Listener: newMemory(), Handler: hello}}})
		synctest.Wait()
		r.stop()
		began := time.Now()
		require.NoError(t, <-r.done)
		assert.InDelta(t, short, time.Since(began), float64(5*look))
	})
}

// A listener of the application that terminates TLS keeps its connections as
// they are: net/http has to see who the peer is.
func TestListenerWithTLS(t *testing.T) {
	server, client := selfSigned(t)
	synctest.Test(t, func(t *testing.T) {
		l, got := newMemory(), make(chan net.Conn, 1)
		if server != nil {
			server.Time, client.Time = wall, wall
		}
		r := run(t, serve.Config{Drain: 10 * time.Second, Servers: []serve.Server{{Name: "app", Listener: tls.NewListener(l, server),
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.TLS == nil || !r.TLS.HandshakeComplete {
					panic("no TLS state")
				}
				hijack(got, true).ServeHTTP(w, r)
			})}}})
		c, err := l.dial()
		require.NoError(t, err)
		tc := tls.Client(c, client)
		defer tc.Close()
		_, err = io.WriteString(tc, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
		require.NoError(t, err)
		<-got
		r.stop()
		began := time.Now()
		_, err = tc.Read(make([]byte, 1))
		require.Error(t, err)
		require.ErrorIs(t, <-r.done, context.DeadlineExceeded)
		assert.InDelta(t, 10*time.Second, time.Since(began), float64(5*look))
	})
}

// halves counts CloseWrite and knows the file that net/http may send to it.
type halves struct {
	*memory
	closed, sent atomic.Int32
}

type half struct {
	net.Conn
	of *halves
}

func (h *halves) Accept() (net.Conn, error) {
	c, err := h.memory.Accept()
	if err != nil {
		return nil, err
	}
	return half{c, h}, nil
}

func (h half) CloseWrite() error { h.of.closed.Add(1); return nil }

func (h half) ReadFrom(r io.Reader) (int64, error) {
	h.of.sent.Add(1)
	return io.Copy(struct{ io.Writer }{h.Conn}, r)
}

// What net/http looks for in a connection is still found: it closes in two
// steps after a body that was not read, and lets the kernel copy files.
func TestConnectionMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &halves{memory: newMemory()}
		r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "65536")
				_, err := io.CopyN(w, zeros{}, 65536)
				if err != nil {
					panic(err)
				}
			})}}})
		c := l.raw(t)
		_, body := c.get(t, "/")
		assert.Len(t, body, 65536)
		assert.Equal(t, int32(1), l.sent.Load())
		_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n")
		require.NoError(t, err)
		_, _, err = c.answer()
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, int32(1), l.closed.Load())
		r.stop()
		require.NoError(t, <-r.done)
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A request that runs is waited for, and cut at the deadline.
func TestRunningRequest(t *testing.T) {
	for _, c := range []struct {
		name string
		take time.Duration
		cut  bool
	}{{"ends in time", 9 * time.Second, false}, {"too long", 11 * time.Second, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newMemory()
				r := run(t, serve.Config{Drain: 10 * time.Second, Servers: []serve.Server{{Name: "app", Listener: l,
					Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						select {
						case <-time.After(c.take):
							_, _ = io.WriteString(w, "whole")
						case <-r.Context().Done():
						}
					})}}})
				conn := l.raw(t)
				require.NoError(t, conn.send("/"))
				synctest.Wait()
				r.stop()
				began := time.Now()
				_, body, err := conn.answer()
				if !c.cut {
					require.NoError(t, err)
					assert.Equal(t, "whole", body)
					require.NoError(t, <-r.done)
					return
				}
				require.Error(t, err)
				err = <-r.done
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorContains(t, err, "serve: app: drain: 1 connections cut")
				assert.InDelta(t, 10*time.Second, time.Since(began), float64(5*look))
			})
		})
	}
}

// A handler that does not notice is not waited for without end, and is told of.
func TestDeafHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, wake := newMemory(), make(chan struct{})
		r := run(t, serve.Config{Drain: 10 * time.Second, Servers: []serve.Server{{Name: "app", Listener: l,
			Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-wake })}}})
		require.NoError(t, l.raw(t).send("/"))
		synctest.Wait()
		r.stop()
		began := time.Now()
		require.ErrorContains(t, <-r.done, "handlers still run")
		assert.InDelta(t, 11*time.Second, time.Since(began), float64(5*look))
		close(wake)
	})
}

// hijack hands each hijacked connection over and returns, or stays until the
// connection ends.
func hijack(got chan<- net.Conn, stay bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		got <- c
		if stay {
			_, _ = c.Read(make([]byte, 1))
		}
	})
}

// Hijacked connections are closed at the deadline, before Run returns.
func TestHijackedAtDeadline(t *testing.T) {
	for _, stay := range []bool{true, false} {
		t.Run(fmt.Sprintf("handler stays %v", stay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, got := newMemory(), make(chan net.Conn, 1)
				r := run(t, serve.Config{Drain: 10 * time.Second, Servers: []serve.Server{{Name: "app", Listener: l, Handler: hijack(got, stay)}}})
				client := l.raw(t)
				require.NoError(t, client.send("/"))
				c := <-got
				synctest.Wait()
				r.stop()
				began := time.Now()
				require.ErrorIs(t, <-r.done, context.DeadlineExceeded)
				assert.InDelta(t, 10*time.Second, time.Since(began), float64(5*look))
				_, err := c.Write([]byte("x"))
				assert.ErrorIs(t, err, io.ErrClosedPipe)
				_, err = client.r.ReadByte()
				assert.ErrorIs(t, err, io.EOF)
			})
		})
	}
}

// An application that ends its hijacked connections when it is told to ends
// the drain with them.
func TestHijackedEndsOnDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, got := newMemory(), make(chan net.Conn, 1)
		var refused error
		r := run(t, serve.Config{
			Servers: []serve.Server{{Name: "app", Listener: l, Handler: hijack(got, false)}},
			OnDrain: func() {
				_, refused = l.dial()
				time.Sleep(3 * time.Second) // a farewell
				_ = (<-got).Close()
			},
		})
		require.NoError(t, l.raw(t).send("/"))
		synctest.Wait()
		r.stop()
		began := time.Now()
		require.NoError(t, <-r.done)
		assert.ErrorIs(t, refused, net.ErrClosed, "the listener is closed before OnDrain")
		assert.InDelta(t, 3*time.Second, time.Since(began), float64(5*look))
	})
}

func TestOnDrainHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{})
		r := run(t, serve.Config{
			Drain:   10 * time.Second,
			Servers: []serve.Server{{Name: "app", Listener: newMemory(), Handler: hello}},
			OnDrain: func() { <-wake },
		})
		r.stop()
		began := time.Now()
		require.ErrorContains(t, <-r.done, "OnDrain still runs")
		assert.InDelta(t, 11*time.Second, time.Since(began), float64(5*look))
		close(wake)
	})
}

func TestGRPCEndsGracefully(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g := newMemory(), newFakeGRPC()
		g.calls = make(chan struct{})
		r := run(t, serve.Config{Servers: []serve.Server{
			{Name: "rpc", Listener: l, GRPC: g}, {Name: "app", Listener: newMemory(), Handler: hello},
		}})
		fresh, silent := l.raw(t), l.raw(t)
		synctest.Wait()
		r.stop()
		<-r.log.at("draining")
		began := time.Now()
		time.Sleep(settle - 2*look)
		_, err := io.WriteString(fresh, "late\n")
		require.NoError(t, err)
		line, err := fresh.r.ReadString('\n')
		require.NoError(t, err, "a connection that was accepted before the close")
		assert.Equal(t, "heard late\n", line)
		_, err = silent.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		synctest.Wait()
		graceful, _ := g.times()
		assert.InDelta(t, settle, graceful.Sub(began), float64(5*look))
		time.Sleep(5 * time.Second)
		close(g.calls)
		require.NoError(t, <-r.done, "what Serve returns after the stop is its normal end")
		_, stopped := g.times()
		assert.Zero(t, stopped)
	})
}

// GracefulStop that hangs, on a call or on a handshake, is followed by Stop at
// the deadline.
func TestGRPCStopAtDeadline(t *testing.T) {
	for _, c := range []struct{ name, sent string }{{"call", ""}, {"handshake", "half a lin"}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, g := newMemory(), newFakeGRPC()
				if c.sent == "" {
					g.calls = make(chan struct{})
				}
				r := run(t, serve.Config{Drain: 10 * time.Second, Servers: []serve.Server{{Name: "rpc", Listener: l, GRPC: g}}})
				client := l.raw(t)
				if c.sent != "" {
					_, err := io.WriteString(client, c.sent)
					require.NoError(t, err)
				}
				synctest.Wait()
				r.stop()
				began := time.Now()
				err := <-r.done
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorContains(t, err, "serve: rpc: drain")
				assert.NotContains(t, err.Error(), "still run")
				_, stopped := g.times()
				assert.InDelta(t, 10*time.Second, stopped.Sub(began), float64(5*look))
				assert.InDelta(t, 10*time.Second, time.Since(began), float64(5*look))
			})
		})
	}
}

// failing ends its Serve when told to.
type failing struct {
	*fakeGRPC
	fail chan error
}

func (f *failing) Serve(net.Listener) error { return <-f.fail }

// A server that fails ends the others, in the lame duck too, and they drain.
func TestServerFails(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name     string
		lameDuck bool
		err      error
		want     string
	}{
		{"serving", false, broken, "serve: rpc: broken"},
		{"lame duck", true, broken, "serve: rpc: broken"},
		{"without an error", false, nil, "serve: rpc: ended by itself"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, bad, f := newMemory(), newMemory(), &failing{fakeGRPC: newFakeGRPC(), fail: make(chan error, 1)}
				r := run(t, serve.Config{LameDuck: time.Hour, Servers: []serve.Server{
					{Name: "app", Listener: l, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						time.Sleep(3 * time.Second)
						_, _ = io.WriteString(w, "whole")
					})},
					{Name: "rpc", Listener: bad, GRPC: f},
				}})
				client := l.raw(t)
				require.NoError(t, client.send("/"))
				if c.lameDuck {
					r.stop()
					<-r.log.at("lame duck")
				}
				began := time.Now()
				f.fail <- c.err
				_, body, err := client.answer()
				require.NoError(t, err)
				assert.Equal(t, "whole", body)
				err = <-r.done
				require.ErrorContains(t, err, c.want)
				assert.Less(t, time.Since(began), 10*time.Second, "no lame duck")
				_, err = bad.dial()
				assert.ErrorIs(t, err, net.ErrClosed)
			})
		})
	}
}

// wrapped is a listener that embeds one of package net, as those do that put
// TLS or the PROXY protocol in front: it must not be passed by.
type wrapped struct {
	*net.TCPListener
	accepted atomic.Int32
}

func (w *wrapped) Accept() (net.Conn, error) {
	c, err := w.TCPListener.Accept()
	if err == nil {
		w.accepted.Add(1)
	}
	return c, err
}

// Connections that the kernel has completed and nobody has accepted are served.
func TestQueuedConnections(t *testing.T) {
	const n = 50
	for _, kind := range []string{"tcp", "unix", "wrapped"} {
		t.Run(kind, func(t *testing.T) {
			network, addr := "tcp", "127.0.0.1:0"
			if kind == "unix" {
				network, addr = "unix", filepath.Join(t.TempDir(), "s")
			}
			l, err := net.Listen(network, addr)
			require.NoError(t, err)
			w := &wrapped{}
			used := l
			if kind == "wrapped" {
				w.TCPListener = l.(*net.TCPListener)
				used = w
			}
			g, accept := newFakeGRPC(), make(chan struct{})
			g.accept = accept
			r := run(t, serve.Config{Servers: []serve.Server{{Name: "rpc", Listener: used, GRPC: g}}})
			clients := make([]net.Conn, n)
			for i := range clients {
				clients[i], err = net.Dial(network, l.Addr().String())
				require.NoError(t, err)
				defer clients[i].Close()
				_, err = fmt.Fprintf(clients[i], "%d\n", i)
				require.NoError(t, err)
			}
			r.stop()
			if kind == "wrapped" {
				<-r.log.at("closing listeners") // it is only closed once it accepts
			} else {
				<-closed(network, l.Addr().String())
			}
			close(accept)
			for i, c := range clients {
				line, err := bufio.NewReader(c).ReadString('\n')
				require.NoError(t, err)
				assert.Equal(t, fmt.Sprintf("heard %d\n", i), line)
			}
			require.NoError(t, <-r.done)
			if kind == "wrapped" {
				assert.Equal(t, int32(n), w.accepted.Load(), "all came through the listener's own Accept")
			}
		})
	}
}

// What a server that has failed will not accept is closed, not kept.
func TestQueuedConnectionsOfFailedServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &failing{fakeGRPC: newFakeGRPC(), fail: make(chan error, 1)}
	r := run(t, serve.Config{Servers: []serve.Server{{Name: "rpc", Listener: l, GRPC: f}}})
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	f.fail <- errors.New("broken")
	require.ErrorContains(t, <-r.done, "broken")
	files := openFiles(t)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	assert.Equal(t, files, openFiles(t))
}

// A stop during the start is no failure.
func TestStopBeforeListen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := newMemory()
	require.NoError(t, serve.Run(ctx, serve.Config{Logger: quiet, Servers: []serve.Server{
		{Name: "given", Listener: l, Handler: hello},
		{Name: "app", Addr: "localhost:0", Handler: hello}, // to be looked up, which notices
	}}))
	_, err := l.dial()
	require.ErrorIs(t, err, net.ErrClosed)
}

// The probes answer through lame duck and drain, and end last.
func TestProbesInDrain(t *testing.T) {
	log := newEvents()
	entered, release := make(chan struct{}), make(chan struct{})
	addrs, stop := start(t, serve.Config{
		Logger: slogOf(log), LameDuck: time.Millisecond, Health: "127.0.0.1:0",
		Servers: []serve.Server{{Name: "app", Addr: "127.0.0.1:0", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(entered)
			<-release
		})}},
	})
	answered := make(chan error, 1)
	go func() {
		r, err := newRaw(net.Dial("tcp", addrs["app"].String()))
		if err == nil {
			defer r.Close()
			if err = r.send("/"); err == nil {
				_, _, err = r.answer()
			}
		}
		answered <- err
	}()
	<-entered
	base := "http://" + addrs["health"].String()
	probe := func(when string) {
		code, body := get(t, base+"/readyz")
		assert.Equal(t, 503, code, when)
		assert.Equal(t, "draining\n", body, when)
		code, _ = get(t, base+"/healthz")
		assert.Equal(t, 200, code, when)
	}
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	<-log.at("lame duck")
	probe("lame duck")
	<-log.at("draining")
	<-closed("tcp", addrs["app"].String())
	probe("the others drain")
	close(release)
	require.NoError(t, <-answered)
	require.NoError(t, <-ended)
	_, err := net.Dial("tcp", addrs["health"].String())
	assert.Error(t, err)
}

// A client that goes on calling does not put GracefulStop off: it is what tells
// the client to go.
func TestGRPCBusyClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g := newMemory(), newFakeGRPC()
		r := run(t, serve.Config{Drain: 10 * time.Second, Servers: []serve.Server{{Name: "rpc", Listener: l, GRPC: g}}})
		client := l.raw(t)
		end, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-end:
					_, _ = io.WriteString(client, "\n")
					_, _ = io.Copy(io.Discard, client) // the answer
					return
				case <-tick.C:
					_, _ = io.WriteString(client, "x")
				}
			}
		}()
		time.Sleep(time.Second)
		r.stop()
		began := time.Now()
		time.Sleep(2 * time.Second)
		graceful, _ := g.times()
		require.False(t, graceful.IsZero(), "it waits for the client")
		assert.Less(t, graceful.Sub(began), 2*settle)
		close(end)
		<-ended
		require.NoError(t, <-r.done)
	})
}
