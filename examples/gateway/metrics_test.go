package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/examples/gateway/edge"
	"github.com/gatemesh-go/gatemesh/internal/metrictest"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// scrape reads /metrics as Prometheus does, by name and labels.
func scrape(t *testing.T, client *http.Client, health string) map[string]float64 {
	t.Helper()
	resp, body := get(t, client, "http://"+health+"/metrics", nil)
	require.Equal(t, http.StatusOK, resp.StatusCode, body)
	got := map[string]float64{}
	for _, line := range regexp.MustCompile(`(?m)^([a-z][^ {]*(?:\{.*\})?) (\S+)$`).FindAllStringSubmatch(body, -1) {
		v, err := strconv.ParseFloat(line[2], 64)
		require.NoError(t, err, line[0])
		got[line[1]] = v
	}
	return got
}

// A breaker opens, and /metrics says so; and what else an operator watches.
func TestMetrics(t *testing.T) {
	var down atomic.Bool
	var urls []string
	for range 2 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if down.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		defer s.Close()
		urls = append(urls, s.URL)
	}
	ca, err := devca.New("public.example")
	require.NoError(t, err)
	dir := t.TempDir()
	site(t, ca, dir, "a.example")
	const key = "secret-of-acme-0123456789"
	addrs := startGateway(t, "-upstream", "default="+urls[0], "-upstream", "default="+urls[1], "-health", "127.0.0.1:0", "-rate", "1000/1h",
		"-workload", "front.shop", "-api-keys", file(t, "keys.txt", "acme-1 acme "+auth.HashKey(key)+"\n"),
		"-tls-cert", filepath.Join(dir, "tls.crt"), "-tls-key", filepath.Join(dir, "tls.key"))
	client, prober := tlsClient(t, ca, addrs["public"], func(*http.Transport) {}), plainClient(t)
	call := func() int {
		resp, _ := get(t, client, "https://a.example/SECRET-path?SECRET=1", http.Header{"X-Api-Key": {key}, "User-Agent": {"SECRET"}})
		return resp.StatusCode
	}
	health := addrs["health"].String()
	require.Equal(t, http.StatusOK, call())
	got := scrape(t, prober, health)
	const (
		open    = `gatemesh_breaker_state{gatemesh_destination="default",gatemesh_state="open"}`
		opened  = `gatemesh_breaker_transitions_total{gatemesh_destination="default",gatemesh_state="open",gatemesh_state_before="closed"}`
		refused = `gatemesh_breaker_refused_total{gatemesh_destination="default"}`
		good    = `gatemesh_server_call_duration_seconds_count{gatemesh_code_class="2xx",gatemesh_destination="default",gatemesh_protocol="http",gatemesh_route="default",gatemesh_source="unknown"}`
		failed  = `gatemesh_server_call_duration_seconds_count{gatemesh_code_class="5xx",gatemesh_destination="default",gatemesh_protocol="http",gatemesh_route="default",gatemesh_source="unknown"}`
		made    = `gatemesh_client_call_duration_seconds_count{gatemesh_code_class="5xx",gatemesh_destination="default",gatemesh_protocol="http",gatemesh_route="default",gatemesh_source="front.shop"}`
	)
	assert.Contains(t, got, open)
	assert.Zero(t, got[open])
	assert.Zero(t, got[opened])
	assert.EqualValues(t, 1, got[good])
	assert.EqualValues(t, 2, got[`gatemesh_pool_endpoints{gatemesh_name="default",gatemesh_state="in"}`])
	assert.EqualValues(t, 1, got[`gatemesh_ratelimit_admitted_total{gatemesh_name="consumer"}`])
	assert.EqualValues(t, 1, got[`gatemesh_ratelimit_keys{gatemesh_name="consumer"}`])
	assert.Contains(t, got, `gatemesh_auth_cache_tokens`)
	remaining := got[fmt.Sprintf("gatemesh_mtls_certificate_remaining_seconds{gatemesh_name=%q}", filepath.Join(dir, "tls.crt"))]
	assert.Greater(t, remaining, 60., "the certificate ends some time: %v", got)

	down.Store(true)
	n := 0
	for ; n < 1000 && scrape(t, prober, health)[open] == 0; n++ {
		assert.Equal(t, http.StatusServiceUnavailable, call())
	}
	assert.Equal(t, http.StatusServiceUnavailable, call())
	got = scrape(t, prober, health)
	assert.EqualValues(t, 1, got[open])
	assert.EqualValues(t, 1, got[opened])
	assert.Positive(t, got[refused])
	assert.EqualValues(t, n+1, got[failed])
	assert.EqualValues(t, n+1, got[made])
	assert.EqualValues(t, 1, got[`gatemesh_faults_total{gatemesh_layer="breaker"}`])
	assert.Positive(t, got[`gatemesh_call_denied_total{gatemesh_code="unavailable",gatemesh_layer="breaker",gatemesh_reason="circuit_open"}`])
	assert.Positive(t, got[`gatemesh_retry_retried_total{gatemesh_destination="default"}`])
	for name := range got { // TR-03
		assert.NotContains(t, name, "SECRET")
		assert.NotContains(t, name, "acme")
	}
}

// What comes and goes with the manifests comes and goes in the metrics, and
// nothing of it is undeclared.
func TestMetricsOfManifests(t *testing.T) {
	o, err := parseFlags([]string{"-manifests", routesTo(t, "80"), "-workload", "main-gateway.default"}, io.Discard)
	require.NoError(t, err)
	b, err := o.build(nil)
	require.NoError(t, err)
	defer b.close()
	g, err := edge.New(b.edge)
	require.NoError(t, err)
	defer func() { assert.NoError(t, g.Close()) }()
	told, err := metrictest.Read(components{b, g})
	require.NoError(t, err)
	pools := 0
	for name := range told {
		if regexp.MustCompile(`^gatemesh\.pool\.in_flight\{name=.*:80\}$`).MatchString(name) {
			pools++
		}
	}
	assert.Positive(t, pools, "%v", told)
	full := b.version.Load()
	defer b.version.Store(full) // whose pools close closes
	b.version.Store(&version{keys: full.keys})
	told, err = metrictest.Read(components{b, g})
	require.NoError(t, err)
	for name := range told {
		assert.NotRegexp(t, `^gatemesh\.pool`, name)
	}
}
