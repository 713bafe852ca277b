package mux

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/websocket"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSame: who has a key gets what everybody got before.
func TestSame(t *testing.T) {
	f := harness.Enter(t)
	before, after := "http://"+harness.Serve(t, Before), "http://"+harness.Serve(t, After)
	for _, tt := range []struct{ method, path, want string }{
		{"GET", "/items/a%2Eb", `item a.b of "GET /items/{id}"`},
		{"HEAD", "/items/1", "200"},
		{"POST", "/items", `got "the body"`},
		{"GET", "/export", "X-Rows: 1"}, // a trailer
		{"GET", "/old/thing", "301"},
		{"GET", "/nothing", "404 page not found"},
		{"DELETE", "/items/1", "Allow: GET, HEAD"}, // 405
		{"GET", "/events", "text/event-stream"},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			if tt.path == "/events" {
				for _, url := range []string{before, after} {
					assert.Equal(t, "data: hello\n", firstLine(t, url+"/events", f.Key))
				}
				return
			}
			was := harness.Do(t, tt.method, before+tt.path)
			is := harness.Do(t, tt.method, after+tt.path, "X-Api-Key", f.Key)
			assert.Equal(t, was.String(), is.String())
			assert.Contains(t, is.String(), tt.want)
			assert.Len(t, is.Header.Get(gatemesh.RequestIDHeader), 32)
			assert.Empty(t, was.Header.Get(gatemesh.RequestIDHeader))
		})
	}
}

// firstLine returns the first line of a response that goes on.
func firstLine(t *testing.T, url, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // it comes at once, or never
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	r.Header.Set("X-Api-Key", key)
	transport := &http.Transport{}
	resp, err := transport.RoundTrip(r)
	require.NoError(t, err)
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	transport.CloseIdleConnections()
	return line
}

// TestSocket: a connection that the handler hijacks is still its own.
func TestSocket(t *testing.T) {
	f := harness.Enter(t)
	before, after := harness.Serve(t, Before), harness.Serve(t, After)
	for name, addr := range map[string]string{"before": before, "after": after} {
		t.Run(name, func(t *testing.T) {
			cfg, err := websocket.NewConfig("ws://"+addr+"/socket", "http://"+addr)
			require.NoError(t, err)
			cfg.Header.Set("X-Api-Key", f.Key)
			c, err := cfg.DialContext(t.Context())
			require.NoError(t, err)
			_, err = io.WriteString(c, "ping")
			require.NoError(t, err)
			buf := make([]byte, 4)
			_, err = io.ReadFull(c, buf)
			require.NoError(t, err)
			assert.Equal(t, "ping", string(buf))
			require.NoError(t, c.Close())
		})
	}
	cfg, err := websocket.NewConfig("ws://"+after+"/socket", "http://"+after)
	require.NoError(t, err)
	_, err = cfg.DialContext(t.Context())
	assert.Error(t, err, "without a key")
}

// TestAdded: what the lines bring.
func TestAdded(t *testing.T) {
	f := harness.Enter(t)
	url := "http://" + harness.Serve(t, After)
	for _, fields := range [][]string{nil, {"X-Api-Key", "wrong"}, {"X-Api-Key", f.Key, "X-Api-Key", f.OtherKey}} {
		a := harness.Do(t, "GET", url+"/items/1", fields...)
		assert.Equal(t, http.StatusUnauthorized, a.Status)
		assert.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
		assert.Contains(t, a.Body, a.Header.Get(gatemesh.RequestIDHeader))
	}
	a := harness.Do(t, "GET", url+"/items/1", "X-Api-Key", f.Key, gatemesh.RequestIDHeader, "chosen")
	assert.NotEqual(t, "chosen", a.Header.Get(gatemesh.RequestIDHeader), "of a stranger")
	assert.Contains(t, a.Header.Values("Ratelimit"), `"consumer";r=19;t=60`)
	a = harness.Do(t, "GET", url+"/items/..%2Fadmin", "X-Api-Key", f.Key)
	assert.Equal(t, http.StatusBadRequest, a.Status, "ambiguous")
	for range 19 {
		require.Equal(t, 200, harness.Do(t, "GET", url+"/items/1", "X-Api-Key", f.Key).Status)
	}
	a = harness.Do(t, "GET", url+"/items/1", "X-Api-Key", f.Key)
	assert.Equal(t, http.StatusTooManyRequests, a.Status)
	assert.NotEmpty(t, a.Header.Get("Retry-After"))
	assert.True(t, strings.HasPrefix(a.Header.Get("Content-Type"), "application/problem+json"))
	assert.Equal(t, 200, harness.Do(t, "GET", url+"/items/1", "X-Api-Key", f.OtherKey).Status, "another consumer")
}

// TestDiffers: what is not as before, as the README says.
func TestDiffers(t *testing.T) {
	f := harness.Enter(t)
	before, after := "http://"+harness.Serve(t, Before), "http://"+harness.Serve(t, After)
	for _, path := range []string{"/items//1", "/nothing/../items/1"} { // the mux redirects
		was, is := harness.Do(t, "GET", before+path), harness.Do(t, "GET", after+path, "X-Api-Key", f.Key)
		assert.Equal(t, 3, was.Status/100)
		assert.Equal(t, http.StatusBadRequest, is.Status)
	}
	was, is := harness.Do(t, "GET", before+"/items/a%2Fb"), harness.Do(t, "GET", after+"/items/a%2Fb", "X-Api-Key", f.Key)
	assert.Contains(t, was.Body, "item a/b")
	assert.Equal(t, http.StatusBadRequest, is.Status)
	assert.Equal(t, []string{"", "seen"}, []string{trailer(t, after, f.Key), trailer(t, before, f.Key)})
}

// trailer sends a request with a trailer, and returns what the handler got.
func trailer(t *testing.T, url, key string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/trailer", io.NopCloser(strings.NewReader("body")))
	require.NoError(t, err)
	r.Header.Set("X-Api-Key", key)
	r.Trailer = http.Header{"X-Sum": {"seen"}}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(r)
	require.NoError(t, err)
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return string(got)
}
