package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// A text compares like the string it stands for, wherever it is cut.
func FuzzText(f *testing.F) {
	f.Add("cluster.local/ns/a/sa/b", "cluster.local/ns/a", uint8(13), uint8(13))
	f.Add("ab", "abc", uint8(0), uint8(2))
	f.Add("", "", uint8(0), uint8(0))
	f.Fuzz(func(t *testing.T, whole, s string, i, j uint8) {
		a := min(int(i), len(whole))
		b := min(a+int(j), len(whole))
		x := text{whole[:a], whole[a:b], whole[b:]}
		require.Equal(t, whole, x.String())
		require.Equal(t, len(whole), x.len())
		require.Equal(t, whole == s, x.equal(s))
		require.Equal(t, strings.HasPrefix(whole, s), x.hasPrefix(s))
		require.Equal(t, strings.HasSuffix(whole, s), x.hasSuffix(s))
		require.Equal(t, strings.Compare(whole, s), x.compare(s))
	})
}

// Every pattern that is accepted matches some call, and matching is what it
// says: the canonical form of its fixed part, at the end that it is fixed to.
func FuzzPathPattern(f *testing.F) {
	for _, s := range []string{
		"/a", "/a*", "*/a", "*", "/a/.*", "*..", "/%61%2a", "/a%2F..*", "*%2F..", "/a;x*", "/x%3A*", "*%41", "/\"<>*", "*1%20",
		"/a/{*}", "/{**}", "/a/{*}/%62/{**}/c/", "/{*}/..", "/{*}/", "/;/{*}", "/a%2", "*2e", "/%2e", "/%2e*", "*%2e", "/é", "*%C3%A9", "*%A9", "/..;*",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePattern(fieldPath, s)
		if err != nil {
			return
		}
		require.Equal(t, s == "*", p.kind == present)
		some := map[patternKind]string{exact: p.fixed, prefix: p.fixed + "x", suffix: "/x" + p.fixed, present: "/x"}[p.kind]
		if p.kind == template {
			some = strings.NewReplacer("{*}", "x", "{**}", "x/x").Replace(s)
		}
		// MatchForm may have decoded sub-delimiters; they are canonical too.
		canonical, err := gatemesh.CanonicalPath(some, gatemesh.PathOptions{KeepEncodedSlash: true, KeepPathParameters: true})
		require.NoError(t, err, "%q can match %q", s, some)
		require.True(t, p.match(&text{gatemesh.MatchForm(canonical)}), "%q matches %q", s, canonical)
		require.False(t, p.kind == exact && p.match(&text{canonical + "x"}))
		if p.kind == template {
			require.True(t, strings.ContainsAny(s, "{}"))
			require.True(t, strings.HasPrefix(gatemesh.MatchForm(canonical), p.fixed), "the index finds it")
			return
		}
		again, err := parsePattern(fieldPath, map[patternKind]string{
			exact: strings.ReplaceAll(p.fixed, "*", "%2A"), prefix: strings.ReplaceAll(p.fixed, "*", "%2A") + "*",
			suffix: "*" + strings.ReplaceAll(p.fixed, "*", "%2A"), present: "*",
		}[p.kind])
		require.NoError(t, err)
		require.Equal(t, p, again, "the canonical form is stable")
	})
}

// The index of many patterns says the same as trying one by one.
func FuzzManyPatterns(f *testing.F) {
	f.Add("/a /b /a* /a/b /a/b* *c /abc /ab* /c", "/a/b/c")
	f.Add("a* ab* abc* abcd abcde* b ba* bb c d", "abcdef")
	f.Fuzz(func(t *testing.T, list, s string) {
		var patterns []pattern
		for _, v := range strings.Fields(list) {
			if p, err := parsePattern(fieldUser, v); err == nil || p.fixed != "" && err == errUser {
				patterns = append(patterns, p)
			}
		}
		var c condition
		c.setPatterns(patterns)
		want := s != "" && slices.ContainsFunc(patterns, func(p pattern) bool { return p.match(&text{s}) })
		require.Equal(t, want, c.matches(&text{s}), "%v %q", patterns, s)
		require.Equal(t, want, c.matches(&text{"", s[:len(s)/2], s[len(s)/2:]}))
	})
}

// A set of blocks contains what one of them contains.
func FuzzIPSet(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 8, 10, 0, 0, 0, 24, 192, 168, 1, 0, 16}, uint32(10<<24|77), false)
	f.Add([]byte{0, 0, 0, 0, 0}, uint32(0xffffffff), false)
	f.Add([]byte{1, 2, 3, 4, 30}, uint32(0x01020305), true)
	f.Fuzz(func(t *testing.T, raw []byte, a uint32, six bool) {
		in4 := netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
		in6 := func(x netip.Addr) netip.Addr {
			b := [16]byte{0x20, 0x01}
			v := x.As4()
			copy(b[2:], v[:])
			return netip.AddrFrom16(b)
		}
		in := in4
		if six {
			in = in6(in4)
		}
		var blocks []netip.Prefix
		for chunk := range slices.Chunk(raw, 5) {
			if len(chunk) < 5 {
				break
			}
			addr, bits := netip.AddrFrom4([4]byte(chunk)), int(chunk[4])%33
			if chunk[4] > 128 {
				addr, bits = in6(addr), bits+16
			}
			b, err := parseBlock(fmt.Sprintf("%s/%d", addr, bits))
			require.NoError(t, err)
			blocks = append(blocks, b)
		}
		want := slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Contains(in) })
		require.Equal(t, want, newIPSet(blocks).contains(in), "%v %v", blocks, in)
	})
}

func TestIPSetEnds(t *testing.T) {
	t.Parallel()
	var blocks []netip.Prefix
	for _, s := range []string{"10.0.0.0/24", "10.0.0.0/8", "10.0.0.0/30", "12.0.0.0/8", "2001:db8::/32", "::1"} {
		b, err := parseBlock(s)
		require.NoError(t, err)
		blocks = append(blocks, b)
	}
	set := newIPSet(blocks)
	assert.Len(t, set, 4)
	for s, want := range map[string]bool{
		"9.255.255.255": false, "10.0.0.0": true, "10.255.255.255": true, "11.0.0.0": false, "12.255.255.255": true, "13.0.0.0": false,
		"::1": true, "::2": false, "2001:db8::": true, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff": true, "2001:db9::": false, "::": false,
	} {
		assert.Equal(t, want, set.contains(netip.MustParseAddr(s)), s)
	}
}
