package pool

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func response(status int) *http.Response { return &http.Response{StatusCode: status} }

func TestHashKey(t *testing.T) {
	t.Parallel()
	user := func(issuer, subject, consumer string) *gatemesh.Call {
		pr := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: issuer, Subject: subject, Consumer: consumer})
		in, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "a", Principal: pr, Client: netip.MustParseAddr("192.0.2.1")})
		require.NoError(t, err)
		out, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "b", Parent: in})
		require.NoError(t, err)
		return out
	}
	header := func(name string, values ...string) Request { return Request{Header: map[string][]string{name: values}} }
	type ask struct {
		call *gatemesh.Call
		r    Request
	}
	for name, tt := range map[string]struct {
		key   HashKey
		same  []ask // all have the same key
		other []ask // with another key each
		none  []ask
	}{
		"header": {
			HashKey{Header: "x-User"},
			[]ask{{nil, header("X-User", "ada")}, {nil, header("x-user", "ada")}, {nil, header("X-User", "ada", "eve")}},
			[]ask{{nil, header("X-User", "eve")}, {nil, header("X-User", "Ada")}},
			[]ask{{}, {nil, header("X-User")}, {nil, header("X-User", "")}, {nil, header("X-Other", "ada")}},
		},
		"cookie": {
			HashKey{Cookie: "sid"},
			[]ask{{nil, header("Cookie", "sid=1")}, {nil, header("cookie", "a=b; sid=1;c=d")}, {nil, header("Cookie", "x=y", "sid=1; sid=2")}},
			[]ask{{nil, header("Cookie", "sid=2")}},
			[]ask{{}, {nil, header("Cookie", "")}, {nil, header("Cookie", "sid; sid=; asid=1;;=")}, {nil, header("Cookie", "SID=1")}},
		},
		"query": {
			HashKey{Query: "user id"},
			[]ask{{nil, Request{Query: "user+id=a%20b"}}, {nil, Request{Query: "x=1&user%20id=a+b&user+id=c"}}},
			[]ask{{nil, Request{Query: "user+id=%"}}},
			[]ask{{}, {nil, Request{Query: "user+id="}}, {nil, Request{Query: "%=1&&=&user"}}},
		},
		"client": {
			HashKey{ClientAddress: true},
			[]ask{{user("", "", ""), Request{}}, {user("i", "s", "c"), Request{}}},
			nil,
			[]ask{{}},
		},
		"principal": {
			HashKey{Principal: true},
			[]ask{{user("i", "s", ""), Request{}}, {user("i", "s", "c"), Request{}}},
			[]ask{{user("is", "", "x"), Request{}}, {user("j", "s", ""), Request{}}, {user("i", "t", ""), Request{}}, {user("", "", "c"), Request{}}, {user("i", "su", ""), Request{}}, {user("is", "u", ""), Request{}}},
			[]ask{{}, {user("i", "", ""), Request{}}},
		},
		"consumer": {
			HashKey{Consumer: true},
			[]ask{{user("i", "s", "c"), Request{}}, {user("j", "t", "c"), Request{}}},
			[]ask{{user("i", "s", "d"), Request{}}},
			[]ask{{}, {user("i", "s", ""), Request{}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFinder(tt.key)
			want, ok := f.of(tt.same[0].call, tt.same[0].r)
			require.True(t, ok)
			seen := map[uint64]bool{want: true}
			for i, a := range tt.same {
				got, ok := f.of(a.call, a.r)
				assert.True(t, ok, i)
				assert.Equal(t, want, got, i)
			}
			for i, a := range tt.other {
				got, ok := f.of(a.call, a.r)
				assert.True(t, ok, i)
				assert.False(t, seen[got], i)
				seen[got] = true
			}
			for i, a := range tt.none {
				_, ok := f.of(a.call, a.r)
				assert.False(t, ok, i)
			}
		})
	}
}

// Without a key a ring does what P2C does.
func TestRingWithoutKey(t *testing.T) {
	t.Parallel()
	p := newPool(t, Static("a:1", "b:1", "c:1"), balancers["ring hash"])
	got := tries(t, p, 3_000)
	assert.Len(t, got, 3)
	for addr, n := range got {
		assert.InDelta(t, 1_000, n, 200, addr)
	}
}

// One key that everybody sends cannot have more than its bound in flight at one
// endpoint, and the next one on the ring takes the rest.
func TestRingBoundedLoad(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ bound, most int }{"none": {0, 1_000}, "150 %": {150, 302}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPool(t, Static(numbered(5)...), balancers["ring hash"], func(c *Config) { c.HashKey.BoundedLoad = tt.bound })
			got := map[string]int{}
			for range 1_000 {
				e := p.state.Load().chooser.Choose(t.Context(), Request{Header: http.Header{"X-Key": {"same"}}})
				e.Begin(t.Context(), p.epoch)
				got[e.addr]++
			}
			most := 0
			for _, n := range got {
				most = max(most, n)
			}
			assert.LessOrEqual(t, most, tt.most, "%v", got)
			assert.GreaterOrEqual(t, most, tt.most-4, "%v", got)
		})
	}
}

// A hostile request finds no key that breaks something, and choosing by it costs
// no memory.
func FuzzHashKey(f *testing.F) {
	f.Add("a=b; sid=1", "x=1&user=2", "v")
	f.Add(";;=;sid", "%zz&user=%", "")
	f.Fuzz(func(t *testing.T, c, query, value string) {
		r := Request{Header: map[string][]string{"Cookie": {c}, "X-User": {value}}, Query: query}
		for _, k := range []HashKey{{Cookie: "sid"}, {Query: "user"}, {Header: "x-user"}} {
			find := newFinder(k)
			a, ok := find.of(nil, r)
			b, again := find.of(nil, r)
			assert.Equal(t, ok, again)
			assert.Equal(t, a, b)
		}
		if want := (&http.Request{Header: http.Header{"Cookie": {c}}}).CookiesNamed("sid"); len(want) > 0 && want[0].Value != "" && !want[0].Quoted {
			assert.Equal(t, want[0].Value, cookie(r.Header, "sid"), "as net/http reads it, where it does")
		}
	})
}
