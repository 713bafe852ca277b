package mtls_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

func peer(t testing.TB, id string) *gatemesh.Peer {
	t.Helper()
	parsed, err := mtls.ParseID(id)
	require.NoError(t, err)
	p, err := gatemesh.NewPeer(parsed.TrustDomain(), parsed.Path(), nil)
	require.NoError(t, err)
	return p
}

func TestMTLS02_Authorizers(t *testing.T) {
	t.Parallel()
	type want map[string]bool
	for _, c := range []struct {
		name string
		make func() (mtls.Authorizer, error)
		want want
	}{
		{"exactly", func() (mtls.Authorizer, error) { return mtls.Exactly("spiffe://TD.example/a") }, want{
			"spiffe://td.example/a": true, "spiffe://td.example/A": false, "spiffe://td.example/a/b": false,
			"spiffe://td.example.evil/a": false, "spiffe://evil-td.example/a": false,
		}},
		{"one of", func() (mtls.Authorizer, error) { return mtls.OneOf("spiffe://td.example/a", "spiffe://other/b") }, want{
			"spiffe://td.example/a": true, "spiffe://other/b": true, "spiffe://td.example/b": false, "spiffe://other/a": false,
		}},
		{"member of", func() (mtls.Authorizer, error) { return mtls.MemberOf("td.example") }, want{
			"spiffe://td.example/x": true, "spiffe://td.example.evil/x": false, "spiffe://evil-td.example/x": false,
			"spiffe://sub.td.example/x": false, "spiffe://td/x": false,
		}},
		{"path prefix", func() (mtls.Authorizer, error) { return mtls.PathPrefix("td.example", "/ns/prod") }, want{
			"spiffe://td.example/ns/prod/sa/a": true, "spiffe://td.example/ns/prod": true,
			"spiffe://td.example/ns/production/sa/a": false, "spiffe://td.example/ns/pro": false,
			"spiffe://td.example/x/ns/prod": false, "spiffe://td.example/ns/Prod/sa/a": false,
			"spiffe://td.example.evil/ns/prod/sa/a": false,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, err := c.make()
			require.NoError(t, err)
			for id, ok := range c.want {
				assert.Equal(t, ok, a(peer(t, id)) == nil, id)
			}
		})
	}
}

func TestAuthorizers_Invalid(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func() (mtls.Authorizer, error){
		"exactly nothing":     func() (mtls.Authorizer, error) { return mtls.Exactly("") },
		"exactly a domain":    func() (mtls.Authorizer, error) { return mtls.Exactly("spiffe://td.example") },
		"exactly a wildcard":  func() (mtls.Authorizer, error) { return mtls.Exactly("spiffe://td.example/*") },
		"one of nothing":      func() (mtls.Authorizer, error) { return mtls.OneOf() },
		"one of with a fault": func() (mtls.Authorizer, error) { return mtls.OneOf(caller, "x") },
		"member of nothing":   func() (mtls.Authorizer, error) { return mtls.MemberOf("") },
		"member of an id":     func() (mtls.Authorizer, error) { return mtls.MemberOf("spiffe://td.example/a") },
		"member, upper case":  func() (mtls.Authorizer, error) { return mtls.MemberOf("TD.example") },
		"prefix, no domain":   func() (mtls.Authorizer, error) { return mtls.PathPrefix("", "/ns") },
		"prefix, empty":       func() (mtls.Authorizer, error) { return mtls.PathPrefix(domain, "") },
		"prefix, root":        func() (mtls.Authorizer, error) { return mtls.PathPrefix(domain, "/") },
		"prefix, slash after": func() (mtls.Authorizer, error) { return mtls.PathPrefix(domain, "/ns/") },
		"prefix, relative":    func() (mtls.Authorizer, error) { return mtls.PathPrefix(domain, "ns") },
		"prefix, dots":        func() (mtls.Authorizer, error) { return mtls.PathPrefix(domain, "/ns/..") },
	} {
		a, err := f()
		assert.Error(t, err, name)
		assert.Nil(t, a, name)
	}
}

func TestAuthorizers_Allocs(t *testing.T) {
	one, err := mtls.OneOf(caller, callee)
	require.NoError(t, err)
	prefix, err := mtls.PathPrefix(domain, "/ns/prod")
	require.NoError(t, err)
	p := peer(t, caller)
	for _, a := range []mtls.Authorizer{exactly(t, caller), one, member(t), prefix} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { _ = a(p) }))
	}
}
