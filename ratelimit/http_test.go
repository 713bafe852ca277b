package ratelimit

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

var okHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

// serve starts a real server with l behind an Entry.
func serve(t *testing.T, l *Limiter, proxies ...string) *httptest.Server {
	t.Helper()
	cfg := gatemesh.EntryConfig{}
	for _, p := range proxies {
		cfg.TrustedProxies = append(cfg.TrustedProxies, netip.MustParsePrefix(p))
	}
	entry, err := gatemesh.NewEntry(cfg)
	require.NoError(t, err)
	srv := httptest.NewServer(entry.Handler(l.Handler(okHandler)))
	t.Cleanup(srv.Close)
	return srv
}

func get(t *testing.T, srv *httptest.Server, h http.Header) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
	require.NoError(t, err)
	r.Header = h
	resp, err := srv.Client().Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	return resp.StatusCode
}

func TestRL01_UntrustedPeerIsOneBucket(t *testing.T) {
	t.Parallel()
	srv := serve(t, newLimiter(t, "5/1h"))
	ok := 0
	for i := range 1000 {
		addr := fmt.Sprintf("203.0.%d.%d", i/250, i%250)
		h := http.Header{}
		switch i % 5 {
		case 0:
			h.Set("X-Forwarded-For", addr)
		case 1:
			h.Set("Forwarded", "for="+addr)
		case 2:
			h.Set("X-Real-IP", addr)
		case 3:
			h["X-Forwarded-For"] = []string{addr, "198.51.100.7"}
		case 4:
			h.Set("X_Forwarded_For", addr)
			h.Set("True-Client-IP", addr)
			h.Set("CF-Connecting-IP", addr)
		}
		switch status := get(t, srv, h); status {
		case http.StatusNoContent:
			ok++
		default:
			require.Equal(t, http.StatusTooManyRequests, status)
		}
	}
	assert.Equal(t, 5, ok)
}

func TestRL01_TrustedProxies(t *testing.T) {
	t.Parallel()
	xff := func(lines ...string) http.Header { return http.Header{"X-Forwarded-For": lines} }
	const real = "203.0.113.9"
	tests := []struct {
		name string
		a, b http.Header
		same bool
	}{
		{"spoofed on the left", xff(real), xff("198.51.100.1, " + real), true},
		{"many spoofed", xff(real), xff("1.1.1.1, 2.2.2.2,3.3.3.3 , " + real), true},
		{"two lines", xff(real), xff("198.51.100.1", real), true},
		{"two lines, a list in each", xff(real), xff("a, 198.51.100.1", "198.51.100.2, "+real), true},
		{"behind an inner proxy", xff(real), xff(real + ", 10.1.2.3"), true},
		{"behind two, over two lines", xff(real), xff("198.51.100.1, "+real, "10.1.2.3, 10.0.0.1"), true},
		{"port", xff(real), xff("spoof, " + real + ":4711"), true},
		{"another port", xff(real + ":1"), xff(real + ":2"), true},
		{"mapped", xff(real), xff("::ffff:" + real), true},
		{"IPv6 with brackets and port", xff("2001:db8::1"), xff("[2001:db8::2]:443"), true},
		{"another client", xff(real), xff("203.0.113.10"), false},
		{"other clients by IPv6", xff("2001:db8::1"), xff("2001:db8:0:1::1"), false},
		{"junk stops the walk at the peer", http.Header{}, xff(real + ", junk"), true},
		{"junk behind the proxy hides who is left of it", xff("10.1.2.3"), xff(real + ", junk, 10.1.2.3"), true},
		{"empty element", http.Header{}, xff(real + ","), true},
		{"empty line", http.Header{}, xff(real, ""), true},
		{"unknown", http.Header{}, xff(real + ", unknown"), true},
		{"X-Real-IP and Forwarded are nobody's word", xff(real), http.Header{
			"X-Forwarded-For": {real}, "X-Real-Ip": {"198.51.100.1"}, "Forwarded": {"for=198.51.100.2"}}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, newLimiter(t, "1/1h"), "127.0.0.0/8", "::1/128", "10.0.0.0/8")
			require.Equal(t, http.StatusNoContent, get(t, srv, tt.a))
			want := http.StatusNoContent
			if tt.same {
				want = http.StatusTooManyRequests
			}
			assert.Equal(t, want, get(t, srv, tt.b))
		})
	}
}

func chainFor(t *testing.T, layers ...gatemesh.Layer) (*gatemesh.Chain, error) {
	t.Helper()
	return gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), layers...)
}

// authLayer takes everybody's word for who they are.
func authLayer() gatemesh.Layer {
	return gatemesh.Layer{
		Name: "auth", Gives: []gatemesh.Fact{gatemesh.FactPrincipal},
		Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Consumer: c.Header().Get("X-Api-Key")})}, nil
		}),
	}
}

func TestTwoLimitersInAChain(t *testing.T) {
	t.Parallel()
	client := newLimiter(t, "5/1h")
	consumer := newLimiter(t, "2/1m", func(c *Config) { c.Name, c.Key = "consumer", ByConsumer() })
	_, err := chainFor(t, consumer.Layer(), authLayer())
	require.ErrorContains(t, err, `"ratelimit consumer" needs the principal that "auth" gives`)

	chain, err := chainFor(t, client.Layer(), authLayer(), consumer.Layer())
	require.NoError(t, err)
	require.NoError(t, chain.GatesOnly())
	h := chain.Handler(okHandler)
	send := func(key string) *httptest.ResponseRecorder {
		r, w := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
		r.Header.Set("X-Api-Key", key)
		h.ServeHTTP(w, r)
		return w
	}
	w := send("a")
	assert.Equal(t, 204, w.Code)
	assert.Equal(t, []string{`"client";q=5;w=3600`, `"consumer";q=2;w=60`}, w.Header()["Ratelimit-Policy"])
	assert.Equal(t, []string{`"client";r=4;t=3600`, `"consumer";r=1;t=60`}, w.Header()["Ratelimit"])
	assert.Equal(t, 204, send("a").Code)
	w = send("a")
	assert.Equal(t, 429, w.Code)
	assert.Equal(t, []string{"60"}, w.Header()["Retry-After"])
	assert.Equal(t, `"consumer";r=0;t=60`, w.Header()["Ratelimit"][1])
	assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	assert.Contains(t, w.Body.String(), `"reason":"rate_limited"`)
	assert.Equal(t, 204, send("b").Code, "another consumer")
	assert.Equal(t, 204, send("b").Code)
	w = send("c")
	assert.Equal(t, 429, w.Code, "the address has used up its five")
	assert.Equal(t, []string{`"client";r=0;t=3600`}, w.Header()["Ratelimit"])
}

// TestChargedOnceByBothRoads: the decision before decoding is not repeated.
func TestChargedOnceByBothRoads(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, "2/1h")
	chain, err := chainFor(t, l.Layer())
	require.NoError(t, err)
	for i, want := range []bool{true, true, false} {
		x, d := chain.Start(t.Context(), gatemesh.Inbound{
			Protocol: gatemesh.GRPC, Method: "POST", Authority: "orders", Path: "/shop.Orders/List",
			RemoteAddr: netip.MustParseAddrPort("192.0.2.1:5000"), LowerCase: true,
		})
		require.Nil(t, d)
		_, d = x.AdmitCached(t.Context())
		if d == nil {
			_, d = x.Admit(t.Context())
		}
		assert.Equal(t, want, d == nil, "call %d", i)
		x.Finish(gatemesh.Outcome{Duration: time.Millisecond})
	}
}

func TestWithoutEntryFailsClosed(t *testing.T) {
	t.Parallel()
	o := &events{}
	l := newLimiter(t, "1/1h", func(c *Config) { c.Observer = o })
	w := httptest.NewRecorder()
	l.Handler(okHandler).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, 500, w.Code)
	require.Len(t, o.got, 1)
	assert.Equal(t, "ratelimit client", o.got[0].Layer)
}
