package routing_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// TestLifecycle has the examples of RFC 9745 §2 and RFC 8594 §3.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	refuse := false
	h := filtered{
		route: routing.Route{Filters: routing.Filters{Lifecycle: &routing.Lifecycle{
			Deprecated: time.Unix(1688169599, 5), Sunset: time.Date(2038, 12, 31, 23, 59, 59, 0, time.FixedZone("", 3600)),
			Link: "https://developer.example.com/deprecation", Successor: "/v2/users",
		}}},
		layers: []gatemesh.Layer{layer("auth", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			if refuse {
				return gatemesh.Admission{}, gatemesh.Deny(gatemesh.Unauthenticated, "no", "No.")
			}
			return gatemesh.Admission{}, nil
		})},
		upstream: roundTripper(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r, Header: http.Header{
				"Deprecation": {"@0"}, "Sunset": {"never"}, "Link": {`</page/2>; rel="next"`}}}, nil
		}),
	}.handler(t)
	for _, refuse = range []bool{false, true} {
		resp := do(t, h, "GET", "/")
		assert.Equal(t, refuse, resp.StatusCode == 401)
		assert.Equal(t, []string{"@1688169599"}, resp.Header["Deprecation"])
		assert.Equal(t, []string{"Fri, 31 Dec 2038 22:59:59 GMT"}, resp.Header["Sunset"])
		want := []string{`<https://developer.example.com/deprecation>; rel="deprecation"`, `</v2/users>; rel="successor-version"`}
		if !refuse {
			want = append([]string{`</page/2>; rel="next"`}, want...)
		}
		assert.Equal(t, want, resp.Header["Link"])
	}
}

func TestGoneAfterSunset(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := filtered{upstream: answering, route: routing.Route{Filters: routing.Filters{
			Lifecycle: &routing.Lifecycle{Sunset: time.Now().Add(time.Hour), Link: "https://example.com/why", GoneAfterSunset: true},
			CORS:      &routing.CORS{AllowOrigins: []string{"*"}},
		}}}.handler(t)
		assert.Equal(t, 200, do(t, h, "GET", "/").StatusCode)
		time.Sleep(time.Hour - time.Second)
		assert.Equal(t, 200, do(t, h, "GET", "/").StatusCode)
		time.Sleep(time.Second)
		resp := do(t, h, "GET", "/", "Origin", "https://a.example")
		assert.Equal(t, 410, resp.StatusCode)
		assert.Equal(t, "gone", reason(t, resp))
		assert.Equal(t, `<https://example.com/why>; rel="sunset"`, resp.Header.Get("Link"))
		assert.NotEmpty(t, resp.Header.Get("Sunset"))
		assert.Equal(t, "https://a.example", resp.Header.Get("Access-Control-Allow-Origin"), "a page can read why")
	})
}

func versions() routing.Config {
	return routing.Config{Versions: []routing.Versioning{
		{Hostnames: []string{"other.example"}, Header: "X-Other", Versions: []routing.APIVersion{{Name: "a"}}},
		{Prefix: "/api/", Path: true, StripPath: true, Header: "x-api-version", Vendor: "acme", Parameter: "version",
			Versions: []routing.APIVersion{{Name: "v1", Lifecycle: &routing.Lifecycle{Deprecated: time.Unix(1, 0)}}, {Name: "v2"}, {Name: "v2.1"}, {Name: "beta"}}, Default: "v2"},
	}}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	h := filtered{upstream: answering, cfg: versions()}.handler(t)
	type fields []string
	tests := []struct {
		path   string
		fields fields
		status int
		uri    string
		old    bool // it is v1, as its lifecycle shows
	}{
		{"/api/v1/users?v=v2", nil, 200, "/api/users?v=v2", true},
		{"/api/v1", nil, 200, "/api", true},
		{"/api/v1/", nil, 200, "/api/", true},
		{"/api/v2/users", nil, 200, "/api/users", false},
		{"/api/users", nil, 200, "/api/users", false},
		{"/api/v9/users", nil, 404, "", false},
		{"/api/v2.9/users", nil, 404, "", false},
		{"/api/V1/users", nil, 404, "", false},
		{"/api/betas/users", nil, 200, "/api/betas/users", false},
		{"/apis/v9", nil, 200, "/apis/v9", false},
		{"/other/v9", fields{"X-Api-Version", "v9"}, 200, "/other/v9", false},
		{"/api/users", fields{"X-Api-Version", "v1"}, 200, "/api/users", true},
		{"/api/users", fields{"X-Api-Version", "v9"}, 400, "", false},
		{"/api/users", fields{"X-Api-Version", ""}, 400, "", false},
		{"/api/users", fields{"X-Api-Version", "v1, v1"}, 400, "", false},
		{"/api/users", fields{"X-Api-Version", "v1", "X-Api-Version", "v1"}, 200, "/api/users", true},
		{"/api/users", fields{"X-Api-Version", "v1", "X-Api-Version", "v2"}, 400, "", false},
		{"/api/v1/users", fields{"X-Api-Version", "v1"}, 200, "/api/users", true},
		{"/api/v1/users", fields{"X-Api-Version", "v2"}, 400, "", false},
		{"/api/users", fields{"Accept", "application/vnd.acme.v1+json"}, 200, "/api/users", true},
		{"/api/users", fields{"Accept", "text/html, Application/VND.Acme.V1+json;q=0.5, */*"}, 200, "/api/users", true},
		{"/api/users", fields{"Accept", "application/vnd.acme.v1"}, 200, "/api/users", true},
		{"/api/users", fields{"Accept", "application/vnd.acme.v9+json"}, 406, "", false},
		{"/api/users", fields{"Accept", "application/vnd.acme.problem+json"}, 200, "/api/users", false},
		{"/api/users", fields{"Accept", "application/vnd.other.v1+json"}, 200, "/api/users", false},
		{"/api/users", fields{"Accept", "application/json; Version=v1"}, 200, "/api/users", true},
		{"/api/users", fields{"Accept", `application/json; a="x;version=v2,"; version="v1"`}, 200, "/api/users", true},
		{"/api/users", fields{"Accept", "application/json; version=9"}, 406, "", false},
		{"/api/users", fields{"Accept", "application/json; version=v1, text/html; version=v2"}, 400, "", false},
		{"/api/users", fields{"Accept", "application/json; version=v1, text/html; version=v2;q=0.0"}, 200, "/api/users", true},
		{"/api/users", fields{"Accept", "application/vnd.acme.v1+json", "Accept", "application/vnd.acme.v2+json"}, 400, "", false},
		{"/api/users", fields{"Accept", "application/vnd.acme.v1+json; version=v2"}, 400, "", false},
		{"/api/v2/users", fields{"Accept", "application/vnd.acme.v1+json"}, 400, "", false},
	}
	for _, tt := range tests {
		resp := do(t, h, "GET", tt.path, tt.fields...)
		require.Equal(t, tt.status, resp.StatusCode, "%v", tt)
		if tt.status != 200 {
			assert.Contains(t, []string{"version_unknown", "version_ambiguous"}, reason(t, resp))
			continue
		}
		assert.Equal(t, tt.uri, sent(t, resp).URI, "%v", tt)
		assert.Equal(t, tt.old, resp.Header.Get("Deprecation") == "@1", "%v", tt)
		if len(tt.path) > 5 && tt.path[:5] == "/api/" {
			assert.Equal(t, []string{"X-Api-Version, Accept"}, resp.Header["Vary"])
		} else {
			assert.Empty(t, resp.Header["Vary"])
		}
	}
	assert.Equal(t, 400, do(t, h, "GET", "/", "Host", "other.example", "X-Other", "b").StatusCode)
	assert.Equal(t, 200, do(t, h, "GET", "/", "Host", "sub.other.example", "X-Other", "b").StatusCode)
}

// TestLifecycleOfVersion: that of the route goes before; a version ends by itself.
func TestLifecycleOfVersion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := routing.Config{Versions: []routing.Versioning{{Hostnames: []string{"*.example.com"}, Header: "V",
			Versions: []routing.APIVersion{{Name: "1", Lifecycle: &routing.Lifecycle{Sunset: time.Now().Add(-time.Second), GoneAfterSunset: true}}}}}}
		h := filtered{upstream: answering, cfg: cfg}.handler(t)
		assert.Equal(t, 410, do(t, h, "GET", "/", "Host", "a.example.com", "V", "1").StatusCode)
		assert.Equal(t, 200, do(t, h, "GET", "/", "Host", "example.com", "V", "1").StatusCode)
		resp := do(t, h, "GET", "/", "Host", "a.example.com")
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, "V", resp.Header.Get("Vary"), "also without a version")

		h = filtered{upstream: answering, cfg: cfg, route: routing.Route{Filters: routing.Filters{Lifecycle: &routing.Lifecycle{Deprecated: time.Unix(7, 0)}}}}.handler(t)
		resp = do(t, h, "GET", "/", "Host", "a.example.com", "V", "1")
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, "@7", resp.Header.Get("Deprecation"))
		assert.Empty(t, resp.Header.Get("Sunset"))
		assert.Equal(t, "V", resp.Header.Get("Vary"))
	})
}
