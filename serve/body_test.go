package serve_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/serve"
)

// bodies answers with and without reading what comes.
func bodies() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/refused", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	mux.HandleFunc("/duplex", func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		if err := rc.EnableFullDuplex(); err != nil {
			panic(err)
		}
		w.WriteHeader(http.StatusUnauthorized)
	})
	mux.HandleFunc("/read", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(b)
	})
	mux.HandleFunc("/smuggled", func(http.ResponseWriter, *http.Request) { panic("a body was taken for a request") })
	return mux
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"

// A request whose body is not read is answered and its connection closed in a
// bounded time, whatever of the body comes, and none of it becomes a request.
func TestUnreadBody(t *testing.T) {
	server, client := selfSigned(t)
	for _, c := range []struct {
		name, path, header string
		atOnce             bool // the answer comes before the body could
	}{
		{"expects 100", "/refused", "Expect: 100-continue\r\nContent-Length: 1000\r\n", true},
		{"expects 100, chunked", "/refused", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", true},
		{"length", "/refused", "Content-Length: 1000\r\n", false},
		{"chunked", "/refused", "Transfer-Encoding: chunked\r\n", false},
		{"duplex", "/duplex", "Content-Length: 1000\r\n", true},
	} {
		for _, secure := range []bool{false, true} {
			for _, sends := range []string{"nothing", "little by little"} {
				name := c.name + ", " + sends
				if secure {
					name += ", TLS"
				}
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						l := newMemory()
						s := serve.Server{Name: "app", Listener: l, Handler: bodies()}
						if secure {
							server.Time, client.Time = wall, wall
							s.TLS = server
						}
						r := run(t, serve.Config{Drain: time.Hour, Servers: []serve.Server{s}})
						conn := l.raw(t)
						if secure {
							conn = conn.secure(t, client)
						}
						began := time.Now()
						_, err := io.WriteString(conn, "POST "+c.path+" HTTP/1.1\r\nHost: test\r\n"+c.header+"\r\n")
						require.NoError(t, err)
						ended := make(chan struct{})
						go func() {
							defer close(ended)
							if sends == "nothing" {
								return
							}
							for {
								time.Sleep(time.Second)
								part := "x"
								if strings.Contains(c.header, "chunked") {
									part = "1\r\nx\r\n"
								}
								if time.Since(began) > header {
									part = smuggled
								}
								if _, err := io.WriteString(conn, part); err != nil {
									return
								}
							}
						}()
						resp, _, err := conn.answer()
						require.NoError(t, err)
						assert.Equal(t, 401, resp.StatusCode, "and no 100 before it")
						if c.atOnce {
							assert.Zero(t, time.Since(began))
						} else {
							assert.Equal(t, header, time.Since(began))
						}
						_, err = conn.r.ReadByte()
						require.Error(t, err, "the connection is closed")
						assert.Equal(t, header, time.Since(began))
						_ = conn.Close()
						<-ended
						r.stop()
						require.NoError(t, <-r.done)
					})
				})
			}
		}
	}
}

// A body that comes in time, or is read however long it takes by a server that
// allows for it, is not disturbed, and its connection serves on.
func TestSlowBody(t *testing.T) {
	for _, c := range []struct {
		name, path string
		pace       time.Duration
		status     int
		forever    bool
	}{{"unread", "/refused", time.Second, 401, false}, {"read", "/read", 10 * time.Second, 200, false}, {"read for ever", "/read", time.Minute, 200, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newMemory()
				r := run(t, serve.Config{DisableBodyTimeout: c.forever, Servers: []serve.Server{{Name: "app", Listener: l, Handler: bodies()}}})
				conn := l.raw(t)
				for range 3 {
					_, err := io.WriteString(conn, "POST "+c.path+" HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n")
					require.NoError(t, err)
					for range 5 {
						time.Sleep(c.pace)
						_, err = io.WriteString(conn, "x")
						require.NoError(t, err)
					}
					resp, _, err := conn.answer()
					require.NoError(t, err)
					assert.Equal(t, c.status, resp.StatusCode)
					assert.False(t, resp.Close)
					time.Sleep(time.Minute) // the connection is idle, and nobody's patience ends
				}
				r.stop()
				require.NoError(t, <-r.done)
			})
		})
	}
}

// Who was refused and keeps his connection does not hold up the drain.
func TestUnreadBodyInDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		r := run(t, serve.Config{Drain: time.Hour, Servers: []serve.Server{{Name: "app", Listener: l, Handler: bodies()}}})
		for _, h := range []string{"Expect: 100-continue\r\nContent-Length: 5\r\n", "Content-Length: 5\r\n"} {
			conn := l.raw(t)
			_, err := io.WriteString(conn, "POST /refused HTTP/1.1\r\nHost: test\r\n"+h+"\r\n")
			require.NoError(t, err)
			go func() { _, _ = io.Copy(io.Discard, conn) }() // until the end
		}
		synctest.Wait()
		r.stop()
		began := time.Now()
		require.NoError(t, <-r.done)
		assert.LessOrEqual(t, time.Since(began), header+5*look)
	})
}

// Expect: 100-continue works for those who are let in.
func TestExpectContinue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: bodies()}}})
		conn := l.raw(t)
		for range 2 {
			_, err := io.WriteString(conn, "POST /read HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
			require.NoError(t, err)
			resp, err := http.ReadResponse(conn.r, nil)
			require.NoError(t, err)
			require.Equal(t, 100, resp.StatusCode)
			_, err = io.WriteString(conn, "hello")
			require.NoError(t, err)
			resp, body, err := conn.answer()
			require.NoError(t, err)
			assert.Equal(t, 200, resp.StatusCode)
			assert.Equal(t, "hello", body)
			assert.False(t, resp.Close)
		}
		r.stop()
		require.NoError(t, <-r.done)
	})
}

// Behind a TLS listener of the application, whose connections are not ours to
// wrap, the connection is closed all the same.
func TestUnreadBodyOfForeignTLS(t *testing.T) {
	server, client := selfSigned(t)
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		server.Time, client.Time = wall, wall
		r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: tls.NewListener(l, server), Handler: bodies()}}})
		conn := l.raw(t).secure(t, client)
		began := time.Now()
		_, err := io.WriteString(conn, "POST /refused HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n")
		require.NoError(t, err)
		_, err = conn.r.ReadByte()
		require.Error(t, err)
		assert.Equal(t, header, time.Since(began))
		_ = conn.Close()
		r.stop()
		require.NoError(t, <-r.done)
	})
}

// wrapping puts something around what it accepts.
type wrapping struct{ net.Listener }

func wrap(l net.Listener) net.Listener { return wrapping{l} }

func (l wrapping) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return around{c}, nil
}

type around struct{ net.Conn }

func (c around) NetConn() net.Conn { return c.Conn }

// Inside of what Wrap puts around it, the connection is ours: the answer comes
// before it is closed.
func TestUnreadBodyOfWrapped(t *testing.T) {
	server, client := selfSigned(t)
	for _, secure := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newMemory()
			server.Time, client.Time = wall, wall
			s := serve.Server{Name: "app", Listener: l, Handler: bodies(), Wrap: wrap}
			if secure {
				s.Wrap = func(l net.Listener) net.Listener { return tls.NewListener(wrap(l), server) }
			}
			r := run(t, serve.Config{Servers: []serve.Server{s}})
			conn := l.raw(t)
			if secure {
				conn = conn.secure(t, client)
			}
			began := time.Now()
			_, err := io.WriteString(conn, "POST /refused HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n")
			require.NoError(t, err)
			line, err := conn.r.ReadString('\n')
			require.NoError(t, err)
			assert.Contains(t, line, "401")
			assert.Equal(t, header, time.Since(began))
			_ = conn.Close()
			r.stop()
			require.NoError(t, <-r.done)
		})
	}
}
