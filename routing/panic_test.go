package routing_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// TestPX09_ProxyPanics: what is foreign about the proxy panics, which is a
// transport and its body, before or after the first byte. The client gets a 500
// or a cut connection, the log one line with a stack, and slots come back.
func TestPX09_ProxyPanics(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		transport roundTripper
		status    int // 0 is none: the connection is cut
	}{
		{"before the first byte", func(*http.Request) (*http.Response, error) { panic("boom") }, 500},
		{"after the first byte", func(r *http.Request) (*http.Response, error) {
			return &http.Response{
				StatusCode: 200, ContentLength: -1, Header: http.Header{"Set-Cookie": {"SECRET-cookie"}}, Request: r,
				Body: io.NopCloser(io.MultiReader(strings.NewReader("half"), readerFunc(func([]byte) (int, error) { panic("boom") }))),
			}, nil
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log logLines
			logger := gatemesh.SlogObserver(slog.New(slog.NewJSONHandler(&log, nil)))
			slot, done := ended(t)
			outSlot, outDone := ended(t)
			us := at("http://127.0.0.1:1")
			us[0].Transport = tt.transport
			url := gateway{
				entry: gatemesh.EntryConfig{Observer: logger}, layers: []gatemesh.Layer{slot},
				cfg: routing.Config{Upstreams: us, Observer: logger, Outbound: []gatemesh.Layer{outSlot}},
			}.start(t)
			resp := raw(t, url, "GET /?SECRET-query HTTP/1.1\nHost: h\nAuthorization: SECRET-token\nConnection: close\n\n")
			body, err := io.ReadAll(resp.Body)
			if tt.status != 0 {
				require.NoError(t, err)
				assert.Equal(t, tt.status, resp.StatusCode)
				assert.Contains(t, string(body), `"reason":"internal"`)
				assert.NotContains(t, string(body), "boom")
			} else {
				assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			}
			assert.True(t, (<-done).Panicked)
			<-outDone
			stacks := 0
			for _, l := range log.all() {
				assert.True(t, json.Valid([]byte(l)), l)
				assert.NotContains(t, l, "SECRET")
				if strings.Contains(l, "goroutine ") {
					stacks++
				}
			}
			assert.Equal(t, 1, stacks, "%q", log.all())
			assert.Empty(t, done)
		})
	}
}

// TestPX09_HandlerBehindEverything: the same of the application's own middleware
// between all layers and the proxy.
func TestPX09_HandlerBehindEverything(t *testing.T) {
	t.Parallel()
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	slot, done := ended(t)
	s := newStack(t, stackConfig{upstream: up, layers: []gatemesh.Layer{slot}, wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/before" {
				panic("boom")
			}
			next.ServeHTTP(w, r)
			_ = http.NewResponseController(w).Flush()
			panic("boom")
		})
	}})
	url := serve(t, s)
	for path, status := range map[string]int{"/before": 500, "/after": 200} {
		resp := raw(t, url, "GET "+path+" HTTP/1.1\nHost: h\n"+s.bearer()+"Connection: close\n\n")
		assert.Equal(t, status, resp.StatusCode)
		_, _ = io.Copy(io.Discard, resp.Body)
		assert.True(t, (<-done).Panicked)
	}
	panics := s.log.kind(gatemesh.EventPanic)
	require.Len(t, panics, 2)
	for _, e := range panics {
		assert.NotContains(t, e.Err.Error(), s.token)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// logLines collects what is written, line by line.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logLines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.buf.String(), "\n"), "\n")
}
