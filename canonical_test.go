package gatemesh_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// pathSeeds are for fuzzing and for the comparison with a real upstream.
var pathSeeds = []string{
	"/", "/a", "/a/", "/a/b", "/%61", "/%7Euser", "/a%2Fb", "/a%2fb", "/a%252Fb", "/caf%c3%a9", "/x%20y", "/v1/x%3Acancel",
	"/v1/x:cancel", "/a;b=c", "/a%3Bb", "/a%5Bb%5D", "/a[b]", "/a{b}", "/a|b", "/a^b", "/a\"b", "/a<b>", "/a`b", "/$&'()*+,=@!",
	"/a?b", "/a?b=%zz", "/a?b;c", "/a?", "/..", "/../a", "/a/../b", "/a/./b", "/a/..;x/b", "/a/..%3Bx/b", "//a", "/a//b", "/a%2F..%2Fb",
	"/a%2F%2E", "/%2F", "/a%2F/b", "/a%5Cb", "/a\\b", "/%00", "/%", "/%2", "/%zz", "/%ff", "/%C2%80", "/a#b", "*", "", "a",
	"/%E2%80%AE", "/...", "/..a", "/.a", "/a.", "/%2e%2e%2e", "/..%2F", "/.%2F..", "/%2F..",
}

func TestCanonicalPath(t *testing.T) {
	t.Parallel()
	keep := gatemesh.PathOptions{KeepEncodedSlash: true}
	params := gatemesh.PathOptions{KeepPathParameters: true}
	for _, test := range []struct {
		in   string
		o    gatemesh.PathOptions
		want string
		err  error
	}{
		{in: "/", want: "/"},
		{in: "/a/b/", want: "/a/b/"},
		{in: "/%61%2D%5f%7e%39", want: "/a-_~9"},
		{in: "/x%c3%a9", want: "/x%C3%A9"},
		{in: "/x%3acancel", want: "/x%3Acancel"},
		{in: "/[a]{b}|^`\"<>", want: "/%5Ba%5D%7Bb%7D%7C%5E%60%22%3C%3E"},
		{in: "/%252e", want: "/%252e"},
		{in: "/...", want: "/..."},
		{in: "/.a/..b", want: "/.a/..b"},
		{in: "/;..", err: gatemesh.ErrPathParameter},
		{in: "/a%3Bb", err: gatemesh.ErrPathParameter},
		{in: "/a;b", o: keep, err: gatemesh.ErrPathParameter},
		{in: "/;..", o: params, want: "/;.."},
		{in: "/a%3bb", o: params, want: "/a%3Bb"},
		{in: "", err: gatemesh.ErrPathForm},
		{in: "*", err: gatemesh.ErrPathForm},
		{in: "a", err: gatemesh.ErrPathForm},
		{in: "/a b", err: gatemesh.ErrPathByte},
		{in: "/a?b", err: gatemesh.ErrPathByte},
		{in: "/a#b", err: gatemesh.ErrPathByte},
		{in: "/\\", err: gatemesh.ErrPathByte},
		{in: "/\x00", err: gatemesh.ErrPathByte},
		{in: "/é", err: gatemesh.ErrPathByte},
		{in: "/%", err: gatemesh.ErrPathEscape},
		{in: "/%4", err: gatemesh.ErrPathEscape},
		{in: "/%4g", err: gatemesh.ErrPathEscape},
		{in: "/%1f", err: gatemesh.ErrPathControl},
		{in: "/%7F", err: gatemesh.ErrPathControl},
		{in: "/%80", err: gatemesh.ErrPathEncoding},
		{in: "/%c3x%a9", err: gatemesh.ErrPathEncoding},
		{in: "/%2f", err: gatemesh.ErrPathSeparator},
		{in: "/%5c", err: gatemesh.ErrPathSeparator},
		{in: "/%5c", o: keep, err: gatemesh.ErrPathSeparator},
		{in: "//", err: gatemesh.ErrPathEmpty},
		{in: "/a//", err: gatemesh.ErrPathEmpty},
		{in: "/.", err: gatemesh.ErrPathDot},
		{in: "/a/..", err: gatemesh.ErrPathDot},
		{in: "/%2E./a", err: gatemesh.ErrPathDot},
		{in: "/..;x/a", o: params, err: gatemesh.ErrPathDot},
		{in: "/.;/a", o: params, err: gatemesh.ErrPathDot},
		{in: "/..%3bx/a", o: params, err: gatemesh.ErrPathDot},
		{in: "/a%2fb", o: keep, want: "/a%2Fb"},
		{in: "/a%2f..", o: keep, err: gatemesh.ErrPathDot},
		{in: "/..%2fa", o: keep, err: gatemesh.ErrPathDot},
		{in: "/a%2f.%2fb", o: keep, err: gatemesh.ErrPathDot},
		{in: "/a%2f", o: keep, want: "/a%2F"},
	} {
		got, err := gatemesh.CanonicalPath(test.in, test.o)
		if test.err != nil {
			assert.ErrorIs(t, err, test.err, "%q", test.in)
			continue
		}
		require.NoError(t, err, "%q", test.in)
		assert.Equal(t, test.want, got)
	}
}

func TestCanonicalPathDoesNotAllocate(t *testing.T) {
	for _, p := range []string{"/", "/a/b/c", "/v1/x:cancel"} {
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			_, _ = gatemesh.CanonicalPath(p, gatemesh.PathOptions{})
			_ = gatemesh.MatchForm(p)
		}), p)
	}
}

func TestMatchForm(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/a":              "/a",
		"/v1/x%3Acancel":  "/v1/x:cancel",
		"/%21%24%26%27":   "/!$&'",
		"/a%2Fb":          "/a%2Fb",
		"/%253A":          "/%253A",
		"/x%20%C3%A9%5B":  "/x%20%C3%A9%5B",
		"/%":              "/%",
		"/a%3":            "/a%3",
		"/admin%3Bx=%3Dy": "/admin;x==y",
	} {
		assert.Equal(t, want, gatemesh.MatchForm(in), in)
	}
}

// encodedUnreserved finds what RFC 3986 §6.2.2.2 wants decoded, and lower-case escapes.
var encodedUnreserved = regexp.MustCompile(`%(2[DE]|3[0-9]|4[1-9A-F]|5[0-9A]|5F|6[1-9A-F]|7[0-9A]|7E|[0-9A-F]?[a-f])`)

func FuzzCanonicalPath(f *testing.F) {
	for _, s := range pathSeeds {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, p string, keep bool) {
		o := gatemesh.PathOptions{KeepEncodedSlash: keep}
		canonical, err := gatemesh.CanonicalPath(p, o)
		if err == nil {
			again, err := gatemesh.CanonicalPath(canonical, o)
			require.NoError(t, err)
			require.Equal(t, canonical, again, "idempotent")
			decoded, err := url.PathUnescape(canonical)
			require.NoError(t, err)
			require.NotContains(t, decoded, "\x00")
			require.NotContains(t, decoded, "\\")
			require.NotRegexp(t, encodedUnreserved, strings.ReplaceAll(canonical, "%25", ""))
			for segment := range strings.SplitSeq(strings.TrimPrefix(decoded, "/"), "/") {
				name, _, _ := strings.Cut(segment, ";")
				require.NotContains(t, []string{".", ".."}, name)
			}
			form := gatemesh.MatchForm(canonical)
			require.Equal(t, form, gatemesh.MatchForm(form), "idempotent")
			plain, err := url.PathUnescape(form)
			require.NoError(t, err)
			require.Equal(t, decoded, plain, "MatchForm means the same path")
		}

		// What net/http makes of it, and a ServeMux behind us.
		r, rerr := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + p + " HTTP/1.1\r\nHost: h\r\n\r\n")))
		if rerr != nil {
			return
		}
		mux := http.NewServeMux()
		handled := false
		mux.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) {
			handled = true
			judged := gatemesh.FromContext(r.Context()).Path()
			require.Equal(t, judged, r.URL.EscapedPath(), "judged is what the handler sees")
			again, err := gatemesh.CanonicalPath(r.URL.EscapedPath(), o)
			require.NoError(t, err)
			require.Equal(t, judged, again)
			target, _, _ := strings.Cut(r.RequestURI, "?")
			require.Equal(t, judged, target)
			require.Empty(t, r.URL.Host+r.URL.Scheme+r.URL.Opaque+r.URL.Fragment)
		})
		w := httptest.NewRecorder()
		chain(gatemesh.EntryConfig{KeepEncodedSlash: keep}).Handler(mux).ServeHTTP(w, r)
		require.Equal(t, handled, w.Code == http.StatusOK, w.Code)
		if !handled {
			require.Equal(t, http.StatusBadRequest, w.Code)
		}
	})
}

func TestCanonicalHost(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a.", 126) + "a" // 253 bytes
	for _, test := range []struct {
		in, name, port string
		bad            bool
	}{
		{in: ""},
		{in: "a", name: "a"},
		{in: "A.Example.COM.", name: "a.example.com"},
		{in: "a:80", name: "a", port: "80"},
		{in: "a:0080", name: "a", port: "80"},
		{in: "a.:443", name: "a", port: "443"},
		{in: "a:", name: "a"},
		{in: "a_b-c.d", name: "a_b-c.d"},
		{in: "192.0.2.1:8080", name: "192.0.2.1", port: "8080"},
		{in: "[::1]", name: "::1"},
		{in: "[2001:DB8::0:1]:443", name: "2001:db8::1", port: "443"},
		{in: "[::ffff:192.0.2.1]", name: "::ffff:192.0.2.1"},
		{in: long, name: long},
		{in: long + "a", bad: true},
		{in: ".", bad: true}, {in: "..", bad: true}, {in: "a..b", bad: true}, {in: ".a", bad: true}, {in: "a..", bad: true},
		{in: ":80", bad: true}, {in: "a:0", bad: true}, {in: "a:65536", bad: true}, {in: "a:000000", bad: true}, {in: "a:-1", bad: true},
		{in: "a:+1", bad: true}, {in: "a:80:80", bad: true}, {in: "::1", bad: true}, {in: "[::1", bad: true}, {in: "[::1]80", bad: true},
		{in: "[fe80::1%eth0]", bad: true}, {in: "[192.0.2.1]", bad: true}, {in: "[]", bad: true}, {in: "a b", bad: true}, {in: "a/b", bad: true},
		{in: "u@a", bad: true}, {in: "a,b", bad: true}, {in: "ä", bad: true}, {in: "a\x00", bad: true}, {in: "a%2e", bad: true},
	} {
		name, port, err := gatemesh.CanonicalHost(test.in)
		if test.bad {
			assert.ErrorIs(t, err, gatemesh.ErrHost, "%q", test.in)
			continue
		}
		require.NoError(t, err, "%q", test.in)
		assert.Equal(t, test.name, name)
		assert.Equal(t, test.port, port)
	}
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"", "a", "A.b.:80", "[::1]:443", "[::FFFF:1.2.3.4]", "a:0080", "1.2.3.4", "a..", "[", "]", ":", "[::1%25x]", "xn--a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		name, port, err := gatemesh.CanonicalHost(host)
		if err != nil || host == "" {
			return
		}
		spelled := name
		if strings.Contains(name, ":") {
			spelled = "[" + name + "]"
			require.True(t, netip.MustParseAddr(name).Is6())
		}
		if port != "" {
			spelled += ":" + port
		}
		name2, port2, err := gatemesh.CanonicalHost(spelled)
		require.NoError(t, err)
		require.Equal(t, name, name2, "idempotent")
		require.Equal(t, port, port2)
		require.Equal(t, strings.ToLower(name), name)
		require.False(t, strings.HasSuffix(name, ".") || strings.HasPrefix(port, "0"))
		u, err := url.Parse("http://" + spelled + "/") // a client reads the same host
		require.NoError(t, err)
		require.Equal(t, name, u.Hostname())
		require.Equal(t, port, u.Port())
	})
}
