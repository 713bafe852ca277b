package edge

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
)

// version returns manifests that send everything to service, of which they
// take the subset alone, and allow /service alone.
func version(t *testing.T, service, subset string) *manifest.Set {
	t.Helper()
	yaml := strings.NewReplacer("SERVICE", service, "SUBSET", subset).Replace(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: shop}
spec:
  gatewayClassName: gatemesh
  listeners: [{name: http, protocol: HTTP, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{name: gw}]
  rules:
  - backendRefs: [{name: SERVICE, port: 80}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: SERVICE, namespace: shop}
spec:
  hosts: [SERVICE]
  http:
  - route: [{destination: {host: SERVICE, subset: SUBSET}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: SERVICE, namespace: shop}
spec:
  host: SERVICE
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  rules: [{to: [{operation: {paths: ["/SERVICE"]}}]}]
`)
	set, err := manifest.LoadFS(fstest.MapFS{"all.yaml": {Data: []byte(yaml)}})
	require.NoError(t, err)
	return set
}

// TestF12_NoRequestSeesAMix: routes, splits and policies are changed 1,000
// times under load. Whoever is let in by one version is routed and split by it.
func TestF12_NoRequestSeesAMix(t *testing.T) {
	var to []routing.Upstream
	for _, u := range []struct{ service, version, answer string }{
		{"a", "v1", "/a"}, {"a", "v2", "a mix"}, {"b", "v1", "a mix"}, {"b", "v2", "/b"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, u.answer) }))
		defer s.Close()
		to = append(to, routing.Upstream{Service: u.service, Namespace: "shop", URL: s.URL, Labels: map[string]string{"version": u.version}})
	}
	config := func(service, subset string) Config {
		return Config{
			Manifests: version(t, service, subset), Upstreams: to, ClientLimit: ratelimit.Limit{Requests: 1_000_000, Per: time.Hour},
			Workload: gatemesh.Workload{Name: "gw", TrustDomain: "t", Namespace: "shop", ServiceAccount: "gw"},
		}
	}
	versions := [2]Config{config("a", "v1"), config("b", "v2")}
	var g *Gateway
	var updates, admitted, refused atomic.Int64
	// Between its route and its policy, every request brings about a change.
	versions[0].AfterRoute = []gatemesh.Layer{{Name: "change", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{}, g.Update(versions[updates.Add(1)%2])
	})}}
	g, err := New(versions[0])
	require.NoError(t, err)
	defer func() { assert.NoError(t, g.Close()) }()

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range 250 {
				path := [2]string{"/a", "/b"}[n%2]
				w := httptest.NewRecorder()
				g.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				switch w.Code {
				case http.StatusOK:
					admitted.Add(1)
					assert.Equal(t, path, w.Body.String())
				case http.StatusForbidden:
					refused.Add(1)
				default:
					assert.Fail(t, fmt.Sprint(w.Code, " ", w.Body))
				}
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 1000, updates.Load())
	assert.Positive(t, admitted.Load())
	assert.Positive(t, refused.Load())
}

// One fault anywhere leaves everything as it was.
func TestUpdateAllOrNothing(t *testing.T) {
	good := Config{
		Manifests: version(t, "a", "v1"), Upstreams: []routing.Upstream{{Service: "a", URL: "http://127.0.0.1:1", Labels: map[string]string{"version": "v1"}}},
		Workload:    gatemesh.Workload{Name: "gw", TrustDomain: "t", Namespace: "shop", ServiceAccount: "gw"},
		ClientLimit: ratelimit.Limit{Requests: 1000, Per: time.Hour},
	}
	g, err := New(good)
	require.NoError(t, err)
	status := func() int {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/a", nil))
		return w.Code
	}
	require.Equal(t, 502, status())
	bad := good
	bad.Manifests, bad.ClientLimit.Requests = version(t, "b", "v1"), -1
	bad.Upstreams = []routing.Upstream{{Service: "b", URL: "http://127.0.0.1:1", Labels: map[string]string{"version": "v1"}}}
	err = g.Update(bad)
	require.ErrorContains(t, err, "ratelimit: Config.Limit.Requests")
	assert.Equal(t, 502, status(), "still the routes and the policy of before")
	bad.ClientLimit = good.ClientLimit
	require.NoError(t, g.Update(bad))
	assert.Equal(t, 403, status())
	bad.Manifests = nil
	assert.ErrorContains(t, g.Update(bad), "cannot add or remove layers")
}
