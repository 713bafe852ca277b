package routing_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/internal/rttest"
)

// TestLC02_SharedTransport checks the contract of http.RoundTripper for the
// transport that upstreams share, as a Balance gets it, which may also make
// requests of its own with it.
func TestLC02_SharedTransport(t *testing.T) {
	t.Parallel()
	var shared http.RoundTripper
	us := at("http://h")
	us[0].Balance = func(base http.RoundTripper) http.RoundTripper {
		shared = base
		return base
	}
	r := table(to("all", backend))
	r.Upstreams = us
	newRouter(t, r)
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, withBody := range []bool{true, false} {
		p := rttest.NewProbe(t.Context(), url, withBody)
		resp, err := shared.RoundTrip(p.Request)
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		p.Verify(t, "an answer")
		p = rttest.NewProbe(t.Context(), "http://127.0.0.1:1", withBody)
		_, err = shared.RoundTrip(p.Request)
		require.Error(t, err)
		p.Verify(t, "nobody there")
		p = rttest.NewProbe(gone, url, withBody)
		_, err = shared.RoundTrip(p.Request)
		require.ErrorIs(t, err, context.Canceled)
		p.Verify(t, "a canceled context")
	}
}

// TestLC02_ProxyClosesAnswers: whatever becomes of a request, the answer of the
// upstream is closed, and the client's body is not closed before its time.
func TestLC02_ProxyClosesAnswers(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]error{"whole": nil, "broken": errors.New("connection reset")} {
		body := &closing{Reader: strings.NewReader("answer")}
		if broken != nil {
			body.Reader = io.MultiReader(body.Reader, readerFunc(func([]byte) (int, error) { return 0, broken }))
		}
		us := at("http://h")
		us[0].Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: body, ContentLength: -1, Request: r}, nil
		})
		g := gateway{}
		g.cfg.Upstreams = us
		g.handler(t).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		assert.True(t, body.closed, name)
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}
