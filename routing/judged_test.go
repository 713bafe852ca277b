package routing_test

import (
	"bufio"
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// wire is a transport that takes the request through its wire form, as a
// connection would, and keeps what a server reads from it.
type wire struct{ got *http.Request }

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	var buf bytes.Buffer
	if err := r.Write(&buf); err != nil {
		return nil, err
	}
	var err error
	if w.got, err = http.ReadRequest(bufio.NewReader(&buf)); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
}

var (
	pathPieces = []string{"/", "/", "/", "a", "admin", "public", ".", "..", "%2e", "%2E%2e", "%2f", "%5C", "\\", ";x=y", "..;", "%00", "%0a",
		"%zz", "%4", "%", "%c3%a9", "%c0%af", "\xc3\xa9", "%41", "%7e", "~", ":", "%3a", "@", "%40", "%25", "%252e", "$&'()*+,;=", "%24",
		"|", "^", "[", "]", "{", "}", "`", "<", ">", "\"", "%20", "+", "-_.~", "!", "//", "*"}
	queryPieces = []string{"a", "=", "&", ";", "%zz", "%", "?", "/", "%2F", "+", "%20", "..", "<", "\"", "{", "\\", "^", "|", "%00", "\xff", "a=b", ":", "#"}
	hosts       = []string{"api.example.com", "API.Example.COM", "api.example.com.", "api.example.com:80", "api.example.com:443", "api.example.com:8080",
		"api.example.com:", "[::1]", "[::1]:8080", "[2001:DB8:0:0::1]", "127.0.0.1", "a_b.example", "-", "a..b", ".a", "a b", "a/b", "a@b", "a%41", "h:0", "h:99999", "h:x", ""}
	methods = []string{"GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "PURGE", "M-SEARCH", "get", "GeT", "X_Y", "TRACE", "CONNECT"}
)

func pieces(r *rand.Rand, from []string, n int) string {
	var b strings.Builder
	for range r.IntN(n) {
		b.WriteString(pick(r, from...))
	}
	return b.String()
}

// TestAZ03_JudgedIsForwarded sends generated requests through Entry, routes
// and proxy. Whatever reaches the upstream is what was judged; the rest was
// refused.
func TestAZ03_JudgedIsForwarded(t *testing.T) {
	t.Parallel()
	for _, cfg := range []gatemesh.EntryConfig{{}, {KeepEncodedSlash: true}, trusted} {
		up := &wire{}
		us := at("http://10.0.0.1:8080")
		us[0].Transport = up
		var judged *gatemesh.Call
		h := gateway{entry: cfg, cfg: routing.Config{Upstreams: us}, layers: []gatemesh.Layer{
			layer("judge", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
				judged = c
				return gatemesh.Admission{}, nil
			})}}.handler(t)

		r := rand.New(rand.NewPCG(3, 4))
		forwarded, refused := 0, 0
		for range unlessRacing(34_000, 4000) {
			target := "/" + pieces(r, pathPieces, 5)
			if q := pieces(r, queryPieces, 5); q != "" || r.IntN(8) == 0 {
				target += "?" + q
			}
			text := pick(r, methods...) + " " + target + " HTTP/1.1\r\nHost: " + pick(r, hosts...) + "\r\n\r\n"
			req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
			if err != nil {
				continue // net/http answers 400
			}
			req.RemoteAddr = "127.0.0.1:4711"
			up.got, judged = nil, nil
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			if w.Code != http.StatusOK {
				require.Contains(t, []int{400, 501}, w.Code, text)
				require.Nil(t, up.got, text)
				refused++
				continue
			}
			forwarded++
			require.NotNil(t, up.got, text)
			require.Equal(t, judged.Method(), up.got.Method, text)
			uri := judged.Path()
			if strings.Contains(target, "?") {
				uri += "?" + judged.RawQuery()
			}
			require.Equal(t, uri, up.got.RequestURI, text)
			host, _, err := gatemesh.CanonicalHost(up.got.Host)
			require.NoError(t, err, text)
			require.Equal(t, judged.Host(), host, text)
			path, err := gatemesh.CanonicalPath(up.got.URL.EscapedPath(), gatemesh.PathOptions{KeepEncodedSlash: cfg.KeepEncodedSlash})
			require.NoError(t, err, text)
			require.Equal(t, judged.Path(), path, text)
		}
		assert.Greater(t, forwarded, 400)
		assert.Greater(t, refused, 400)
	}
}

// TestKEY03_CredentialInQuery: of what was judged, a credential in the query or in a
// cookie stays here, and the rest is forwarded as it came.
func TestKEY03_CredentialInQuery(t *testing.T) {
	t.Parallel()
	up := &wire{}
	us := at("http://10.0.0.1:8080")
	us[0].Transport = up
	h := gateway{cfg: routing.Config{Upstreams: us}, layers: []gatemesh.Layer{
		layer("auth", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Consumed: []string{"query:access_token", "cookie:session"}}, nil
		})}}.handler(t)
	req := httptest.NewRequest(http.MethodGet, "/x?a=%2F;&access_token=s3cret&&b=1", nil)
	req.Header.Set("Cookie", "a=1; session=s3cret")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	require.Equal(t, 200, w.Code)
	assert.Equal(t, "/x?a=%2F;&&b=1", up.got.RequestURI)
	assert.Equal(t, []string{"a=1"}, up.got.Header["Cookie"])
}
