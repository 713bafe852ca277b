package trace_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/trace"
)

// gateway is everything that counts, in front of an upstream: the layers, and
// the metrics of all.
type gateway struct {
	meter   *meter
	chain   *gatemesh.Chain
	router  *routing.Router
	metrics *trace.Metrics
	key     string // an API key that is good
}

func newGateway(t testing.TB, upstream http.HandlerFunc) *gateway {
	t.Helper()
	g := &gateway{meter: newMeter()}
	g.metrics = newMetrics(t, trace.MetricsConfig{MeterProvider: g.meter, Workload: gatemesh.Workload{Name: "gateway", Namespace: "prod"}})
	server := httptest.NewUnstartedServer(upstream)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)

	health := gatemesh.Must(breaker.NewGate(breaker.GateConfig{Policy: breaker.Policy{Failures: 1000}, Observer: g.metrics}))
	again := gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{BackoffBase: time.Millisecond}))
	public, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	secret, hash := auth.GenerateKey()
	g.key = secret
	who := gatemesh.Must(auth.New(auth.Config{
		Issuers: []auth.Issuer{{
			Issuer: "https://idp.example", Audience: []string{"api"}, Algorithms: []string{"EdDSA"},
			Keys: gatemesh.Must(auth.StaticKeys(auth.StaticKey{ID: "k", Key: public})),
		}},
		APIKeys: gatemesh.Must(auth.NewKeySet([]auth.Key{{ID: "SECRET-id", Consumer: "SECRET-consumer", Hash: hash}})),
	}))
	limit := ratelimit.Limit{Requests: 50, Per: time.Hour}
	client := gatemesh.Must(ratelimit.New(ratelimit.Config{Name: "client", Key: ratelimit.ByClient(0), Limit: limit, MaxKeys: 1000, Observer: g.metrics}))
	consumer := gatemesh.Must(ratelimit.New(ratelimit.Config{Name: "consumer", Key: ratelimit.ByConsumer(), Limit: ratelimit.Limit{Requests: 1_000_000, Per: time.Hour}}))
	route := func(name, path, service string) routing.Route {
		return routing.Route{
			Name: name, Matches: []routing.Match{{Path: routing.PathMatch{Value: path}}},
			Backends: []routing.Backend{{Destination: gatemesh.Destination{Service: service, Namespace: "prod"}, Weight: 1}},
		}
	}
	g.router = gatemesh.Must(routing.New(routing.Config{
		Routes:    []routing.Route{route("users", "/v1/users", "users"), route("rest", "/", "rest")},
		Upstreams: []routing.Upstream{{Service: "users", URL: server.URL}, {Service: "rest", URL: server.URL}},
		Outbound:  []gatemesh.Layer{again.Layer(), health.Layer()}, Observer: g.metrics,
	}))
	t.Cleanup(func() { assert.NoError(t, g.router.Close()) })
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}, Observer: g.metrics,
	}))
	g.chain = gatemesh.Must(gatemesh.NewChain(entry, client.Layer(), g.router.Layer(), who.Layer(), consumer.Layer()))
	_, err = g.metrics.Register("", health, again, who, client, consumer)
	require.NoError(t, err)
	return g
}

// hostile is a request of somebody who invents everything there is to invent.
func hostile(i int, key string) *http.Request {
	word := func() string { return fmt.Sprintf("%X", rand.Uint64()) }
	r := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/" + word(), RawQuery: word()}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host: word() + ".example", RemoteAddr: "192.0.2.1:1", Body: http.NoBody,
	}
	r.Header = http.Header{
		"User-Agent": {word()}, "X-Request-Id": {word()}, "Traceparent": {word()}, "Cookie": {word()},
		"X-Forwarded-For": {fmt.Sprintf("10.%d.%d.%d", rand.IntN(256), rand.IntN(256), rand.IntN(256))},
	}
	kid := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":"EdDSA","kid":"%s"}`, word()))
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iss":"https://idp.example","sub":"%s","aud":"api","exp":99999999999}`, word()))
	switch i % 8 {
	case 0:
		r.Method = strings.Map(func(r rune) rune { return 'A' + r%26 }, word())
	case 1:
		r.Method, r.ProtoMajor, r.Header["Content-Type"] = "POST", 2, []string{"application/grpc"}
		r.URL.Path = "/" + word() + "." + word() + "/" + word()
	case 2:
		r.Header["Authorization"] = []string{"Bearer " + kid + "." + claims + "." + word()}
	case 3:
		r.Header["X-Api-Key"] = []string{word()}
	case 4:
		r.URL.Path, r.Header["X-Api-Key"] = "/v1/users/"+word(), []string{key}
	case 5:
		r.Header["X-Api-Key"] = []string{key}
	case 6:
		r.URL.Path = "//" + word() // refused by Entry
	case 7:
		r.Header["Authorization"] = []string{word() + " " + word()}
	}
	return r
}

// nowhere is a response that nobody reads.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) WriteHeader(int)             {}

// TestTR04_MetricSeries: whatever paths, hosts, methods, user agents, key ids,
// addresses and consumers callers invent, there are 200 series at most, all
// components' included; some of the calls are over HTTP, through to the upstream.
// TestTR04_SpanNames has 100,000 of them.
func TestTR04_MetricSeries(t *testing.T) {
	t.Parallel()
	statuses := []int{200, 201, 404, 500, 503}
	g := newGateway(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(statuses[rand.IntN(len(statuses))]) })
	h := g.chain.Handler(noContent)
	for i := range 8_000 {
		h.ServeHTTP(nowhere{}, hostile(i, g.key))
	}
	server := httptest.NewServer(g.chain.Handler(g.router.Proxy()))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	answers := bufio.NewReader(conn)
	for i := range 400 {
		r := hostile(i, g.key)
		require.NoError(t, r.Write(conn))
		resp, err := http.ReadResponse(answers, r)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	got := g.meter.collect(t)
	assert.LessOrEqual(t, len(got), 200)
	var calls float64
	for name, n := range got {
		assert.NotRegexp(t, `[0-9A-F]{9}|example`, strings.ReplaceAll(name, "https://idp.example", ""))
		if strings.HasPrefix(name, "server.call.duration") {
			calls += n
		}
	}
	assert.EqualValues(t, 8_400, calls, "every call is in one of them")
	for _, want := range []string{
		"server.call.duration[code_class:4xx destination:rest.prod protocol:http route:rest source:unknown]",
		"server.call.duration[code_class:4xx destination:users.prod protocol:http route:users source:unknown]",
		"client.call.duration[code_class:2xx destination:rest.prod protocol:http route:rest source:gateway.prod]",
		"call.denied[code:invalid_argument layer:entry reason:path_empty_segment]", "ratelimit.keys.forgotten[name:client]", "auth.cache.lookups[state:miss]",
		"breaker.state[destination:rest.prod state:open]", "retry.calls[destination:rest.prod]",
	} {
		assert.Contains(t, got, want)
	}
}

// TestTR04_MaxSeries: where names do come from callers, as those of hosts that
// are taken for services, MaxSeries bounds what is made of them, and no call is
// lost.
func TestTR04_MaxSeries(t *testing.T) {
	t.Parallel()
	told := &observer{}
	p := newMeter()
	m := newMetrics(t, trace.MetricsConfig{MeterProvider: p, MaxSeries: 20, Observer: told})
	out, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Observer: m, Layers: []gatemesh.Layer{retry(2)},
		Mesh: func(_ context.Context, host string) (gatemesh.Destination, bool) {
			return gatemesh.Destination{Service: host}, true
		},
	})
	require.NoError(t, err)
	rt := out.Transport(&roundTrips{statuses: []int{503}})
	const n = 500
	for i := range n {
		r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("http://h%d/", i), nil)
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, resp.Body)
		require.NoError(t, resp.Body.Close())
		c := finished(t, gatemesh.CallInfo{Protocol: gatemesh.GRPC, Route: &gatemesh.Route{Name: fmt.Sprint(i)}}, gatemesh.Outcome{Code: gatemesh.NotFound})
		m.Observe(t.Context(), c)
		c.Kind, c.Outcome.Code = gatemesh.EventRetried, gatemesh.Unavailable
		c.Call = gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Destination: gatemesh.Destination{Service: fmt.Sprint(i)}}))
		m.Observe(t.Context(), c)
		c.Kind = gatemesh.EventHedged
		m.Observe(t.Context(), c)
		m.Observe(t.Context(), gatemesh.Event{Kind: gatemesh.EventDenied, Layer: "l", Call: c.Call, Denial: gatemesh.Deny(gatemesh.Internal, fmt.Sprint(i), "")})
		m.Observe(t.Context(), gatemesh.Event{Kind: gatemesh.EventFault, Layer: fmt.Sprint(i)})
		m.Observe(t.Context(), gatemesh.Event{Kind: gatemesh.EventPanic, Layer: fmt.Sprint(i)})
	}
	got := p.collect(t)
	sums := map[string]float64{}
	for name, v := range got {
		sums[name[:strings.IndexByte(name, '[')]] += v
	}
	assert.Equal(t, map[string]float64{
		"client.call.duration": n, "server.call.duration": n, "call.retried": n + 1, "call.hedged": n, "call.denied": n, "faults": n, "panics": n,
	}, sums)
	assert.LessOrEqual(t, len(got), 7*20+7)
	assert.Positive(t, got["client.call.duration[code_class:2xx protocol:http otel.metric.overflow:true]"])
	assert.Positive(t, got["server.call.duration[code_class:4xx protocol:grpc otel.metric.overflow:true]"])
	assert.Len(t, told.events, 1, "one a minute")
}

// TestTR03_NoSecretInMetrics: whatever a call carries and however it ends, none
// of it is in a metric.
func TestTR03_NoSecretInMetrics(t *testing.T) {
	t.Parallel()
	g := newGateway(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "SECRET-set-cookie")
		switch r.URL.Query().Get("do") {
		case "panic":
			panic("SECRET-panic")
		case "fail":
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	server := httptest.NewServer(g.chain.Handler(g.router.Proxy()))
	defer server.Close()
	for _, path := range []string{"/v1/users/SECRET", "/SECRET", "//SECRET"} {
		for _, do := range []string{"ok", "panic", "fail"} {
			for _, field := range [][2]string{
				{"X-Api-Key", g.key}, {"X-Api-Key", "SECRET-key"}, {"Authorization", "Bearer SECRET.SECRET.SECRET"}, {"Authorization", "SECRET"}, {"Cookie", "SECRET=SECRET"},
			} {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path+"?api_key=SECRET&do="+do, nil)
				require.NoError(t, err)
				r.Header.Set(field[0], field[1])
				r.Header.Set("Baggage", "SECRET=SECRET")
				resp, err := server.Client().Do(r)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
		}
	}
	var rm metricdata.ResourceMetrics
	require.NoError(t, g.meter.reader.Collect(t.Context(), &rm))
	text := fmt.Sprintf("%+v", rm)
	assert.Contains(t, text, "gatemesh.client.call.duration")
	assert.Contains(t, text, "gatemesh.call.denied")
	assert.Contains(t, text, "gatemesh.call.retried")
	assert.NotContains(t, text, "SECRET")
	assert.NotContains(t, text, g.key)
	assert.NotContains(t, fmt.Sprintf("%+v", g.metrics), "SECRET")
}
