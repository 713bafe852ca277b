package gatemesh_test

import (
	"crypto/x509"
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestPrincipalIsImmutable(t *testing.T) {
	t.Parallel()
	inner := map[string]any{"roles": []any{"admin", map[string]any{"a": "b"}}, "strings": []string{"x"}}
	in := gatemesh.PrincipalInfo{
		Subject: "alice", Scopes: []string{"read"}, Audience: []string{"api"},
		Claims: map[string]any{"n": json.Number("1"), "inner": inner, "name": "Alice"},
	}
	p := gatemesh.NewPrincipal(in)
	in.Scopes[0], in.Audience[0], in.Claims["name"] = "changed", "changed", "changed"
	inner["roles"].([]any)[1].(map[string]any)["a"] = "changed"
	inner["strings"].([]string)[0] = "changed"
	check := func() {
		assert.Equal(t, []string{"read"}, p.Scopes())
		assert.Equal(t, []string{"api"}, p.Audience())
		assert.True(t, p.HasScope("read"))
		assert.False(t, p.HasScope("rea"))
		assert.False(t, p.HasScope("READ"))
		name, ok := p.ClaimString("name")
		assert.True(t, ok)
		assert.Equal(t, "Alice", name)
		v, ok := p.Claim("inner")
		assert.True(t, ok)
		assert.Equal(t, map[string]any{"roles": []any{"admin", map[string]any{"a": "b"}}, "strings": []string{"x"}}, v)
	}
	check()
	p.Scopes()[0], p.Audience()[0] = "changed", "changed"
	v, _ := p.Claim("inner")
	v.(map[string]any)["roles"].([]any)[0] = "changed"
	check()

	for _, path := range [][]string{nil, {"missing"}, {"Name"}, {"name", "x"}, {"inner", "missing"}, {"inner", "roles", "0"}} {
		_, ok := p.Claim(path...)
		assert.False(t, ok, path)
	}
	_, ok := p.ClaimString("n")
	assert.False(t, ok, "a number is no string")
	assert.Equal(t, []string{"inner", "n", "name"}, slices.Sorted(p.ClaimNames()))

	zero := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{})
	_, ok = zero.Claim("x")
	assert.False(t, ok)
}

func TestNewPeer(t *testing.T) {
	t.Parallel()
	for path, want := range map[string][2]string{
		"/ns/prod/sa/orders":   {"prod", "orders"},
		"/ns/prod/sa/orders/x": {}, "/ns/a/b/sa/c": {}, "/ns/prod": {}, "/sa/orders": {}, "/x/ns/prod/sa/orders": {}, "/NS/prod/sa/orders": {},
	} {
		p, err := gatemesh.NewPeer("cluster.local", path, nil)
		require.NoError(t, err)
		assert.Equal(t, want, [2]string{p.Namespace(), p.ServiceAccount()}, path)
		assert.Equal(t, "spiffe://cluster.local"+path, p.ID())
		assert.Nil(t, p.Leaf())
		assert.Equal(t, path, p.Path())
		assert.Equal(t, "cluster.local", p.TrustDomain())
	}
	for _, in := range [][2]string{{"", "/a"}, {"td", ""}, {"td", "/"}, {"td", "a"}} {
		_, err := gatemesh.NewPeer(in[0], in[1], nil)
		assert.EqualError(t, err, "gatemesh: a peer needs a trust domain and a path")
	}
	leaf := &x509.Certificate{}
	p := gatemesh.Must(gatemesh.NewPeer("td", "/a", []*x509.Certificate{leaf}))
	p.Chain()[0] = nil
	assert.Same(t, leaf, p.Leaf())
}
