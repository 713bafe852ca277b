package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
)

func destinationRule(service, policy string) string {
	return fmt.Sprintf("---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: %s}\nspec: {host: %s, trafficPolicy: %s}\n", service, service, policy)
}

// A DestinationRule reaches the pool of an -upstream with several URLs, while it
// serves, and ceases to when it goes.
func TestTrafficPolicyOfUpstreams(t *testing.T) {
	t.Parallel()
	args := []string{}
	for i := range 5 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) }))
		t.Cleanup(s.Close)
		args = append(args, "-upstream", "a="+s.URL)
	}
	sticky := destinationRule("a", "{loadBalancer: {consistentHash: {httpHeaderName: X-User}}}")
	f := startFollowed(t, routes("a", ""), func(*options) {}, args...)
	servers := func() int {
		got := map[string]bool{}
		for range 40 {
			got[f.ask("/a", http.Header{"X-User": {"ann"}})] = true
		}
		return len(got)
	}
	require.Greater(t, servers(), 1)
	replace(t, f.dir, routes("a", "")+sticky)
	until(t, "not sticky", func() bool { return servers() == 1 })
	replace(t, f.dir, routes("a", ""))
	until(t, "still sticky", func() bool { return servers() > 1 })
	assert.Zero(t, f.log.count("has no effect"))
}

// Where there is nothing to choose, that is said.
func TestTrafficPolicyOfOneURL(t *testing.T) {
	t.Parallel()
	f := startFollowed(t, routes("a", "")+destinationRule("a", "{loadBalancer: {simple: RANDOM}}"), func(*options) {}, "-upstream", "a="+naming(t, "A"))
	assert.Equal(t, "200 A", f.ask("/a", nil))
	assert.Equal(t, 1, f.log.count("all.yaml:26 has no effect: -upstream a is one URL"))
}

// A service is reached as its DestinationRule says, or the gateway does not start.
func TestTrafficPolicyTLS(t *testing.T) {
	t.Parallel()
	start := func(policy string, args ...string) error {
		o, err := parseFlags(append([]string{"-listen", "127.0.0.1:0", "-manifests", folderOf(t, routes("a", "")+destinationRule("a", policy))}, args...), nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // if it starts
		defer cancel()
		return o.serve(ctx, t.Output())
	}
	assert.ErrorContains(t, start("{tls: {mode: ISTIO_MUTUAL}}"), "all.yaml:26: tls mode ISTIO_MUTUAL for a.default:80 takes -mesh-cert")
	assert.ErrorContains(t, start("{tls: {mode: ISTIO_MUTUAL}}", "-upstream", "a=http://127.0.0.1:1"), "-upstream a: tls mode ISTIO_MUTUAL takes an https URL")
	for mode, scheme := range map[manifest.TLSMode]string{manifest.TLSUnset: "https", manifest.TLSMesh: "https", manifest.TLSDisable: "http"} {
		s, err := (&options{meshCert: "cert.pem"}).byDNS(gatemesh.Destination{Service: "a", Namespace: "b", Port: 80}, manifest.TrafficPolicy{TLS: mode}, nil)
		require.NoError(t, err)
		assert.Equal(t, scheme+"://a.b.svc.cluster.local:80", s.upstream.URL)
		require.NoError(t, s.pool.Close())
	}
	assert.Empty(t, (&options{meshCert: "cert.pem"}).faultOfTLS(manifest.TLSMesh, "https://x"))
}

// What the URL says as well is no policy without effect.
func TestTrafficPolicyOfOneURLAndTLS(t *testing.T) {
	t.Parallel()
	f := startFollowed(t, routes("a", "")+destinationRule("a", "{tls: {mode: DISABLE}}"), func(*options) {}, "-upstream", "a="+naming(t, "A"))
	assert.Equal(t, "200 A", f.ask("/a", nil))
	assert.Zero(t, f.log.count("has no effect"))
}

// An -upstream for several destinations has one pool, and one policy.
func TestTrafficPoliciesOfOneUpstream(t *testing.T) {
	t.Parallel()
	const random, turns = "{loadBalancer: {simple: RANDOM}}", "{loadBalancer: {simple: ROUND_ROBIN}}"
	ports := func(more string) string {
		return routes("a", "") + strings.NewReplacer("metadata: {name: all}\nspec:\n  parentRefs", "metadata: {name: other}\nspec:\n  hostnames: [other.example]\n  parentRefs", "port: 80}]", "port: 81}]").Replace(
			"---\n"+strings.Split(routes("a", ""), "---\n")[1]) + more
	}
	perPort := destinationRule("a", "{portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: RANDOM}}]}")
	for _, tt := range []struct {
		text      string
		upstreams []string
		fault     string
		want      map[string]bool // upstreams with a policy
	}{
		{ports(""), []string{"a=http://x"}, "", nil},
		{ports(destinationRule("a", random)), []string{"a=http://x"}, "", map[string]bool{"a": true}},
		{ports(destinationRule("a", "{tls: {mode: ISTIO_MUTUAL}}")), []string{"a=http://x"}, "-upstream a: tls mode ISTIO_MUTUAL takes an https URL and -mesh-cert, by the trafficPolicy at all.yaml:", nil},
		{ports(destinationRule("a", "{tls: {mode: ISTIO_MUTUAL}}")), []string{"a=https://x"}, "tls mode ISTIO_MUTUAL takes an https URL and -mesh-cert", nil},
		{ports(destinationRule("a", "{tls: {mode: DISABLE}}")), []string{"a=https://x"}, "tls mode DISABLE takes an http URL", nil},
		{ports(destinationRule("a", "{tls: {mode: DISABLE}}")), []string{"a=http://x"}, "", map[string]bool{"a": true}},
		{ports(destinationRule("b", random)), []string{"a=http://x"}, "", nil},
		{ports(perPort), []string{"a=http://x"}, "-upstream a: the DestinationRules say one thing about a.default:80 (", nil},
		{ports(perPort), []string{"a=http://x", "a:81=http://y"}, "", map[string]bool{"a:81": true}},
		{ports(perPort), []string{"a=http://x", "a.default:81=http://y", "a.default=http://z"}, "", map[string]bool{"a.default:81": true}},
		{ports(destinationRule("a", turns)), []string{"a=http://x", "a.other=http://y"}, "", map[string]bool{"a": true}},
	} {
		set, err := manifest.Parse("all.yaml", []byte(tt.text))
		require.NoError(t, err)
		b := &built{}
		for _, u := range tt.upstreams {
			b.flags = append(b.flags, gatemesh.Must(parseUpstream(u)))
		}
		policies, err := (&options{}).policies(b, set, gatemesh.Workload{})
		if tt.fault != "" {
			assert.ErrorContains(t, err, tt.fault)
			continue
		}
		require.NoError(t, err)
		got := map[string]bool{}
		for _, u := range b.flags {
			if _, ok := policies[serves(&u)]; ok {
				got[upstreamName(serves(&u))] = true
			}
		}
		if tt.want == nil {
			tt.want = map[string]bool{}
		}
		assert.Equal(t, tt.want, got, tt.upstreams)
	}
}
