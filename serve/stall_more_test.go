package serve_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/serve"
)

// slowly reads n bytes, a piece of each pace.
func slowly(t *testing.T, r io.Reader, n int64, pace time.Duration) {
	for n > 0 {
		time.Sleep(pace)
		m, err := io.CopyN(io.Discard, r, min(piece, n))
		require.NoError(t, err)
		n -= m
	}
}

// What a slow client of an answer has still to send, or sends next, is read.
func TestSlowAnswerAndBody(t *testing.T) {
	for _, duplex := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l, told := newMemory(), make(chan stalled, 2)
			r := run(t, serve.Config{AnswerTimeout: time.Hour, Servers: []serve.Server{{Name: "app", Listener: l, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if duplex {
					assert.NoError(t, http.NewResponseController(w).EnableFullDuplex())
				} else {
					_, _ = io.Copy(io.Discard, r.Body)
				}
				w.Header().Set("Content-Length", "1048576")
				_, err := w.Write(make([]byte, 1<<20))
				assert.NoError(t, err)
				n, err := io.Copy(io.Discard, r.Body)
				told <- stalled{n, err, 0}
			})}}})
			conn := l.raw(t)
			for range 2 {
				_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n")
				require.NoError(t, err)
				if !duplex {
					_, err = io.WriteString(conn, "x")
					require.NoError(t, err)
				}
				resp, err := http.ReadResponse(conn.r, nil)
				require.NoError(t, err)
				slowly(t, resp.Body, 1<<20, 2*time.Minute)
				if duplex {
					_, err = io.WriteString(conn, "x")
					require.NoError(t, err)
				}
				got := <-told
				if duplex {
					require.NoError(t, got.err)
					assert.EqualValues(t, 1, got.read)
				}
			}
			_ = conn.Close()
			r.stop()
			require.NoError(t, <-r.done)
		})
	}
}

// On HTTP/2, too, a client has time for each part of a long write.
func TestSlowStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, told := newMemory(), make(chan stalled, 1)
		r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: writing(told, 32<<20, 32<<20)}}})
		tr := l.http2(t)
		resp, err := tr.RoundTrip(post(t, "", nil))
		require.NoError(t, err)
		for range 32 {
			time.Sleep(10 * time.Second)
			_, err = io.CopyN(io.Discard, resp.Body, 1<<20)
			require.NoError(t, err)
		}
		require.NoError(t, (<-told).err)
		_ = resp.Body.Close()
		tr.CloseIdleConnections()
		r.stop()
		require.NoError(t, <-r.done)
	})
}

// TestF10_StalledEnd: nor does a client without a window hold what net/http has
// still to write when the handler has returned.
func TestF10_StalledEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemory()
		r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "short")
		})}}})
		conn, err := l.dial()
		require.NoError(t, err)
		began := time.Now()
		go func() {
			frames := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" +
				"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00" + // SETTINGS: a window of 0
				"\x00\x00\x09\x01\x05\x00\x00\x00\x01\x82\x84\x86\x41\x04test" // HEADERS: GET /
			_, _ = io.WriteString(conn, frames)
		}()
		for {
			head := make([]byte, 9)
			_, err := io.ReadFull(conn, head)
			require.NoError(t, err, "no reset of the stream")
			_, err = io.CopyN(io.Discard, conn, int64(head[0])<<16|int64(head[1])<<8|int64(head[2]))
			require.NoError(t, err)
			if head[3] == 3 && binary.BigEndian.Uint32(head[5:]) == 1 { // RST_STREAM
				break
			}
		}
		assert.Equal(t, time.Minute, time.Since(began))
		_ = conn.Close()
		r.stop()
		require.NoError(t, <-r.done)
	})
}

// TestF10_StalledBehindHints: a 1xx answer is none.
func TestF10_StalledBehindHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, told := newMemory(), make(chan stalled, 1)
		r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			reading(told).ServeHTTP(w, r)
		})}}})
		conn := l.raw(t)
		_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n")
		require.NoError(t, err)
		for _, status := range []int{103, 408} {
			resp, _, err := conn.answer()
			require.NoError(t, err)
			assert.Equal(t, status, resp.StatusCode)
		}
		assert.Equal(t, time.Minute, (<-told).after)
		_ = conn.Close()
		r.stop()
		require.NoError(t, <-r.done)
	})
}

// TestLC01_FilesOfForms: the handler has a copy of the request, and the files of
// its form go all the same.
func TestLC01_FilesOfForms(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		assert.NoError(t, r.ParseMultipartForm(1))
		files, err := os.ReadDir(dir)
		assert.NoError(t, err)
		assert.NotEmpty(t, files)
	})}}})
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("f", "f")
	require.NoError(t, err)
	_, err = part.Write(make([]byte, 100<<10))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	tr := &http.Transport{DisableKeepAlives: true}
	req := post(t, w.FormDataContentType(), &form)
	req.URL.Host = l.Addr().String()
	resp, err := tr.RoundTrip(req)
	require.NoError(t, err)
	_ = resp.Body.Close()
	assert.Eventually(t, func() bool {
		files, err := os.ReadDir(dir)
		return err == nil && len(files) == 0
	}, 20*time.Second, time.Millisecond)
	r.stop()
	require.NoError(t, <-r.done)
}

// Nor is a file cut short that a client takes slowly, and readers are left as
// io.Copy leaves them.
func TestSlowFile(t *testing.T) {
	for _, limited := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l, told := newMemory(), make(chan stalled, 1)
			r := run(t, serve.Config{Servers: []serve.Server{{Name: "app", Listener: l, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "1048576")
				lr := &io.LimitedReader{R: zeros{}, N: 1 << 20}
				var from io.Reader = lr
				if !limited {
					from = struct{ io.Reader }{lr}
				}
				n, err := io.Copy(w, from)
				assert.Zero(t, lr.N)
				told <- stalled{n, err, 0}
			})}}})
			conn := l.raw(t)
			require.NoError(t, conn.send("/"))
			resp, err := http.ReadResponse(conn.r, nil)
			require.NoError(t, err)
			slowly(t, resp.Body, 1<<20, 20*time.Second)
			got := <-told
			require.NoError(t, got.err)
			assert.EqualValues(t, 1<<20, got.read)
			_ = conn.Close()
			r.stop()
			require.NoError(t, <-r.done)
		})
	}
}
