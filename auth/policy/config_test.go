package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestZeroConfig(t *testing.T) {
	t.Parallel()
	e, err := New(Config{})
	require.Nil(t, e)
	require.ErrorContains(t, err, "policy: Config.Workload is required: gatemesh: Workload.Name is required")
	require.ErrorContains(t, err, "policy: Config.Unselected: is required, Allow or Deny")
	_, err = New(Config{Workload: payment, Unselected: 3})
	require.ErrorContains(t, err, "Config.Unselected")
}

// Values that no call can match are faults, because in a Not field they would
// exclude nothing.
func TestValueFaults(t *testing.T) {
	t.Parallel()
	src := func(set func(*Source, []string)) func(string) Rule {
		return func(v string) Rule {
			var s Source
			set(&s, []string{v})
			return from(s)
		}
	}
	op := func(set func(*Operation, []string)) func(string) Rule {
		return func(v string) Rule {
			var o Operation
			set(&o, []string{v})
			return to(o)
		}
	}
	fields := map[string]func(string) Rule{
		"Principals":           src(func(s *Source, v []string) { s.Principals = v }),
		"NotPrincipals":        src(func(s *Source, v []string) { s.NotPrincipals = v }),
		"RequestPrincipals":    src(func(s *Source, v []string) { s.RequestPrincipals = v }),
		"NotRequestPrincipals": src(func(s *Source, v []string) { s.NotRequestPrincipals = v }),
		"Namespaces":           src(func(s *Source, v []string) { s.Namespaces = v }),
		"NotNamespaces":        src(func(s *Source, v []string) { s.NotNamespaces = v }),
		"ServiceAccounts":      src(func(s *Source, v []string) { s.ServiceAccounts = v }),
		"NotServiceAccounts":   src(func(s *Source, v []string) { s.NotServiceAccounts = v }),
		"IPBlocks":             src(func(s *Source, v []string) { s.IPBlocks = v }),
		"NotIPBlocks":          src(func(s *Source, v []string) { s.NotIPBlocks = v }),
		"RemoteIPBlocks":       src(func(s *Source, v []string) { s.RemoteIPBlocks = v }),
		"NotRemoteIPBlocks":    src(func(s *Source, v []string) { s.NotRemoteIPBlocks = v }),
		"Hosts":                op(func(o *Operation, v []string) { o.Hosts = v }),
		"NotHosts":             op(func(o *Operation, v []string) { o.NotHosts = v }),
		"Methods":              op(func(o *Operation, v []string) { o.Methods = v }),
		"NotMethods":           op(func(o *Operation, v []string) { o.NotMethods = v }),
		"Paths":                op(func(o *Operation, v []string) { o.Paths = v }),
		"NotPaths":             op(func(o *Operation, v []string) { o.NotPaths = v }),
		"Ports":                op(func(o *Operation, v []string) { o.Ports = v }),
		"NotPorts":             op(func(o *Operation, v []string) { o.NotPorts = v }),
	}
	for _, tt := range []struct {
		field, value string
		want         error // nil is accepted
	}{
		{"Principals", "", errEmpty},
		{"Principals", " cluster.local/ns/a/sa/b", errSpace},
		{"Principals", "spiffe://cluster.local/ns/a/sa/b", errScheme},
		{"Principals", "spiffe://*", errScheme},
		{"Principals", "order-service", errIdentity},
		{"Principals", "cluster.local/", errIdentity},
		{"Principals", "Cluster.local/ns/a/sa/b", errIdentity},
		{"Principals", "/ns/a*", errIdentity},
		{"Principals", "cluster.local/ns/*/sa/b", errStar},
		{"Principals", "**", errStar},
		{"Principals", "*a*", errStar},
		{"Principals", "cluster.local/ns/a/sa/B", nil},
		{"RequestPrincipals", "alice", errUser},
		{"RequestPrincipals", "/alice", errUser},
		{"RequestPrincipals", "https:/", errUser},
		{"RequestPrincipals", "iss/a*b", errStar},
		{"RequestPrincipals", "*alice", nil},
		{"Namespaces", "ns/a", errSegment},
		{"Namespaces", "a*b", errStar},
		{"IPBlocks", "", errBlock},
		{"IPBlocks", "*", errBlock},
		{"IPBlocks", "10.0.0.0/33", errBlock},
		{"IPBlocks", "10.0.0", errBlock},
		{"IPBlocks", "fe80::1%eth0", errBlock},
		{"IPBlocks", "fe80::%eth0/10", errBlock},
		{"IPBlocks", "::ffff:10.0.0.0/80", errBlock},
		{"IPBlocks", "10.0.0.1/8", nil},
		{"RemoteIPBlocks", "localhost", errBlock},
		{"Hosts", "api.example.com:443", errPort},
		{"Hosts", "api.example.com:", errPort},
		{"Hosts", "api.example.com:*", errPort},
		{"Hosts", "*:443", errPort},
		{"Hosts", "https://api.example.com", errHost},
		{"Hosts", "api..example.com", errHost},
		{"Hosts", "*..example.com", errHost},
		{"Hosts", ".api*", errHost},
		{"Hosts", "*.", errHost},
		{"Hosts", "ap*.com", errStar},
		{"Hosts", "[2001:DB8::1]", nil},
		{"Methods", "get", errMethod},
		{"Methods", "Ge*", errMethod},
		{"Methods", "-X", errMethod},
		{"Methods", strings.Repeat("A", 33), errMethod},
		{"Methods", "*-X", nil},
		{"Paths", "v1", errSlash},
		{"Paths", "v1*", errSlash},
		{"Paths", "/a//b", gatemesh.ErrPathEmpty},
		{"Paths", "/a/../b", gatemesh.ErrPathDot},
		{"Paths", "/a/.", gatemesh.ErrPathDot},
		{"Paths", "/a/./*", gatemesh.ErrPathDot},
		{"Paths", "*/..", gatemesh.ErrPathDot},
		{"Paths", "/a/%2e%2e/b", gatemesh.ErrPathDot},
		{"Paths", "/a?x=1", gatemesh.ErrPathByte},
		{"Paths", "/a#x", gatemesh.ErrPathByte},
		{"Paths", "/a b", gatemesh.ErrPathByte},
		{"Paths", "/a%", gatemesh.ErrPathEscape},
		{"Paths", "/a%2*", gatemesh.ErrPathEscape},
		{"Paths", "/a%00", gatemesh.ErrPathControl},
		{"Paths", "/a%5Cb", gatemesh.ErrPathSeparator},
		{"Paths", "/caf%E9", gatemesh.ErrPathEncoding},
		{"Paths", "/a/*/b", errStar},
		{"Paths", "/a/{*}", nil},
		{"Paths", "/{**}", nil},
		{"Paths", "/a/{*}/b/{*}/{**}/c/d/", nil},
		{"Paths", "/a/{id}", errBrace},
		{"Paths", "/a/{*}x", errBrace},
		{"Paths", "/a/x{**}", errBrace},
		{"Paths", "/a/{*}{*}", errBrace},
		{"Paths", "/a/{***}", errBrace},
		{"Paths", "/a/}{", errBrace},
		{"Paths", "/a/{**}/{*}", errLast},
		{"Paths", "/a/{**}/b/{**}", errLast},
		{"Paths", "/*/{*}", errLiteral},
		{"Paths", "/a/{*}/*", errLiteral},
		{"Paths", "*/{*}", errSlash},
		{"Paths", "{*}", errSlash},
		{"Paths", "/{*}/a\"b", errLiteral},
		{"Paths", "/{*}/é", errLiteral},
		{"Paths", "/{*}//b", gatemesh.ErrPathEmpty},
		{"Paths", "//{*}", gatemesh.ErrPathEmpty},
		{"Paths", "/{*}/../b", gatemesh.ErrPathDot},
		{"Paths", "/{*}/%00", gatemesh.ErrPathControl},
		{"ServiceAccounts", "a", nil},
		{"ServiceAccounts", "a/b", nil},
		{"ServiceAccounts", "", errEmpty},
		{"ServiceAccounts", "*", errAccount},
		{"ServiceAccounts", "a/*", errAccount},
		{"ServiceAccounts", "a/b/c", errAccount},
		{"ServiceAccounts", "/b", errAccount},
		{"ServiceAccounts", "a/", errAccount},
		{"ServiceAccounts", "a/b c", errAccount},
		{"ServiceAccounts", "a/" + strings.Repeat("b", 319), errAccount},
		{"Paths", "/a%2Fb", nil}, // an Entry with KeepEncodedSlash
		{"Paths", "/a/%7Bid%7D", nil},
		{"Paths", "*.json", nil},
		{"Ports", "0", errNumber},
		{"Ports", "65536", errNumber},
		{"Ports", "080", errNumber},
		{"Ports", "+80", errNumber},
		{"Ports", "80-90", errNumber},
		{"Ports", "8*", errNumber},
	} {
		for _, name := range []string{tt.field, "Not" + tt.field} {
			_, err := New(config(policyOf("p", ActionAllow, fields[name](tt.value))))
			if tt.want == nil {
				assert.NoError(t, err, "%s %q", name, tt.value)
				continue
			}
			assert.ErrorIs(t, err, tt.want, "%s %q", name, tt.value)
			assert.ErrorContains(t, err, "]."+name+"[0] "+quote(tt.value)+": ")
		}
	}
}

// Every fault is reported at once, with where it stands, also in policies that
// do not select the workload.
func TestFaultTexts(t *testing.T) {
	t.Parallel()
	at := func(line int) gatemesh.Position { return gatemesh.Position{File: "a.yaml", Line: line} }
	cfg := Config{
		Workload: payment, Unselected: Deny, Exempt: []string{"/ok", "/a/*", "/%61"},
		Policies: []Policy{
			{Name: "a", Namespace: "production", Position: at(1), Rules: []Rule{
				{Position: at(5), To: []Operation{{Position: at(7), Paths: []string{"/ok", "x"}, Ports: []string{}}, {Methods: []string{"get"}}}},
				{From: []Source{}},
			}},
			{Name: "a", Namespace: "production", Position: at(20), Selector: map[string]string{"app": "pay*"}},
			{Namespace: "staging", Rules: []Rule{{From: []Source{{}}}}},
		},
	}
	_, err := New(cfg)
	require.Error(t, err)
	assert.Equal(t, []string{
		"policy: Config.Exempt[1] \"/a/*\": must be exact",
		"policy: Config.Exempt[2] \"/%61\": is not canonical",
		`policy: a.yaml:7: policy "a" (production): Rules[0].To[0].Paths[1] "x": it can never match, paths start with a slash`,
		`policy: a.yaml:7: policy "a" (production): Rules[0].To[0].Ports: the list is empty; leave it out to restrict nothing`,
		`policy: a.yaml:5: policy "a" (production): Rules[0].To[1].Methods[0] "get": it can never match, methods are upper-case words of at most 32 letters`,
		`policy: a.yaml:1: policy "a" (production): Rules[1].From: the list is empty; leave it out to restrict nothing`,
		`policy: a.yaml:20: policy "a" (production): Config.Policies[1]: there is another policy of this name at a.yaml:1`,
		"policy: a.yaml:20: policy \"a\" (production): Selector[\"app\"]: labels are exact, without `*`, and have a name",
		`policy: policy "" (staging): Config.Policies[2]: Name and Namespace are required`,
		`policy: policy "" (staging): Rules[0].From[0]: at least one field is required`,
	}, strings.Split(err.Error(), "\n"))
}
