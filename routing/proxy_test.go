package routing_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// forging is a request that claims everything a client might claim.
const forging = `GET / HTTP/1.1
Host: api.example.com
X-Forwarded-For: 203.0.113.9
X-Forwarded-For: 203.0.113.10, 203.0.113.11
X-Forwarded-Host: evil.example
X-Forwarded-Proto: https
X-Forwarded-Port: 1
X-Forwarded-Prefix: /evil
X-Forwarded-Server: evil
Forwarded: for=203.0.113.9;host=evil.example
X-Real-Ip: 203.0.113.9
X_Forwarded_For: 203.0.113.9
X_Forwarded_Host: evil.example
X-Forwarded_Proto: https

`

func TestPX05_UntrustedForwarding(t *testing.T) {
	t.Parallel()
	got := rawSeen(t, gateway{upstream: serve(t, echo)}.start(t), forging)
	for name := range got.Header {
		switch name {
		case "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Request-Id", "User-Agent":
		default:
			assert.Fail(t, "must not pass", name)
		}
	}
	assert.Equal(t, []string{"127.0.0.1"}, got.Header["X-Forwarded-For"])
	assert.Equal(t, []string{"api.example.com"}, got.Header["X-Forwarded-Host"])
	assert.Equal(t, []string{"http"}, got.Header["X-Forwarded-Proto"])
	assert.Equal(t, "api.example.com", got.Host)
}

func TestPX05_TrustedForwarding(t *testing.T) {
	t.Parallel()
	got := rawSeen(t, gateway{upstream: serve(t, echo), entry: trusted}.start(t), forging)
	assert.Equal(t, []string{"203.0.113.9, 203.0.113.10, 203.0.113.11, 127.0.0.1"}, got.Header["X-Forwarded-For"])
	assert.Equal(t, []string{"evil.example"}, got.Header["X-Forwarded-Host"], "the proxy in front knows it")
	assert.Equal(t, []string{"https"}, got.Header["X-Forwarded-Proto"])
	assert.Equal(t, []string{`for=203.0.113.9;host=evil.example, for=127.0.0.1;host="api.example.com";proto=http`}, got.Header["Forwarded"])
	assert.Equal(t, []string{"/evil"}, got.Header["X-Forwarded-Prefix"])
	assert.Equal(t, []string{"203.0.113.9"}, got.Header["X-Real-Ip"])
	for name := range got.Header {
		assert.NotContains(t, name, "_", "spellings that fold to a forwarding field are nobody's")
	}
}

// minter is an outbound gate as the one of auth/identity.
var minter = layer("mint", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
	return gatemesh.Admission{Header: []gatemesh.Field{{Name: gatemesh.IdentityHeader, Value: "ours"}}}, nil
})

func TestID02_ID03_IdentityIsOurs(t *testing.T) {
	t.Parallel()
	url := gateway{upstream: serve(t, echo), cfg: routing.Config{Outbound: []gatemesh.Layer{minter}}}.start(t)
	tests := []struct{ name, fields string }{
		{"once", "X-Gatemesh-Identity: evil\n"},
		{"three times", "X-Gatemesh-Identity: evil\nX-Gatemesh-Identity: evil\nx-gatemesh-identity: evil\n"},
		{"underscores", "X_Gatemesh_Identity: evil\nX_GATEMESH_IDENTITY: evil\nX-Gatemesh_Identity: evil\n"},
		{"close", "Connection: close, X-Gatemesh-Identity\n"},
		{"lower case", "connection: x-gatemesh-identity\n"},
		{"several fields, the first one empty", "Connection:\nConnection: close\nConnection: X-Gatemesh-Identity, X-Request-Id\nX-Gatemesh-Identity: evil\n"},
		{"forwarding too", "Connection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := rawSeen(t, url, "GET / HTTP/1.1\nHost: h\n"+tt.fields+"\n")
			assert.Equal(t, []string{"ours"}, got.Header[gatemesh.IdentityHeader])
			assert.Len(t, got.Header["X-Request-Id"], 1)
			assert.Equal(t, []string{"127.0.0.1"}, got.Header["X-Forwarded-For"])
			for name, values := range got.Header {
				assert.NotContains(t, values, "evil", name)
			}
		})
	}
}

func TestID01_IdentityDoesNotComeBack(t *testing.T) {
	t.Parallel()
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Gatemesh-Identity"] = r.Header["X-Gatemesh-Identity"]
		w.Header()["x-gatemesh-other"] = []string{"1"}
	}))
	resp, _ := get(t, gateway{upstream: up, cfg: routing.Config{Outbound: []gatemesh.Layer{minter}}}.start(t))
	for name := range resp.Header {
		assert.False(t, gatemesh.CarriesIdentity(name), name)
	}
}

func TestKEY03_CredentialStaysHere(t *testing.T) {
	t.Parallel()
	auth := layer("auth", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Consumed: []string{"Authorization"}}, nil
	})
	got := rawSeen(t, gateway{upstream: serve(t, echo), layers: []gatemesh.Layer{auth}}.start(t),
		"GET / HTTP/1.1\nHost: h\nAuthorization: Bearer SECRET\nCookie: a=b\n\n")
	assert.NotContains(t, got.Header, "Authorization")
	assert.Contains(t, got.Header, "Cookie")
}

func TestForwardedAsJudged(t *testing.T) {
	t.Parallel()
	url := gateway{upstream: serve(t, echo)}.start(t)
	tests := []struct{ target, host, uri, wantHost string }{
		{"/a/%62?x=1;y=2&%zz&=&a=%41+b", "H.Example:80", "/a/b?x=1;y=2&%zz&=&a=%41+b", "h.example"},
		{"/a/?", "h:8080", "/a/?", "h:8080"},
		{"/caf%c3%a9/", "[::1]:81", "/caf%C3%A9/", "[::1]:81"},
		{"/a:b@c/%3A", "h.", "/a:b@c/%3A", "h"},
		{"/[x]|^", "h", "/%5Bx%5D%7C%5E", "h"},
		{"/%2525", "h", "/%2525", "h"},
	}
	for _, tt := range tests {
		t.Run(tt.target, func(t *testing.T) {
			t.Parallel()
			got := rawSeen(t, url, "GET "+tt.target+" HTTP/1.1\nHost: "+tt.host+"\n\n")
			assert.Equal(t, tt.uri, got.URI)
			assert.Equal(t, tt.wantHost, got.Host)
			assert.NotContains(t, got.Header, "Accept-Encoding", "nothing is added that the client did not ask for")
			assert.NotContains(t, strings.Join(got.Header["User-Agent"], ""), "Go-http-client")
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	up := serve(t, echo)
	two := []routing.Route{to("two", backend, gatemesh.Destination{Service: backend.Service, Port: 1})}
	nowhere := layer("split", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Destination: &gatemesh.Destination{Service: "gone"}}, nil
	})
	change := func(f func(r *http.Request)) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r2 := r.Clone(r.Context())
				f(r2)
				next.ServeHTTP(w, r2)
			})
		}
	}
	denied := layer("mint", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{}, gatemesh.Deny(gatemesh.FailedPrecondition, "no_key", "There is no key.")
	})
	broken := func(err error) []routing.Upstream {
		us := at("http://127.0.0.1:1")
		us[0].Transport = roundTripper(func(*http.Request) (*http.Response, error) { return nil, err })
		return us
	}
	plain := "GET / HTTP/1.1\nHost: h\n\n"
	tests := []struct {
		name    string
		gateway gateway
		request string
		status  int
		reason  string
		layer   string // that reports it
	}{
		{"no route", gateway{upstream: up, cfg: routing.Config{Routes: []routing.Route{{Name: "x", Hostnames: []string{"other"}, Backends: two[0].Backends}}}}, plain, 404, "no_route", "route"},
		{"several backends, no choice", gateway{upstream: up, cfg: routing.Config{Routes: two}}, plain, 500, "no_destination", "proxy"},
		{"nobody serves it", gateway{upstream: up, layers: []gatemesh.Layer{nowhere}}, plain, 503, "no_upstream", "proxy"},
		{"no host", gateway{upstream: up}, "GET / HTTP/1.0\n\n", 400, "host_required", "proxy"},
		{"TRACE", gateway{upstream: up}, "TRACE / HTTP/1.1\nHost: h\n\n", 501, "method_not_forwarded", "proxy"},
		{"CONNECT", gateway{upstream: up}, "CONNECT /x HTTP/1.1\nHost: h\n\n", 501, "method_not_forwarded", "proxy"},
		{"path changed", gateway{upstream: up, wrap: change(func(r *http.Request) { r.URL.Path = "/admin" })}, plain, 500, "request_changed", "proxy"},
		{"query changed", gateway{upstream: up, wrap: change(func(r *http.Request) { r.URL.RawQuery = "admin=1" })}, plain, 500, "request_changed", "proxy"},
		{"method changed", gateway{upstream: up, wrap: change(func(r *http.Request) { r.Method = "DELETE" })}, plain, 500, "request_changed", "proxy"},
		{"host changed", gateway{upstream: up, wrap: change(func(r *http.Request) { r.Host = "other" })}, plain, 500, "request_changed", "proxy"},
		{"refused", gateway{cfg: routing.Config{Upstreams: broken(errors.New("dial tcp 10.9.8.7:1: connection refused"))}}, plain, 502, "upstream_unreachable", "proxy"},
		{"timed out", gateway{cfg: routing.Config{Upstreams: broken(fmt.Errorf("dial tcp 10.9.8.7:1: %w", context.DeadlineExceeded))}}, plain, 504, "deadline_exceeded", "proxy"},
		{"denied by an outbound gate", gateway{upstream: up, cfg: routing.Config{Outbound: []gatemesh.Layer{denied}}}, plain, 400, "no_key", "mint"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			tt.gateway.cfg.Observer, tt.gateway.entry.Observer = rec, rec
			resp := raw(t, tt.gateway.start(t), tt.request)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			assert.Equal(t, tt.status, resp.StatusCode)
			assert.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			assert.Contains(t, string(body), `"reason":"`+tt.reason+`"`)
			assert.NotContains(t, string(body), "10.9.8.7", "causes are for the log")
			denied := rec.kind(gatemesh.EventDenied)
			require.Len(t, denied, 1)
			assert.Equal(t, tt.layer, denied[0].Layer)
			assert.Equal(t, tt.reason, denied[0].Denial.Reason)
		})
	}
}

func TestNoCall(t *testing.T) {
	t.Parallel()
	r := newRouter(t, table(routing.Route{Name: "all"}))
	w := httptest.NewRecorder()
	r.Proxy().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, http.StatusInternalServerError, w.Code)
	w = httptest.NewRecorder()
	r.Handler(r.Proxy()).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, http.StatusInternalServerError, w.Code)
}

func TestClientGone(t *testing.T) {
	t.Parallel()
	rec := &recorder{}
	us := at("http://127.0.0.1:1")
	us[0].Transport = roundTripper(func(r *http.Request) (*http.Response, error) { return nil, r.Context().Err() })
	h := gateway{entry: gatemesh.EntryConfig{Observer: rec}, cfg: routing.Config{Upstreams: us}}.handler(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
	assert.Equal(t, 499, w.Code)
	finished := rec.kind(gatemesh.EventFinished)
	require.Len(t, finished, 1)
	assert.True(t, finished[0].Outcome.Canceled)
}

func TestBodyTooLarge(t *testing.T) {
	t.Parallel()
	url := gateway{upstream: serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	})), wrap: func(next http.Handler) http.Handler {
		return http.MaxBytesHandler(next, 10)
	}}.start(t)
	resp := raw(t, url, "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n14\n12345678901234567890\n0\n\n")
	assert.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
}

func TestTurns(t *testing.T) {
	t.Parallel()
	var hits [5]atomic.Int32
	var us []routing.Upstream
	for i, subset := range []string{"", "", "v1", "v1", "v2"} {
		us = append(us, routing.Upstream{Service: backend.Service, Subset: subset, URL: fmt.Sprintf("http://h%d", i),
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				hits[i].Add(1)
				return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
			})})
	}
	// Subsets that are asked for by turns must not disturb one another's turns.
	n := 0
	split := layer("split", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		d := backend
		d.Subset = []string{"v1", "v2"}[n%2]
		n++
		return gatemesh.Admission{Destination: &d}, nil
	})
	h := gateway{layers: []gatemesh.Layer{split}, cfg: routing.Config{Upstreams: us}}.handler(t)
	for range 40 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, 200, w.Code)
	}
	for i, want := range []int32{0, 0, 10, 10, 20} {
		assert.Equal(t, want, hits[i].Load(), "upstream %d", i)
	}
}

func TestF12_OneVersionPerCall(t *testing.T) {
	t.Parallel()
	answer := func(name string) []routing.Upstream {
		us := at("http://" + name)
		us[0].Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			body := io.NopCloser(strings.NewReader(name + r.Header.Get("X-Table")))
			return &http.Response{StatusCode: 200, Body: body, ContentLength: -1, Header: http.Header{}, Request: r}, nil
		})
		return us
	}
	config := func(name string) routing.Config {
		return routing.Config{
			Routes: []routing.Route{to(name, backend)}, Upstreams: answer(name),
			Outbound: []gatemesh.Layer{layer("mark", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
				return gatemesh.Admission{Header: []gatemesh.Field{{Name: "X-Table", Value: "/" + name}}}, nil
			})},
		}
	}
	r := newRouter(t, config("old"))
	update := layer("update", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{}, r.Update(config("new"))
	})
	chain := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), r.Layer(), update))
	h := chain.Handler(r.Proxy())
	for _, want := range []string{"old/old", "new/new"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		assert.Equal(t, want, w.Body.String())
	}
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	config := func(name string) routing.Config {
		cfg := table(routing.Route{Name: name}, routing.Route{Name: "other", Hostnames: []string{name}})
		cfg.Upstreams = append(cfg.Upstreams, cfg.Upstreams[0])
		for i := range cfg.Upstreams {
			cfg.Upstreams[i].Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{"Upstream": {name}}, Request: r}, nil
			})
		}
		return cfg
	}
	r := newRouter(t, config("a"))
	var name gatemesh.GateFunc = func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Header: []gatemesh.Field{{Name: "Route", Value: c.Route().Name}}}, nil
	}
	h := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), r.Layer(), layer("name", name))).Handler(r.Proxy())
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				if g == 0 {
					assert.NoError(t, r.Update(config([]string{"a", "b"}[i%2])))
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				assert.Equal(t, 200, w.Code)
				assert.Equal(t, w.Header()["Route"], w.Header()["Upstream"], "no call sees two versions")
			}
		})
	}
	wg.Wait()
}

// TestForeignRoute: a chain may have a route table of the application's own.
func TestForeignRoute(t *testing.T) {
	t.Parallel()
	r := newRouter(t, routing.Config{Upstreams: at(serve(t, echo))})
	own := layer("own", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Route: &gatemesh.Route{Name: "own"}, Destination: &backend}, nil
	})
	chain := gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), own))
	w := httptest.NewRecorder()
	chain.Handler(r.Proxy()).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, 200, w.Code)

	// A route of another Router names that one's upstreams, not ours.
	other := newRouter(t, table(routing.Route{Name: "theirs"})) // where nobody listens
	chain = gatemesh.Must(gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), other.Layer()))
	w = httptest.NewRecorder()
	chain.Handler(r.Proxy()).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, 200, w.Code)
}

func TestOutboundCall(t *testing.T) {
	t.Parallel()
	var out *gatemesh.Call
	gate := layer("look", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		out = c
		return gatemesh.Admission{}, nil
	})
	h := gateway{upstream: serve(t, echo), cfg: routing.Config{Outbound: []gatemesh.Layer{gate}}}.handler(t)
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/x?y", nil))
	require.NotNil(t, out)
	assert.Equal(t, backend, out.Destination())
	assert.Equal(t, "/x", out.Path())
	assert.Equal(t, "example.com", out.Parent().Host())
}

func TestStreaming(t *testing.T) {
	t.Parallel()
	step := make(chan struct{})
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			_, _ = io.WriteString(w, "data: x\n")
			_ = http.NewResponseController(w).Flush()
			select { // nothing more is sent before the client has seen this
			case <-step:
			case <-r.Context().Done():
				return
			}
		}
	}))
	resp := raw(t, gateway{upstream: up}.start(t), "GET / HTTP/1.1\nHost: h\n\n")
	lines := bufio.NewReader(resp.Body)
	for range 3 {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "data: x\n", line)
		step <- struct{}{}
	}
	_, err := lines.ReadString('\n')
	assert.ErrorIs(t, err, io.EOF)
}

func TestEarlyHints(t *testing.T) {
	t.Parallel()
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	}))
	resp := raw(t, gateway{upstream: up}.start(t), "GET / HTTP/1.1\nHost: h\n\n")
	assert.Equal(t, http.StatusEarlyHints, resp.StatusCode)
	assert.Equal(t, "</a.css>", resp.Header.Get("Link"))
}

func TestTruncatedUpstream(t *testing.T) {
	t.Parallel()
	half := strings.Repeat("half", 16_000) // more than what is kept back
	for _, length := range []string{"", "100000"} {
		t.Run("length "+length, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				_, _ = io.WriteString(w, half)
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}))
			resp := raw(t, gateway{upstream: up, cfg: routing.Config{Observer: rec}}.start(t), "GET / HTTP/1.1\nHost: h\n\n")
			body, err := io.ReadAll(resp.Body)
			assert.Error(t, err, "half a response is not a whole one")
			assert.True(t, strings.HasPrefix(half, string(body)))
			assert.Len(t, rec.kind(gatemesh.EventFault), 1)
		})
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(body)
	}))
	url := gateway{upstream: up}.start(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 20_000) // several buffers
	tr := &http.Transport{DisableKeepAlives: true}
	for _, body := range []io.Reader{bytes.NewReader(sent), io.MultiReader(bytes.NewReader(sent))} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
		require.NoError(t, err)
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.True(t, bytes.Equal(sent, got))
	}
}
