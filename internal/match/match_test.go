package match_test

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/match"
)

func value(t testing.TB, kind match.Kind, text string) match.Value {
	t.Helper()
	v, err := match.NewValue(kind, text)
	require.NoError(t, err)
	return v
}

// plenty is work enough.
func plenty() *match.Work {
	w := match.NewWork(1 << 40)
	return &w
}

func TestValue(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind    match.Kind
		text    string
		yes, no []string
	}{
		{match.Exact, "ab", []string{"ab"}, []string{"", "a", "abc", "AB"}},
		{match.Exact, "", []string{""}, []string{"a"}},
		{match.Prefix, "ab", []string{"ab", "abc"}, []string{"", "a", "xab"}},
		{match.Regex, "a|ab", []string{"a", "ab"}, []string{"", "abc", "xa", "a\n", "b"}},
		{match.Regex, "^a.c$", []string{"abc"}, []string{"abcd", "a\nc"}},
		{match.Regex, "(?m)^a$", []string{"a"}, []string{"a\nb", "b\na"}},
		{match.Present, "", []string{"", "a"}, nil},
	} {
		v := value(t, tt.kind, tt.text)
		for _, s := range tt.yes {
			assert.True(t, v.Holds(s, match.Field, plenty()), "%d %q %q", tt.kind, tt.text, s)
		}
		for _, s := range tt.no {
			assert.False(t, v.Holds(s, match.Field, plenty()), "%d %q %q", tt.kind, tt.text, s)
		}
	}
	for _, tt := range []struct {
		kind match.Kind
		text string
		want string
	}{
		{match.Regex, "a)(b", "unexpected )"},
		{match.Regex, "(", "missing closing )"},
		{match.Regex, "(?=a)", "invalid or unsupported Perl syntax"},
		{match.Regex, strings.Repeat("a", match.MaxRegex+1), "more than 4096 bytes"},
		{match.Regex, strings.Repeat("[0-9a-f]{1000}", 5), "more than 4096 instructions"},
		{match.Present, "x", "must be empty"},
		{match.Present + 1, "", "unknown way 4"},
	} {
		_, err := match.NewValue(tt.kind, tt.text)
		assert.ErrorContains(t, err, tt.want)
	}
}

func TestHeader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		values            []string
		is, isNot         bool
		present, isAbsent bool
	}{
		{nil, false, true, false, true},
		{[]string{"a"}, true, false, true, false},
		{[]string{"b"}, false, true, true, false},
		{[]string{"a", "a"}, false, false, false, false},
		{[]string{"a", "b"}, false, false, false, false},
		{[]string{"a,a"}, false, true, true, false},
		{[]string{""}, false, true, true, false},
	} {
		c, err := gatemesh.NewCall(gatemesh.CallInfo{Header: http.Header{"X-A": tt.values}})
		require.NoError(t, err)
		holds := func(v match.Value, not bool) bool {
			h := match.Header{Name: "X-A", Value: v, Not: not}
			return h.Holds(c.Header(), plenty())
		}
		assert.Equal(t, tt.is, holds(value(t, match.Exact, "a"), false), "%q", tt.values)
		assert.Equal(t, tt.isNot, holds(value(t, match.Exact, "a"), true), "not: %q", tt.values)
		assert.Equal(t, tt.present, holds(value(t, match.Present, ""), false), "present: %q", tt.values)
		assert.Equal(t, tt.isAbsent, holds(value(t, match.Present, ""), true), "absent: %q", tt.values)
	}
}

func TestQuery(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind match.Kind
		text string
		raw  string
		want bool
	}{
		{match.Exact, "1", "a=1", true},
		{match.Exact, "1", "b=2&a=1&c", true},
		{match.Exact, "1", "a=12", false},
		{match.Exact, "1", "A=1", false},
		{match.Exact, "1", "a=1&a=1", false},      // repeated
		{match.Exact, "1", "a=1&%61=2", false},    // also in another spelling
		{match.Exact, "1", "a=1&a", false},        // also without a value
		{match.Exact, "1", "a=%31", true},         // decoded
		{match.Exact, "x y", "a=x+y", true},       //
		{match.Exact, "x y", "a=x%20y", true},     //
		{match.Exact, "x+y", "a=x%2By", true},     //
		{match.Exact, "%31", "a=%2531", true},     // once
		{match.Exact, "1", "a=1%", false},         // malformed
		{match.Exact, "1", "a=1&a=%zz", false},    // and yet present
		{match.Exact, "", "a", true},              //
		{match.Exact, "", "a=", true},             //
		{match.Exact, "", "", false},              //
		{match.Exact, "1=2", "a=1=2", true},       //
		{match.Exact, "1;b=2", "a=1;b=2", true},   // ";" is data, as in the URL standard
		{match.Prefix, "1", "a=12", true},         //
		{match.Prefix, "1", "a=%312", true},       //
		{match.Prefix, "1", "a=1%zz", false},      // malformed behind
		{match.Prefix, "12", "a=%31", false},      //
		{match.Regex, "[0-9]+ x", "a=12+x", true}, //
		{match.Regex, "[0-9]+", "a=12", true},     //
		{match.Regex, ".*", "a=%", false},         //
		{match.Present, "", "a", true},            //
		{match.Present, "", "a=%31", true},        //
		{match.Present, "", "a=%3", false},        //
		{match.Present, "", "ab=1", false},        //
		{match.Present, "", "&&a&", true},         //
	} {
		q := match.Parameter{Name: "a", Value: value(t, tt.kind, tt.text)}
		assert.Equal(t, tt.want, q.Holds(tt.raw, plenty()), "%d %q ? %s", tt.kind, tt.text, tt.raw)
	}
}

func TestAllocations(t *testing.T) {
	raw := "page=2&tenant=%61cme&n%61me=b+c&flag"
	for _, q := range []match.Parameter{
		{Name: "tenant", Value: value(t, match.Exact, "acme")}, {Name: "name", Value: value(t, match.Prefix, "b ")},
		{Name: "flag", Value: value(t, match.Present, "")},
	} {
		require.True(t, q.Holds(raw, plenty()), q.Name)
		assert.Zero(t, testing.AllocsPerRun(100, func() { w := match.NewWork(1 << 10); q.Holds(raw, &w) }), q.Name)
	}
}

// FuzzQuery: a query is read as net/url reads it, but that what it cannot read
// counts and matches nothing.
func FuzzQuery(f *testing.F) {
	f.Add("a=1&b=2", "a", "1")
	f.Add("a=%31&%61=2", "a", "12")
	f.Add("a=x+y%", "a", "x y")
	f.Add("&=&a=b=c&;", "a", "b=c")
	f.Fuzz(func(t *testing.T, raw, name, text string) {
		if name == "" {
			return
		}
		var values []string
		malformed := false
		for _, pair := range strings.Split(raw, "&") {
			n, v, _ := strings.Cut(pair, "=")
			if n, err := url.QueryUnescape(n); err == nil && n == name {
				v, err := url.QueryUnescape(v)
				values, malformed = append(values, v), malformed || err != nil
			}
		}
		once := len(values) == 1 && !malformed
		for kind, is := range map[match.Kind]func(string) bool{
			match.Exact:   func(v string) bool { return v == text },
			match.Prefix:  func(v string) bool { return strings.HasPrefix(v, text) },
			match.Present: func(string) bool { return true },
			match.Regex:   func(v string) bool { return v == text },
		} {
			of := text
			switch kind {
			case match.Present:
				of = ""
			case match.Regex:
				if of = regexp.QuoteMeta(text); len(of) > 1000 {
					continue
				}
			}
			v, err := match.NewValue(kind, of)
			if err != nil { // not UTF-8
				require.Equal(t, match.Regex, kind)
				continue
			}
			if kind == match.Regex && strings.ContainsRune(text, '\uFFFD') {
				continue // which also stands for what is not UTF-8
			}
			q := match.Parameter{Name: name, Value: v}
			require.Equal(t, once && is(values[0]), q.Holds(raw, plenty()), "%d", kind)
		}
	})
}

func TestLiteral(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"": "", "/a/b": "/a/b", "/a/.*": "/a/", "^/a/[^/]+$": "/a/", "/a+": "/a", "/(ab)c?": "/ab", "/a|/b": "/",
		".*/a": "", "(?i)/a": "", "/a{2}": "/", "(/a)(/b).": "/a/b", `/a\.b\/x$`: "/a.b/x", "/a*": "/", "/users/(\\d+)": "/users/",
	} {
		assert.Equal(t, want, match.Literal(pattern, false), pattern)
	}
	assert.Equal(t, "/ab%c3", match.Literal("/Ab%C3.*", true))
	assert.Equal(t, "", match.Literal("(", false))
}

// FuzzLiteral: what a pattern matches begins with its literal.
func FuzzLiteral(f *testing.F) {
	f.Add("/a/(b|c)+", "/a/b", false)
	f.Add("^/A[^/]*$", "/abc", true)
	f.Add("(?i)/a|/b", "/B", false)
	f.Add("/a{2,3}(?-i:B)", "/aaB", true)
	f.Fuzz(func(t *testing.T, pattern, s string, foldCase bool) {
		re, err := match.Compile(pattern, foldCase)
		for _, c := range []byte(s) {
			if c >= 0x80 {
				return // no path has it
			}
		}
		if err != nil || !re.MatchString(s) {
			return
		}
		require.Equal(t, []int{0, len(s)}, re.FindStringIndex(s), "the whole")
		text := match.Literal(pattern, foldCase)
		if foldCase {
			s = strings.ToLower(s)
		}
		require.True(t, strings.HasPrefix(s, text), "%q", text)
	})
}

// FuzzTree: the tree finds the texts that a string begins with, longest first.
func FuzzTree(f *testing.F) {
	f.Add("/a /a/b /a/bc  /x", "/a/bcd", false)
	f.Add("/ab /ac /a", "/AC/x", true)
	f.Add(" ", "", false)
	f.Fuzz(func(t *testing.T, list, s string, foldCase bool) {
		tree := match.Tree[string]{FoldCase: foldCase}
		texts := strings.Split(list, " ")
		want := map[string]bool{}
		for _, text := range texts {
			if foldCase {
				text = match.Lower(text)
			}
			n := tree.At(text)
			require.Equal(t, len(text), n.Len)
			n.Value = text
			if in := s; strings.HasPrefix(in, text) || foldCase && strings.HasPrefix(match.Lower(in), text) {
				want[text] = true
			}
		}
		tree.Seal()
		var got []string
		for n := tree.Longest(s); n != nil; n = n.Up {
			require.Equal(t, n.Len, len(n.Value))
			got = append(got, n.Value)
		}
		require.True(t, slices.IsSortedFunc(got, func(a, b string) int { return len(b) - len(a) }), "%q", got)
		require.Len(t, got, len(want))
		for _, text := range got {
			require.True(t, want[text], text)
		}
	})
}
