package routing_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}

// rightmost is the naive oracle: of all elements from the right, the first that
// is no proxy, or the last one before something that is no address.
func rightmost(lines []string, remote netip.Addr) netip.Addr {
	client := remote
	if !trustedAddr(client) {
		return client
	}
	for _, e := range slices.Backward(strings.Split(strings.Join(lines, ","), ",")) {
		e = strings.Trim(e, " \t")
		a, err := netip.ParseAddr(e)
		if err != nil {
			var ap netip.AddrPort
			ap, err = netip.ParseAddrPort(e)
			a = ap.Addr()
		}
		if err != nil && strings.HasPrefix(e, "[") && strings.HasSuffix(e, "]") {
			a, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(e, "["), "]"))
		}
		if err != nil {
			return client
		}
		if client = a.Unmap().WithZone(""); !trustedAddr(client) {
			return client
		}
	}
	return client
}

func trustedAddr(a netip.Addr) bool {
	return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// forwardedGrammar is that of RFC 7239 §4 as a regular expression, with empty
// elements as in RFC 9110 §5.6.1.
var forwardedGrammar = func() *regexp.Regexp {
	const token, ows = "[-!#$%&'*+.^_`|~0-9A-Za-z]+", "[ \t]*"
	const pair = "(" + token + "=(" + token + `|"([^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\n])*"))?`
	return regexp.MustCompile(`(?s)^` + ows + pair + "(" + ows + "[,;]" + ows + pair + ")*" + ows + "$")
}()

// FuzzForwarding sends forwarding fields through two gateways, of which the
// second trusts the first. Both see the same client as a naive oracle, and what
// goes on is one value each, without line breaks, and hardly longer.
func FuzzForwarding(f *testing.F) {
	for _, s := range []string{"", "203.0.113.9", "10.0.0.2, 203.0.113.9 , 10.0.0.3", "a,1.1.1.1,10.0.0.2", "[::1]:80,fd00::1", "::ffff:1.2.3.4", ",", "fe80::1%eth0"} {
		f.Add(s, "10.9.9.9", `for=203.0.113.9;host="a"`, "10.0.0.1")
		f.Add("1.1.1.1", s, `for="`, "203.0.113.1")
		f.Add("10.1.1.1", s, `for="\",for=1.2.3.4, ;`, "fd00::5")
	}
	var sent http.Header
	us := at("http://upstream")
	us[0].Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		sent = r.Header
		return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
	})
	var client netip.Addr
	h := gateway{
		entry: gatemesh.EntryConfig{TrustedProxies: proxies}, cfg: routing.Config{Upstreams: us},
		layers: []gatemesh.Layer{layer("look", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			client = c.Client()
			return gatemesh.Admission{}, nil
		})},
	}.handler(f)
	pass := func(t *testing.T, remote string, header http.Header) {
		r := httptest.NewRequest(http.MethodGet, "http://h.example:8080/", nil)
		r.URL.Scheme, r.URL.Host, r.RemoteAddr, r.Header = "", "", remote, header
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, http.StatusOK, w.Code)
	}
	f.Fuzz(func(t *testing.T, first, second, forwarded, from string) {
		remote, err := netip.ParseAddr(from)
		if err != nil || remote.Zone() != "" || strings.ContainsAny(first+second+forwarded, "\r\n\x00") { // net/http refuses those
			return
		}
		remote = remote.Unmap()
		lines := []string{first, second}
		pass(t, netip.AddrPortFrom(remote, 4711).String(), http.Header{
			"X-Forwarded-For": slices.Clone(lines), "Forwarded": {forwarded}, "X-Forwarded-Host": {"first.example"},
			"X_forwarded_for": {"6.6.6.6"}, "X-Forwarded_host": {"6.6.6.6"},
		})
		require.Equal(t, rightmost(lines, remote), client)

		chain := remote.String()
		host := "h.example:8080"
		if trustedAddr(remote) {
			chain, host = first+", "+second+", "+chain, "first.example"
			if forwardedGrammar.MatchString(forwarded) {
				require.Len(t, sent["Forwarded"], 1)
				got := sent["Forwarded"][0]
				require.True(t, strings.HasPrefix(got, forwarded+", for="), got)
				require.Regexp(t, forwardedGrammar, got)
				require.LessOrEqual(t, len(got), len(forwarded)+100)
			} else {
				require.NotContains(t, sent, "Forwarded", "nothing can be added to %q", forwarded)
			}
		} else {
			require.NotContains(t, sent, "Forwarded")
		}
		require.Equal(t, []string{chain}, sent["X-Forwarded-For"])
		require.Equal(t, []string{host}, sent["X-Forwarded-Host"])
		require.Equal(t, []string{"http"}, sent["X-Forwarded-Proto"])
		for name, values := range sent {
			require.NotContains(t, name, "_")
			require.NotContains(t, strings.Join(values, ""), "\n", name)
		}

		// A gateway behind us reads it as we did.
		before := client
		pass(t, "10.0.0.77:1", sent.Clone())
		require.Equal(t, before, client)
		require.Equal(t, []string{host}, sent["X-Forwarded-Host"])
	})
}

func TestPX05_MalformedForwarded(t *testing.T) {
	t.Parallel()
	url := gateway{upstream: serve(t, echo), entry: trusted}.start(t)
	const ours = `, for=127.0.0.1;host="h";proto=http`
	for value, want := range map[string]string{
		`for=1.2.3.4`: `for=1.2.3.4` + ours, `for="[::1]:80";by=_x`: `for="[::1]:80";by=_x` + ours, `for="a\"b"`: `for="a\"b"` + ours,
		`for=1.2.3.4,`: `for=1.2.3.4,` + ours,
		`for="`:        "", `for="\`: "", `for=`: "", `for`: "", `=x`: "", `for=a b`: "", `for="a"b`: "",
	} {
		got := rawSeen(t, url, "GET / HTTP/1.1\nHost: h\nForwarded: "+value+"\n\n")
		assert.Equal(t, want, got.Header.Get("Forwarded"), value)
	}
}
