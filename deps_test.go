package gatemesh_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/gatemesh-go/gatemesh"

// arrows says which packages of this module each package may import. Imports
// run downward only: the root knows nobody, a concern knows the root, and what
// stands on top knows the concerns.
var arrows = map[string][]string{
	"":                    {},
	"auth":                {"", "breaker", "internal/follow"},
	"auth/identity":       {"", "internal/follow"},
	"auth/policy":         {""},
	"breaker":             {""},
	"mtls":                {"", "internal/follow"},
	"mtls/devca":          {"", "mtls"},
	"mtls/spire":          {"", "mtls"},
	"cmd/devca":           {"", "mtls/devca"},
	"ratelimit":           {""},
	"routing":             {"", "internal/match"},
	"routing/pool":        {"", "internal/follow"},
	"canary":              {""},
	"trace":               {""},
	"serve":               {},
	"manifest":            {"", "auth", "auth/policy", "routing", "routing/pool", "mtls"},
	"grpcmesh":            {"", "mtls", "routing/pool"},
	"internal/follow":     {""},
	"internal/match":      {""},
	"internal/grpctest":   {},
	"internal/dnstest":    {},
	"internal/leaktest":   {"internal/race"},
	"internal/race":       {},
	"internal/metrictest": {""},
	"internal/rttest":     {},
	"meshtest":            {"", "auth/identity", "auth/policy", "mtls", "mtls/devca"},

	"auth/policy/policytest": {"", "auth/policy", "manifest"},
}

// foreign says which modules outside the standard library each package may
// compile in, by prefix.
var foreign = map[string][]string{
	"auth":              {"github.com/golang-jwt/jwt/v5"},
	"breaker":           {"github.com/failsafe-go/failsafe-go", "github.com/bits-and-blooms/bitset", "github.com/influxdata/tdigest"},
	"mtls":              {"github.com/spiffe/go-spiffe/v2/"},
	"mtls/devca":        {"github.com/spiffe/go-spiffe/v2/"},
	"mtls/spire":        {"github.com/spiffe/go-spiffe/v2/", "github.com/go-jose/go-jose/v4", "google.golang.org/", "golang.org/x/"},
	"meshtest":          {"github.com/spiffe/go-spiffe/v2/"},
	"ratelimit":         {"golang.org/x/time/rate"},
	"trace":             {"go.opentelemetry.io/otel", "go.opentelemetry.io/auto/sdk", "github.com/go-logr/", "github.com/cespare/xxhash/v2"},
	"manifest":          {"go.yaml.in/yaml/v3"},
	"grpcmesh":          {"google.golang.org/", "golang.org/x/"},
	"internal/grpctest": {"google.golang.org/", "golang.org/x/"},
	"internal/dnstest":  {"golang.org/x/net/dns/dnsmessage"},
	"internal/leaktest": {"go.uber.org/goleak"},
}

// forbidden must not be compiled into any package of the root module but those named.
var forbidden = map[string]struct {
	why    string
	except []string
}{
	"google.golang.org/grpc":           {"belongs in grpcmesh and mtls/spire", []string{"grpcmesh", "internal/grpctest", "mtls/spire"}},
	"github.com/redis/":                {"belongs in ratelimit/redisstore", nil},
	"k8s.io/":                          {"would bring its module graph to every user", nil},
	"sigs.k8s.io/":                     {"would bring its module graph to every user", nil},
	"go.opentelemetry.io/otel/sdk":     {"belongs to the application", nil},
	"go.opentelemetry.io/otel/export":  {"belongs to the application", nil},
	"go.opentelemetry.io/contrib/":     {"belongs to the application", nil},
	"github.com/prometheus/":           {"belongs to the application", nil},
	"github.com/stretchr/testify":      {"only in test files", nil},
	"github.com/failsafe-go/failsafe-": {"belongs in breaker", []string{"breaker", "auth", "manifest", "auth/policy/policytest"}},
	"testing":                          {"only in test files", nil},
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return strings.Fields(string(out))
}

func TestDependencies(t *testing.T) {
	t.Parallel()
	for _, path := range goList(t, "./...") {
		pkg := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
		t.Run("/"+pkg, func(t *testing.T) {
			t.Parallel()
			allowed, known := arrows[pkg]
			require.True(t, known, "say in arrows what %s may import", path)
			for _, dep := range goList(t, "-f", `{{range .Imports}}{{.}} {{end}}`, path) {
				if rest, ours := strings.CutPrefix(dep, module); ours {
					assert.Contains(t, allowed, strings.TrimPrefix(rest, "/"), "%s imports %s", path, dep)
				}
			}
			for _, dep := range goList(t, "-deps", "-f", `{{if not .Standard}}{{.ImportPath}}{{else if eq .ImportPath "testing"}}testing{{end}}`, path) {
				for prefix, rule := range forbidden {
					if strings.HasPrefix(dep, prefix) && !slices.Contains(rule.except, pkg) {
						t.Errorf("%s depends on %s, which %s", path, dep, rule.why)
					}
				}
				if !strings.HasPrefix(dep, module) && dep != "testing" {
					ok := false
					for _, prefix := range append(foreign[pkg], foreignOf(allowed)...) {
						ok = ok || strings.HasPrefix(dep, prefix)
					}
					assert.True(t, ok, "%s compiles %s in; weigh it, then add it to foreign", path, dep)
				}
			}
		})
	}
}

// foreignOf returns what the packages below bring with them, and those below them.
func foreignOf(pkgs []string) (prefixes []string) {
	for _, p := range pkgs {
		prefixes = append(prefixes, foreign[p]...)
		prefixes = append(prefixes, foreignOf(arrows[p])...)
	}
	return prefixes
}
