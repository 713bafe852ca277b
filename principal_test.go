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

// It does not run in parallel: it counts allocations.
func TestPrincipalWithoutCopies(t *testing.T) {
	p := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Scopes: []string{"a", "b"}, Audience: []string{"c"},
		Claims: map[string]any{
			"text": "x", "number": json.Number("7"), "null": nil, "empty": []any{}, "strings": []string{"x", "y"},
			"list": []any{"x", map[string]any{"a": "b"}, nil}, "map": map[string]any{"a": []any{"x"}},
		},
	})
	assert.Equal(t, []string{"a", "b"}, slices.Collect(p.AllScopes()))
	assert.Equal(t, []string{"c"}, slices.Collect(p.AllAudience()))
	for _, tt := range []struct {
		path []string
		want []any
	}{
		{nil, nil},
		{[]string{"none"}, nil},
		{[]string{"null"}, nil},
		{[]string{"empty"}, nil},
		{[]string{"text", "x"}, nil},
		{[]string{"text"}, []any{"x"}},
		{[]string{"number"}, []any{json.Number("7")}},
		{[]string{"strings"}, []any{"x", "y"}},
		{[]string{"list"}, []any{"x", map[string]any{"a": "b"}, nil}},
		{[]string{"map"}, []any{map[string]any{"a": []any{"x"}}}},
		{[]string{"map", "a"}, []any{"x"}},
	} {
		assert.Equal(t, tt.want, slices.Collect(p.ClaimElements(tt.path...)), tt.path)
		for range p.ClaimElements(tt.path...) {
			break // one that stops early gets no more
		}
	}
	for v := range p.ClaimElements("list") {
		if m, ok := v.(map[string]any); ok {
			m["a"] = "changed"
		}
	}
	inner, _ := p.Claim("list")
	assert.Equal(t, []any{"x", map[string]any{"a": "b"}, nil}, inner)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		for range p.ClaimElements("map", "a") {
		}
		for range p.AllScopes() {
		}
		for range p.AllAudience() {
		}
	}))
}

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
