package gatemesh_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestWriterHooks(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(w http.ResponseWriter){
		"WriteHeader": func(w http.ResponseWriter) { w.WriteHeader(200); w.WriteHeader(500) },
		"Write":       func(w http.ResponseWriter) { _, _ = w.Write(nil) },
		"Flush":       func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"ReadFrom":    func(w http.ResponseWriter) { _, _ = io.Copy(w, strings.NewReader("x")) },
		"nothing":     func(http.ResponseWriter) {},
	} {
		order := ""
		h := entry(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, ok := gatemesh.Writer(struct{ http.ResponseWriter }{w})
			assert.False(t, ok, "a wrapper without Unwrap hides it")
			rw, found := gatemesh.Writer(w)
			require.True(t, found)
			rw.Before(func(status int, h http.Header) {
				order += "a"
				assert.Equal(t, 200, status)
				h.Set("X-Hook", "a")
				h.Set("X-Request-Id", "the hook's own")
			})
			rw.Before(func(_ int, h http.Header) { order += "b"; h.Add("X-Hook", "b") })
			assert.Zero(t, rw.Status())
			write(w)
			if name != "nothing" {
				assert.Equal(t, 200, rw.Status())
			}
			rw.Before(func(int, http.Header) {
				if name != "nothing" {
					order += "too late"
				}
			})
		}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request("/"))
		assert.Equal(t, "ab", order, name)
		assert.Equal(t, []string{"a", "b"}, w.Header()["X-Hook"])
		require.Len(t, w.Header()["X-Request-Id"], 1)
		assert.Regexp(t, "^[0-9a-f]{32}$", w.Header().Get("X-Request-Id"), "%s: ours stands last", name)
	}
}

func TestWriterFields(t *testing.T) {
	t.Parallel()
	field := func(name, value string) []gatemesh.Field { return []gatemesh.Field{{Name: name, Value: value}} }
	h := chain(gatemesh.EntryConfig{},
		admits("client limit", gatemesh.Admission{Header: field("RateLimit", `"client";r=9`)}),
		admits("consumer limit", gatemesh.Admission{Header: field("Ratelimit", `"consumer";r=4`)}),
	).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("RateLimit", "the upstream's own")
		w.Header()["X-Request-Id"] = []string{"a", "b"}
		w.Header().Set("X-Kept", "yes")
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request("/"))
	assert.Equal(t, []string{`"client";r=9`, `"consumer";r=4`}, w.Header().Values("RateLimit"))
	assert.Len(t, w.Header()["X-Request-Id"], 1)
	assert.Equal(t, "yes", w.Header().Get("X-Kept"))

	// The fields of earlier gates stand beside those of a refusal.
	h = chain(gatemesh.EntryConfig{}, admits("a", gatemesh.Admission{Header: field("RateLimit", "a")}),
		refuses("b", gatemesh.Deny(gatemesh.ResourceExhausted, "slow", "").WithField("RateLimit", "b").WithRetryAfter(1)),
	).Handler(noContent)
	w = httptest.NewRecorder()
	h.ServeHTTP(w, request("/"))
	assert.Equal(t, []string{"a", "b"}, w.Header().Values("RateLimit"))
	assert.Equal(t, []string{"1"}, w.Header()["Retry-After"])
}

// TestWriterOnTheWire checks 1xx, trailers, ReadFrom and Flush with net/http.
func TestWriterOnTheWire(t *testing.T) {
	t.Parallel()
	observer := &recorder{}
	hooks := 0
	s := serve(t, chain(gatemesh.EntryConfig{Observer: observer}, admits("g", gatemesh.Admission{Header: []gatemesh.Field{{Name: "X-Gate", Value: "1"}}})).
		Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rw, _ := gatemesh.Writer(w)
			rw.Before(func(int, http.Header) { hooks++ })
			w.Header().Set("Link", "</a.css>")
			w.WriteHeader(http.StatusEarlyHints)
			assert.Zero(t, hooks, "1xx runs no hook")
			assert.Zero(t, rw.Status())
			if r.URL.Path == "/panic" {
				panic("x")
			}
			w.Header().Set("Trailer", "X-Sum")
			n, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("hello "))
			assert.NoError(t, err)
			assert.EqualValues(t, 6, n)
			assert.NoError(t, http.NewResponseController(w).Flush())
			_, _ = io.WriteString(w, "world")
			w.Header().Set("X-Sum", "42")
			assert.EqualValues(t, 11, rw.Bytes())
			_, ok := rw.Unwrap().(*gatemesh.ResponseWriter)
			assert.False(t, ok)
		})))
	client := s.Client()
	get := func(path string) (resp *http.Response, body string, early int) {
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				early = code
				assert.Empty(t, h["X-Gate"])
				assert.Empty(t, h["X-Request-Id"])
				return nil
			},
		})
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
		require.NoError(t, err)
		resp, err = client.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		return resp, bodyOf(t, resp), early
	}
	resp, body, early := get("/")
	assert.Equal(t, 103, early)
	assert.Equal(t, "hello world", body)
	assert.Equal(t, "1", resp.Header.Get("X-Gate"))
	assert.Equal(t, "42", resp.Trailer.Get("X-Sum"))
	assert.Equal(t, 1, hooks)

	hooks = 0
	resp, body, early = get("/panic")
	assert.Equal(t, 103, early)
	assert.Equal(t, 500, resp.StatusCode)
	assert.Contains(t, body, `"reason":"internal"`)
	assert.Empty(t, resp.Header.Get("Link"))
}

// TestWriterSwitchingProtocols: 101 is final, though it begins with a 1.
func TestWriterSwitchingProtocols(t *testing.T) {
	t.Parallel()
	h := entry(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusSwitchingProtocols)
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request("/"))
	assert.Equal(t, http.StatusSwitchingProtocols, w.Code)
	assert.Len(t, w.Header()["X-Request-Id"], 1)
}

// plainWriter can do nothing but what http.ResponseWriter asks.
type plainWriter struct{ http.ResponseWriter }

func TestWriterOverAPlainOne(t *testing.T) {
	t.Parallel()
	h := entry(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		assert.ErrorIs(t, http.NewResponseController(w).Flush(), http.ErrNotSupported)
		_, _, err := http.NewResponseController(w).Hijack()
		assert.ErrorIs(t, err, http.ErrNotSupported)
		n, err := io.Copy(w, bufio.NewReader(strings.NewReader("x")))
		assert.NoError(t, err)
		assert.EqualValues(t, 1, n)
	}))
	w := httptest.NewRecorder()
	h.ServeHTTP(plainWriter{w}, request("/"))
	assert.Equal(t, "x", w.Body.String())
}
