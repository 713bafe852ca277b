package gatemesh_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestCallCookiesAndParameters(t *testing.T) {
	t.Parallel()
	c := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{
		Header:   http.Header{"Cookie": {"a=1; t=one;b=2", "t=two; T=x;\tt=\"three\"; tt=y; t"}},
		RawQuery: "a=1&t=one%20more&%74=two&T=x&t=%zz&tt=y&t&t%zz=1&&t=a+b",
	}))
	assert.Equal(t, []string{"one", "two", `"three"`, ""}, c.CookieValues("t"))
	assert.Empty(t, c.CookieValues("none"))
	assert.Equal(t, []string{"one more", "two", "", "a b"}, c.QueryValues("t"))
	assert.Empty(t, c.QueryValues("none"))
	assert.Equal(t, c.RawQuery(), c.ForwardedQuery())
}

// TestKEY03_CredentialStaysHere: what held the credential goes to nobody behind
// us, in the mesh or outside, and the rest of the field does.
func TestKEY03_CredentialStaysHere(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		consumed []string
		cookies  []string
		query    string
		want     []string
		forward  string
	}{
		{"the only cookie", []string{"cookie:session"}, []string{"session=s3cret"}, "", nil, ""},
		{"between others", []string{"cookie:session"}, []string{"a=1; session=s3cret; b=2", "session=s3cret", "c=3"}, "", []string{"a=1; b=2", "c=3"}, ""},
		{"names like it", []string{"cookie:session"}, []string{"Session=1; session=s3cret; xsession=2"}, "", []string{"Session=1; xsession=2"}, ""},
		{"a parameter", []string{"query:token"}, []string{"a=1"}, "a=1&token=s3cret&b=%2F&t%6Fken=s3cret&c", []string{"a=1"}, "a=1&b=%2F&c"},
		{"nothing left", []string{"query:token"}, nil, "token=s3cret", nil, ""},
		{"nothing of ours", []string{"Authorization"}, []string{"session=s"}, "token=t", []string{"session=s"}, "token=t"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, mesh := range []bool{true, false} {
				var got *http.Request
				out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"mesh": {Service: "mesh"}})}))
				rt := out.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
					got = r
					return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
				}))
				h := chain(gatemesh.EntryConfig{}, admits("auth", gatemesh.Admission{Consumed: test.consumed})).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					host := "http://third.party/"
					if mesh {
						host = "http://mesh/"
					}
					req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, host, nil)
					require.NoError(t, err)
					req.Header = r.Header.Clone() // as a proxy does
					req.Header.Set("X-Kept", "1")
					before := req.Header.Clone()
					resp, err := rt.RoundTrip(req)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
					assert.Equal(t, before, req.Header, "the request is the caller's")
					assert.Equal(t, test.forward, gatemesh.FromContext(r.Context()).ForwardedQuery())
					assert.Equal(t, test.query, r.URL.RawQuery, "the handler sees all of it")
				}))
				r := request("/?" + test.query)
				r.Header["Cookie"] = test.cookies
				assert.Equal(t, 200, newRecorderFor(h, r).Code)
				assert.Equal(t, test.want, got.Header["Cookie"])
				assert.Equal(t, "1", got.Header.Get("X-Kept"))
			}
		})
	}
}

// An application's own cookie of that name, for a service of its own, goes.
func TestOwnCookieGoes(t *testing.T) {
	t.Parallel()
	var got http.Header
	rt := outbound(nil).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		got = r.Header
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	h := chain(gatemesh.EntryConfig{}, admits("auth", gatemesh.Admission{Consumed: []string{"cookie:session"}})).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://mesh/", nil)
		require.NoError(t, err)
		req.Header.Set("Cookie", "session=own")
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}))
	r := request("/")
	r.Header.Set("Cookie", "session=user")
	newRecorderFor(h, r)
	assert.Equal(t, "session=own", got.Get("Cookie"))
}
