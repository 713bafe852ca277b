//go:build unix

package bench

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/examples/gateway/edge"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
)

// The reverse proxy: examples/gateway's chain with routing, an AuthorizationPolicy
// that allows everybody, canary and pool, beside httputil.ReverseProxy alone with
// the same transport settings, in front of the same origin. Client, proxy and
// origin are one process; what the first contestant needs, which has no proxy,
// is not the proxies'.

var (
	proxyRounds = flag.Int("proxy.rounds", 3, "rounds of TestProxyCost")
	proxyCalls  = flag.Int("proxy.calls", 400, "calls of each contestant in a round of TestProxyCost")
	proxyTime   = flag.Duration("proxy.time", time.Second, "how long TestProxyLatency sends to each contestant")
)

const proxyManifests = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: shop}
spec:
  gatewayClassName: gatemesh
  listeners: [{name: http, protocol: HTTP, port: 80}, {name: https, protocol: HTTPS, port: 443}] # for TestProxyLatency
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: users, namespace: shop}
spec:
  parentRefs: [{name: gw}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /v1}}]
    backendRefs: [{name: users, port: 80}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: users, namespace: shop}
spec:
  hosts: [users]
  http:
  - route:
    - {destination: {host: users, subset: v1}, weight: 90}
    - {destination: {host: users, subset: v2}, weight: 10}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: users, namespace: shop}
spec:
  host: users
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: everybody, namespace: shop}
spec:
  rules: [{to: [{operation: {methods: [POST], paths: ["/v1/*"]}}]}]
`

// gatewayConfig is what the contestants have in common: routes, split and pool.
func gatewayConfig(tb testing.TB, origin string) edge.Config {
	set, err := manifest.LoadFS(fstest.MapFS{"all.yaml": {Data: []byte(proxyManifests)}})
	require.NoError(tb, err)
	cfg := edge.Config{Manifests: set, Ports: map[uint16]uint16{80: 0, 443: 0}, Workload: gatemesh.Workload{Name: "gw", TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "gw"}}
	for _, version := range []string{"v1", "v2"} {
		cfg.Upstreams = append(cfg.Upstreams, routing.Upstream{
			Service: "users", Namespace: "shop", URL: "http://users", Labels: map[string]string{"version": version},
			Balance: endpoints(tb, origin).Transport,
		})
	}
	return cfg
}

func newGateway(tb testing.TB, cfg edge.Config) *edge.Gateway {
	g, err := edge.New(cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, g.Close()) })
	return g
}

// servePlain serves HTTP/1.1, with TLS if there is a config.
func servePlain(tb testing.TB, h http.Handler, config *tls.Config) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	s := &http.Server{Handler: h, TLSConfig: config.Clone(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if config != nil {
			_ = s.ServeTLS(l, "", "") // ends with Close
		} else {
			_ = s.Serve(l)
		}
	}()
	tb.Cleanup(func() {
		assert.NoError(tb, s.Close())
		<-done
	})
	return l.Addr().String()
}

// caller returns a contestant that posts to addr.
func caller(tb testing.TB, name, url string, roots *x509.CertPool, fields ...string) hop {
	tr := &http.Transport{MaxConnsPerHost: 64, MaxIdleConnsPerHost: 64, DisableCompression: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	tb.Cleanup(tr.CloseIdleConnections)
	c, ctx := &http.Client{Transport: tr}, tb.Context()
	return hop{name, func(int) error { return postBy(ctx, c, 1, url+"/v1/users/1", fields...) }}
}

func proxyContestants(tb testing.TB) []hop {
	origin := servePlain(tb, app, nil)
	target := &url.URL{Scheme: "http", Host: origin}
	base := &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 128, DisableCompression: true}
	tb.Cleanup(base.CloseIdleConnections)
	rewrite := func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.SetXForwarded()
	}
	reverse := servePlain(tb, &httputil.ReverseProxy{Transport: base, Rewrite: rewrite}, nil)
	pooling := servePlain(tb, &httputil.ReverseProxy{Transport: base, Rewrite: rewrite, BufferPool: new(buffers)}, nil)
	gateway := servePlain(tb, newGateway(tb, gatewayConfig(tb, origin)), nil)
	return []hop{
		caller(tb, "no proxy", "http://"+origin, nil),
		caller(tb, "ReverseProxy", "http://"+reverse, nil),
		caller(tb, "gateway", "http://"+gateway, nil),
		// Alone, ReverseProxy makes a buffer of 32 KiB for each answer.
		caller(tb, "with buffers", "http://"+pooling, nil),
	}
}

// buffers is an httputil.BufferPool.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return buf[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }

// TestProxyCost prints the contestants side by side, as medians of rounds in
// which they take turns:
//
//	go test -run ProxyCost -v ./bench -proxy.rounds 25 -proxy.calls 5000
//
// The goal, which -strict asserts, is the gateway within 5 % of ReverseProxy, in
// requests per second and in CPU time.
func TestProxyCost(t *testing.T) {
	all := proxyContestants(t)
	rounds := make([][]cost, len(all))
	for _, c := range all {
		measure(t, c, 2*callers, callers)
	}
	for range *proxyRounds {
		for i, c := range all {
			rounds[i] = append(rounds[i], measure(t, c, *proxyCalls, callers))
		}
	}
	var report strings.Builder
	fmt.Fprintf(&report, "\nmedians of %d rounds of %d calls, %d at a time; CPU and allocations of client, proxy and origin together\n", *proxyRounds, *proxyCalls, callers)
	fmt.Fprintf(&report, "%-14s %10s %10s %10s %10s %20s\n", "", "cpu µs", "req/s", "allocs", "bytes", "cpu by ReverseProxy")
	for i, c := range all {
		fmt.Fprintf(&report, "%-14s %10.1f %10.0f %10.1f %10.0f %20.3f\n", c.name, median(rounds[i], func(c cost) float64 { return c.cpu })/1e3,
			1e9/median(rounds[i], func(c cost) float64 { return c.wall }), median(rounds[i], func(c cost) float64 { return c.allocs }),
			median(rounds[i], func(c cost) float64 { return c.bytes }), ratio(rounds[i], rounds[1]))
	}
	t.Log(report.String())
	if *strict {
		assert.LessOrEqual(t, ratio(rounds[2], rounds[1]), 1.05, "CPU time")
		wall := func(i int) float64 { return median(rounds[i], func(c cost) float64 { return c.wall }) }
		assert.LessOrEqual(t, wall(2)/wall(1), 1.05, "requests per second")
	}
}

// TestProxyAllocations bounds what a call through the gateway allocates beyond
// one through ReverseProxy.
func TestProxyAllocations(t *testing.T) {
	all := proxyContestants(t)
	extra := make([]cost, 5) // the median of them, as the runtime allocates now and then, too
	for _, c := range all {
		measure(t, c, 64, 1)
	}
	for i := range extra {
		extra[i].allocs = measure(t, all[2], 300, 1).allocs - measure(t, all[1], 300, 1).allocs
	}
	got := median(extra, func(c cost) float64 { return c.allocs })
	t.Logf("%.1f allocations more", got)
	assert.LessOrEqual(t, got, proxyAllocations)
}

// proxyAllocations is with room for the race detector, which defeats pools.
const proxyAllocations = 60.0

// TestProxyLatency sends 500 requests per second through the gateway with all
// layers and TLS, and to the same origin with TLS alone:
//
//	go test -run ProxyLatency -v ./bench -proxy.time 30s
//
// The goal, which -strict asserts, is that the gateway adds at most 5 ms at p99.
func TestProxyLatency(t *testing.T) {
	ca, err := devca.New("cluster.local")
	require.NoError(t, err)
	cert, err := ca.ServerCertificate("127.0.0.1")
	require.NoError(t, err)
	config := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}

	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": issuer, "aud": "shop", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(),
	})
	token.Header["kid"] = "k"
	signed, err := token.SignedString(private)
	require.NoError(t, err)
	keys, err := auth.StaticKeys(auth.StaticKey{ID: "k", Key: public})
	require.NoError(t, err)
	minter, err := identity.NewMinter(identity.MinterConfig{Issuer: "https://edge", Audience: []string{"cluster.local"}, Key: identity.SigningKey{Private: private}})
	require.NoError(t, err)
	deadline, err := breaker.NewDeadline(breaker.DeadlineConfig{Timeout: time.Minute})
	require.NoError(t, err)
	retry, err := breaker.NewRetry(breaker.RetryConfig{})
	require.NoError(t, err)
	gate, err := breaker.NewGate(breaker.GateConfig{})
	require.NoError(t, err)

	origin := servePlain(t, app, nil)
	cfg := gatewayConfig(t, origin)
	cfg.Auth = &auth.Config{Issuers: []auth.Issuer{{Issuer: issuer, Audience: []string{"shop"}, Algorithms: []string{"EdDSA"}, Keys: keys}}}
	cfg.ClientLimit = ratelimit.Limit{Requests: 10_000_000, Per: time.Hour}
	cfg.ConsumerLimit = cfg.ClientLimit
	cfg.Outbound = []gatemesh.Layer{deadline.Layer(), retry.Layer(), gate.Layer(), minter.Layer()}
	bearer := []string{"Authorization", "Bearer " + signed}
	all := []hop{
		caller(t, "origin with TLS", "https://"+servePlain(t, app, config), ca.Pool(), bearer...),
		caller(t, "gateway", "https://"+servePlain(t, newGateway(t, cfg), config), ca.Pool(), bearer...),
	}
	var p99 []time.Duration
	for _, c := range all {
		measure(t, c, 2*callers, callers)
		took := paced(t, c, *proxyTime)
		at := func(share float64) time.Duration { return took[min(len(took)-1, int(share*float64(len(took))))] }
		t.Logf("%-16s %d requests at 500/s: p50 %v, p99 %v", c.name, len(took), at(0.5).Round(time.Microsecond), at(0.99).Round(time.Microsecond))
		p99 = append(p99, at(0.99))
	}
	if *strict {
		assert.LessOrEqual(t, p99[1]-p99[0], 5*time.Millisecond)
	}
}

// paced makes 500 calls a second, each when its time has come, whether or not
// those before it have ended. It returns how long they took, counted from
// their time, sorted.
func paced(tb testing.TB, c hop, during time.Duration) []time.Duration {
	const every = time.Second / 500
	took := make([]time.Duration, int(during/every))
	errs := make([]error, len(took))
	var wg sync.WaitGroup
	began := time.Now()
	for i := range took {
		due := began.Add(time.Duration(i) * every)
		time.Sleep(time.Until(due))
		wg.Go(func() {
			errs[i] = c.call(i)
			took[i] = time.Since(due)
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(tb, err, c.name)
	}
	slices.Sort(took)
	return took
}
