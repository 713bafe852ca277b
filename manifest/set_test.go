package manifest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const folder = "testdata/mesh"

func at(file string, line int) gatemesh.Position {
	return gatemesh.Position{File: filepath.Join(folder, file), Line: line}
}

func TestLoadDir(t *testing.T) {
	t.Parallel()
	set, err := manifest.LoadDir(folder)
	require.NoError(t, err)

	assert.Equal(t, []manifest.Listener{
		{Position: at("gateway.yaml", 11), Name: "https", Hostname: "api.example.com", Port: 443, HTTPS: true},
	}, set.Listeners())

	prefix := func(value string) []routing.Match {
		return []routing.Match{{Path: routing.PathMatch{Type: routing.PathPrefix, Value: value}}}
	}
	assert.Equal(t, []routing.Route{{
		Name: "production/order-service-route/0", Position: at("orders-route.yaml", 12),
		Listeners: []string{"https"}, Hostnames: []string{"api.example.com"}, Matches: prefix("/v1/orders"),
		Backends: []routing.Backend{
			{Destination: gatemesh.Destination{Service: "order-service", Namespace: "production", Port: 8080}, Weight: 1},
		},
	}, {
		Name: "production/user-service-route/0", Position: at("httproute.yaml", 13),
		Listeners: []string{"https"}, Hostnames: []string{"api.example.com"}, Matches: prefix("/v1/users"),
		Backends: []routing.Backend{
			{Destination: gatemesh.Destination{Service: "user-service", Namespace: "production", Port: 8080}, Weight: 100},
		},
	}}, set.Routes())

	assert.Equal(t, []routing.Subset{
		{Position: at("destinationrule.yaml", 10), Service: "user-service", Namespace: "production", Name: "v1", Labels: map[string]string{"version": "v1"}},
		{Position: at("destinationrule.yaml", 13), Service: "user-service", Namespace: "production", Name: "v2", Labels: map[string]string{"version": "v2"}},
	}, set.Subsets())

	to := func(subset string, weight uint32) routing.Backend {
		return routing.Backend{Destination: gatemesh.Destination{Service: "user-service", Namespace: "production", Subset: subset}, Weight: weight}
	}
	assert.Equal(t, []routing.Service{{
		Position: at("virtualservice.yaml", 2), Service: "user-service", Namespace: "production",
		Rules: []routing.Route{{
			Name: "production/user-service/mesh/0", Position: at("virtualservice.yaml", 11),
			Matches:  []routing.Match{{Headers: []routing.HeaderMatch{{Name: "x-canary", Value: "true"}}}},
			Backends: []routing.Backend{to("v2", 100)},
		}, {
			Name: "production/user-service/mesh/1", Position: at("virtualservice.yaml", 19),
			Backends: []routing.Backend{to("v1", 90), to("v2", 10)},
		}},
	}}, set.Services(gatemesh.Workload{}))

	policies := set.Policies()
	require.Len(t, policies, 5)
	assert.Equal(t, policy.Policy{
		Name: "payment-service-policy", Namespace: "production", Position: at("authorizationpolicy.yaml", 2),
		Selector: map[string]string{"app": "payment-service"}, Action: policy.ActionAllow,
		Rules: []policy.Rule{{
			Position: at("authorizationpolicy.yaml", 12),
			From:     []policy.Source{{Position: at("authorizationpolicy.yaml", 14), Principals: []string{"cluster.local/ns/production/sa/order-service"}}},
			To:       []policy.Operation{{Position: at("authorizationpolicy.yaml", 18), Methods: []string{"POST"}, Paths: []string{"/v1/payments/*"}}},
		}},
	}, policies[0])
	var names []string
	for _, p := range policies {
		names = append(names, p.Name)
	}
	assert.Equal(t, []string{"payment-service-policy", "main-gateway-policy", "user-service-policy", "order-service-policy", "inventory-service-policy"}, names)
}

// What a Set returns belongs to the caller.
func TestSetIsNotShared(t *testing.T) {
	t.Parallel()
	set, err := manifest.LoadDir(folder)
	require.NoError(t, err)
	set.Routes()[0].Hostnames[0] = "evil.example.com"
	set.Routes()[0].Backends[0].Weight = 0
	set.Subsets()[0].Labels["version"] = "v2"
	set.Services(gatemesh.Workload{})[0].Rules[0].Backends[0].Weight = 0
	set.Policies()[0].Selector["app"] = "other"
	set.Policies()[0].Rules[0].From[0].Principals[0] = "*"
	again, err := manifest.LoadDir(folder)
	require.NoError(t, err)
	assert.Equal(t, again.Routes(), set.Routes())
	assert.Equal(t, again.Subsets(), set.Subsets())
	assert.Equal(t, again.Services(gatemesh.Workload{}), set.Services(gatemesh.Workload{}))
	assert.Equal(t, again.Policies(), set.Policies())
}

func TestZeroSet(t *testing.T) {
	t.Parallel()
	var set manifest.Set
	assert.Empty(t, set.Routes())
	assert.Empty(t, set.Subsets())
	assert.Empty(t, set.Services(gatemesh.Workload{}))
	assert.Empty(t, set.Policies())
	assert.Empty(t, set.Listeners())
}

func read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, name))
	require.NoError(t, err)
	return string(data)
}

func files(content ...string) fstest.MapFS {
	out := fstest.MapFS{}
	for i := 0; i+1 < len(content); i += 2 {
		out[content[i]] = &fstest.MapFile{Data: []byte(content[i+1])}
	}
	return out
}

// One fault anywhere, and nothing is loaded; the faults of all files are told.
func TestNothingIsHalfLoaded(t *testing.T) {
	t.Parallel()
	good := read(t, "authorizationpolicy.yaml")
	set, err := manifest.LoadFS(files("a.yaml", good, "b.yaml", "kind: X\n", "c.yml", "a: [\n", "d.YAML", "", "e.json", "{", "sub/f.yaml", "{"))
	assert.Nil(t, set)
	assert.EqualError(t, err, strings.Join([]string{
		"b.yaml:1: apiVersion: is required",
		"c.yml:1: did not find expected node content",
		"d.YAML: there is no document in the file",
	}, "\n"))
	set, err = manifest.Parse("two.yaml", []byte(good+"---\n"+strings.Replace(good, "principals", "principal", 1)))
	assert.Nil(t, set)
	assert.EqualError(t, err, "two.yaml:34: AuthorizationPolicy production/payment-service-policy: spec.rules[0].from[0].source.principal: unknown field")
}

func TestFolders(t *testing.T) {
	t.Parallel()
	_, err := manifest.LoadDir("testdata/none")
	require.ErrorContains(t, err, "manifest: folder testdata/none: no such file or directory")
	dir := t.TempDir()
	_, err = manifest.LoadDir(dir)
	require.EqualError(t, err, "manifest: there is no .yaml or .yml file in the folder "+dir)
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "a.yaml")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "b.yaml"), 0o700))
	_, err = manifest.LoadDir(dir)
	require.ErrorContains(t, err, filepath.Join(dir, "a.yaml")+": no such file or directory")
	require.ErrorContains(t, err, filepath.Join(dir, "b.yaml")+": is a directory")
}

func TestManyFaults(t *testing.T) {
	t.Parallel()
	doc := strings.Replace(read(t, "authorizationpolicy.yaml"), "spec:", "spec:\n"+strings.Repeat("  x: 1\n", 1), 1)
	var all strings.Builder
	for i := range 60 {
		all.WriteString("---\n" + strings.Replace(doc, "name: payment", "name: p"+strings.Repeat("x", i), 1))
	}
	_, err := manifest.Parse("a.yaml", []byte(all.String()))
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	assert.Len(t, lines, 51)
	assert.Equal(t, "and 10 more faults", lines[50])

	// The cost of many faults is bounded, too.
	_, err = manifest.Parse("a.yaml", []byte(strings.Replace(read(t, "destinationrule.yaml"), "    - name: v1",
		strings.Repeat("    - {name: v1, labels: {version: v1}}\n", 2000)+"    - name: v1", 1)))
	require.Error(t, err)
	lines = strings.Split(err.Error(), "\n")
	assert.Len(t, lines, 51)
	assert.Equal(t, "and 1950 more faults", lines[50])
}

// Equal matches are decided by age, then name, then the order of rules.
func TestRouteOrder(t *testing.T) {
	t.Parallel()
	route := read(t, "orders-route.yaml")
	named := func(name, extra string) string {
		return "---\n" + strings.Replace(route, "name: order-service-route\n", "name: "+name+"\n"+extra, 1)
	}
	two := strings.Replace(named("b", ""), "  rules:\n", "  rules:\n    - name: first\n      backendRefs: [{name: x, port: 1}]\n", 1)
	set, err := manifest.Parse("a.yaml", []byte(read(t, "gateway.yaml")+two+
		named("a", "  creationTimestamp: null\n")+
		named("young", "  creationTimestamp: \"2026-02-01T00:00:00Z\"\n")+
		named("old", "  creationTimestamp: 2026-01-01T00:00:00Z\n")))
	require.NoError(t, err)
	var names []string
	for _, r := range set.Routes() {
		names = append(names, r.Name)
	}
	assert.Equal(t, []string{"production/old/0", "production/young/0", "production/a/0", "production/b/first", "production/b/1"}, names)
}

// What kubectl get -o yaml adds is accepted.
func TestClusterMetadata(t *testing.T) {
	t.Parallel()
	doc := strings.Replace(read(t, "authorizationpolicy.yaml"), "  namespace: production\n", `  namespace: production
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"security.istio.io/v1beta1"}
    meta.helm.sh/release-name: payments
  labels: {}
  creationTimestamp: "2026-01-01T00:00:00Z"
  generation: 3
  resourceVersion: "12345"
  uid: 5d0e2f0a-0000-4000-8000-000000000000
  managedFields:
    - fieldsV1: {f:spec: {f:rules: {}}, ".": {}}
`, 1) + "status:\n  conditions: null\n"
	set, err := manifest.Parse("a.yaml", []byte(doc))
	require.NoError(t, err)
	assert.Len(t, set.Policies(), 1)
}
