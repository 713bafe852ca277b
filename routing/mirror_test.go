package routing_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

var shadow = gatemesh.Destination{Service: "shadow-service", Namespace: "production"}

// shadowAt is the upstream of the mirror's destination.
func shadowAt(rt http.RoundTripper) []routing.Upstream {
	return []routing.Upstream{{Service: shadow.Service, URL: "http://10.0.0.2:8080", Transport: rt}}
}

func mirrored(ms ...routing.Mirror) routing.Filters {
	if ms == nil {
		ms = []routing.Mirror{{Destination: shadow}}
	}
	return routing.Filters{Mirrors: ms}
}

// copies receives what a mirror got.
type gotCopy struct {
	method, uri, host, body string
	header                  http.Header
}

func copies(to chan gotCopy) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		c := gotCopy{method: r.Method, uri: r.URL.RequestURI(), host: r.Host, header: r.Header}
		if r.Body != nil {
			c.body = string(gatemesh.Must(io.ReadAll(r.Body)))
			_ = r.Body.Close()
		}
		to <- c
		return &http.Response{StatusCode: 500, Body: io.NopCloser(strings.NewReader("boom")), Header: http.Header{"X-Mirror": {"1"}}, Request: r}, nil
	})
}

func TestMirror(t *testing.T) {
	t.Parallel()
	got := make(chan gotCopy, 4)
	var seenMu sync.Mutex
	var destinations []string
	filters := mirrored(routing.Mirror{Destination: shadow}, routing.Mirror{Destination: shadow, Numerator: 1, Denominator: 1})
	filters.RequestHeader.Set = []gatemesh.Field{field("X-Changed", "1")}
	filters.Rewrite = &routing.Rewrite{Hostname: "inside.example", Path: routing.PathChange{Full: "/v2"}}
	h := filtered{
		upstream: answering,
		layers: []gatemesh.Layer{layer("auth", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Consumed: []string{"Authorization"}}, nil
		})},
		cfg: routing.Config{Upstreams: shadowAt(copies(got)), Outbound: []gatemesh.Layer{minter, layer("who", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			seenMu.Lock()
			defer seenMu.Unlock()
			destinations = append(destinations, c.Destination().Service)
			return gatemesh.Admission{}, nil
		})}},
		route: routing.Route{Filters: filters},
	}.handler(t)

	for _, body := range []string{"", "a body"} {
		req := httptest.NewRequest("POST", "/v1?x=1", iotest.OneByteReader(strings.NewReader(body)))
		req.Header.Set("Authorization", "Bearer SECRET")
		req.Host = "api.example.com"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		require.Equal(t, 200, w.Code)
		assert.NotContains(t, w.Header(), "X-Mirror", "the answer of a mirror is nobody's")
		for range 2 {
			c := receive(t, got)
			assert.Equal(t, "POST", c.method)
			assert.Equal(t, "/v2?x=1", c.uri, "as it is sent to the upstream")
			assert.Equal(t, "inside.example", c.host, "and not marked")
			assert.Equal(t, body, c.body)
			assert.Equal(t, []string{"1"}, c.header["X-Changed"])
			assert.Equal(t, []string{"ours"}, c.header[gatemesh.IdentityHeader], "a call of ours, through the same gates")
			assert.NotContains(t, c.header, "Authorization", "the credential stays here")
			assert.Equal(t, []string{"api.example.com"}, c.header["X-Forwarded-Host"])
		}
	}
	seenMu.Lock()
	defer seenMu.Unlock()
	assert.Contains(t, destinations, shadow.Service, "the gates know where a copy goes")
}

// TestMirrorShare: percents are chances, 0 is never and 100 always.
func TestMirrorShare(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		numerator, denominator uint32
		chance                 float64
		want                   int
	}{{0, 100, 0, 0}, {100, 100, 0.999, 1}, {25, 100, 0.2499, 1}, {25, 100, 0.25, 0}, {1, 3, 0.3333, 1}, {1, 3, 0.3334, 0}} {
		got := make(chan gotCopy, 1)
		f := filtered{upstream: answering, random: func() float64 { return tt.chance },
			cfg: routing.Config{Upstreams: shadowAt(copies(got))}, route: routing.Route{Filters: mirrored(routing.Mirror{Destination: shadow, Numerator: tt.numerator, Denominator: tt.denominator})}}
		r := f.router(t)
		require.Equal(t, 200, do(t, f.behind(t, r), "GET", "/").StatusCode)
		if tt.want == 1 {
			receive(t, got)
		}
		require.NoError(t, r.Close()) // waits for what is under way
		assert.Empty(t, got, "%v", tt)
	}
}

// TestMirrorIsGivenUp: a call never waits for a mirror, nor fails with it.
func TestMirrorIsGivenUp(t *testing.T) {
	t.Parallel()
	send := func(t *testing.T, rt http.RoundTripper, body io.Reader, header ...string) *httptest.ResponseRecorder {
		f := filtered{upstream: answering, cfg: routing.Config{Upstreams: shadowAt(rt)}, route: routing.Route{Filters: mirrored()}}
		r := f.router(t)
		req := httptest.NewRequest("POST", "/", body)
		if _, sized := body.(*strings.Reader); !sized {
			req.ContentLength = -1
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		f.behind(t, r).ServeHTTP(w, req)
		require.NoError(t, r.Close())
		return w
	}
	none := roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("there must be no copy")
		return nil, io.ErrUnexpectedEOF
	})
	long := strings.Repeat("x", 64<<10+1)
	assert.Equal(t, 200, send(t, none, strings.NewReader(long)).Code, "longer than a copy may be")
	assert.Equal(t, 200, send(t, none, io.MultiReader(strings.NewReader(long))).Code, "and nobody said so before")
	assert.Equal(t, 200, send(t, roundTripper(func(*http.Request) (*http.Response, error) { panic("mirror") }), http.NoBody).Code)
	assert.Equal(t, 200, send(t, roundTripper(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }), http.NoBody).Code)
	stuck := make(chan struct{})
	assert.Equal(t, 200, send(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		close(stuck)
		<-r.Context().Done() // until Close
		return nil, r.Context().Err()
	}), http.NoBody).Code)
	receive(t, stuck)
}

// TestMirrorFlood: a stuck mirror holds no more than its slots, and the calls go on.
func TestMirrorFlood(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	inFlight := 0
	log := &recorder{}
	f := filtered{upstream: answering, route: routing.Route{Filters: mirrored()},
		cfg: routing.Config{Observer: log, Upstreams: shadowAt(roundTripper(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			inFlight++
			mu.Unlock()
			<-r.Context().Done()
			return nil, r.Context().Err()
		}))}}
	r := f.router(t)
	h := f.behind(t, r)
	for range 1000 {
		require.Equal(t, 200, do(t, h, "GET", "/").StatusCode)
	}
	require.NoError(t, r.Close())
	mu.Lock()
	defer mu.Unlock()
	assert.LessOrEqual(t, inFlight, 128)
	assert.Greater(t, inFlight, 0)
	told := 0
	for _, e := range log.kind(gatemesh.EventFault) {
		if e.Layer == "mirror" {
			told++
		}
	}
	assert.Greater(t, told, 0)
	assert.Less(t, told, 10, "a log is not filled with it")
	require.Equal(t, 200, do(t, h, "GET", "/").StatusCode, "closed, there are no copies")
}

// TestMirrorOverWire sends bodies over HTTP/1.1 and HTTP/2, and as gRPC does.
func TestMirrorOverWire(t *testing.T) {
	t.Parallel()
	got := make(chan gotCopy, 1)
	shadowed := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got <- gotCopy{method: r.Method, body: string(gatemesh.Must(io.ReadAll(r.Body))), host: r.Proto, header: r.Header}
	}))
	// It reads before it answers: a body that the upstream does not want to its end
	// is not copied.
	reads := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	f := filtered{route: routing.Route{Filters: mirrored()}, cfg: routing.Config{Upstreams: append(at(serve(t, reads)), routing.Upstream{Service: shadow.Service, URL: shadowed})}}
	url := serve(t, f.handler(t))
	for _, tt := range []struct{ contentType, proto string }{{"text/plain", "HTTP/1.1"}, {"application/grpc", "HTTP/2.0"}} {
		tr := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
		if tt.proto == "HTTP/2.0" {
			tr.Protocols.SetUnencryptedHTTP2(true)
		} else {
			tr.Protocols.SetHTTP1(true)
		}
		req := gatemesh.Must(http.NewRequestWithContext(t.Context(), "POST", url+"/p.S/M", io.MultiReader(strings.NewReader("\x00\x00\x00\x00\x01x"))))
		req.Header.Set("Content-Type", tt.contentType)
		req.Header.Set("Te", "trailers")
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		c := receive(t, got)
		assert.Equal(t, "\x00\x00\x00\x00\x01x", c.body)
		assert.Equal(t, tt.proto, c.host)
		tr.CloseIdleConnections()
	}
}

// TestMirrorOfUnwantedBody: what the upstream does not want to its end, has no
// copy, and holds no slot.
func TestMirrorOfUnwantedBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refuses := roundTripper(func(r *http.Request) (*http.Response, error) {
			_, _ = io.ReadFull(r.Body, make([]byte, 2))
			_ = r.Body.Close()
			return &http.Response{StatusCode: 401, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
		})
		f := filtered{upstream: refuses, route: routing.Route{Filters: mirrored()}, cfg: routing.Config{Upstreams: shadowAt(roundTripper(func(*http.Request) (*http.Response, error) {
			t.Error("there must be no copy")
			return nil, io.ErrUnexpectedEOF
		}))}}
		r := f.router(t)
		h := f.behind(t, r)
		for range 200 { // more than there are slots
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader("body"))))
			assert.Equal(t, 401, w.Code)
		}
		assert.Zero(t, r.Copies())
	})
}
