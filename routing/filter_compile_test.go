package routing_test

import (
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// TestFilterFaults: all that is wrong is said at once, with its place.
func TestFilterFaults(t *testing.T) {
	t.Parallel()
	d := []routing.Backend{{Destination: backend, Weight: 1}}
	many := []routing.Route{
		{Name: "0", Filters: routing.Filters{Redirect: &routing.Redirect{Scheme: "ftp", Hostname: "A.example", Status: 304, Path: routing.PathChange{Full: "x", ReplacePrefix: true}},
			Response: &routing.Response{}, Rewrite: &routing.Rewrite{}, Mirrors: []routing.Mirror{{}}, Fault: &routing.Fault{}, RequestHeader: routing.HeaderChange{Remove: []string{"X-A"}}}},
		{Name: "1", Filters: routing.Filters{Response: &routing.Response{Status: 204, Body: []byte("x"), ContentType: "text/plain"}}},
		{Name: "2", Filters: routing.Filters{Response: &routing.Response{Status: 600, Body: make([]byte, 64<<10+1)}}},
		{Name: "3", Filters: routing.Filters{Response: &routing.Response{Status: 200, ContentType: "text/plain"}}},
		{Name: "4", Filters: routing.Filters{Response: &routing.Response{Status: 200, Body: []byte("x"), ContentType: "text/plain\r\nX: y"}}},
		{Name: "5", Backends: d, Matches: []routing.Match{{Path: routing.PathMatch{Type: routing.PathExact, Value: "/a"}}},
			Filters: routing.Filters{Rewrite: &routing.Rewrite{Hostname: "a/b", Path: routing.PathChange{ReplacePrefix: true, Prefix: "/a//b"}}}},
		{Name: "6", Backends: d, Filters: routing.Filters{Rewrite: &routing.Rewrite{Path: routing.PathChange{Regex: "("}}}},
		{Name: "7", Backends: d, Filters: routing.Filters{Rewrite: &routing.Rewrite{Path: routing.PathChange{Regex: "(a)", Substitution: `\2\x\`}}}},
		{Name: "8", Backends: d, Filters: routing.Filters{Rewrite: &routing.Rewrite{Path: routing.PathChange{Prefix: "/a", Substitution: "b"}}}},
		{Name: "9", Backends: d, Filters: routing.Filters{Mirrors: []routing.Mirror{{Destination: gatemesh.Destination{Service: "nobody"}, Numerator: 2, Denominator: 1}, {Destination: backend, Numerator: 1}}}},
		{Name: "10", Backends: d, Filters: routing.Filters{CORS: &routing.CORS{}}},
		{Name: "11", Backends: d, Filters: routing.Filters{CORS: &routing.CORS{AllowOrigins: []string{"*", "https://A.com", "example.com", "https://a.com/", "ftp://a.com", "https://a.*.com", "https://*b.com", "https://", "https://*:8443", "https://*"},
			AllowOriginMatches: []routing.ValueMatch{{}, {Type: routing.MatchRegex, Value: "("}, {Type: routing.MatchPresent}}, AllowMethods: []string{"*", "A B"}, MaxAge: time.Millisecond},
			ResponseHeader: routing.HeaderChange{Set: []gatemesh.Field{{Name: "access-control-max-age", Value: "1"}}}}},
		{Name: "12", Backends: d, Filters: routing.Filters{Fault: &routing.Fault{Delay: -1, DelayPercent: math.NaN(), AbortStatus: 200, AbortCode: 99, AbortPercent: 101}}},
		{Name: "13", Backends: d, Filters: routing.Filters{Fault: &routing.Fault{DelayPercent: 1, AbortPercent: -1}}},
		{Name: "14", Backends: d, Filters: routing.Filters{Lifecycle: &routing.Lifecycle{}}},
		{Name: "15", Backends: d, Filters: routing.Filters{Lifecycle: &routing.Lifecycle{Deprecated: time.Unix(2, 0), Sunset: time.Unix(1, 0), Link: "javascript:x", Successor: "https://a/>\r\n"}}},
		{Name: "16", Backends: d, Filters: routing.Filters{Lifecycle: &routing.Lifecycle{Link: "/a", GoneAfterSunset: true}, ResponseHeader: routing.HeaderChange{Remove: []string{"sunset"}}}},
		{Name: "17", Backends: []routing.Backend{{Destination: backend, Weight: 1, Filters: routing.Filters{Response: &routing.Response{}, CORS: &routing.CORS{}, Fault: &routing.Fault{}, Lifecycle: &routing.Lifecycle{}}}}},
		{Name: "18", Backends: d, Filters: routing.Filters{RequestHeader: routing.HeaderChange{Set: []gatemesh.Field{{Name: "X-A", Value: "1"}, {Name: "x_a", Value: "2"}}}}},
	}
	for i := range many {
		many[i].Position = gatemesh.Position{File: "f", Line: i}
	}
	_, err := routing.New(routing.Config{Routes: many, Upstreams: at("http://h"), Versions: []routing.Versioning{
		{},
		{Position: gatemesh.Position{File: "v", Line: 1}, Hostnames: []string{"A"}, Prefix: "x", Path: false, StripPath: true, Header: "X-Gatemesh-A", Vendor: "a/b", Parameter: "q",
			Versions: []routing.APIVersion{{}, {Name: "a b"}, {Name: "v1"}, {Name: "V1"}, {Name: "v2", Lifecycle: &routing.Lifecycle{}}}, Default: "v3"},
	}})
	require.Error(t, err)
	want := strings.Split(strings.TrimSpace(faultsOfFilters), "\n")
	got := strings.Split(err.Error(), "\n")
	assert.Equal(t, want, got)
}

const faultsOfFilters = `
routing: Config.Versions[0] needs Path, Header, Vendor or Parameter
routing: Config.Versions[0].Versions is required
routing: v:1: Config.Versions[1].Hostnames[0]: "A" must be written "a"
routing: v:1: Config.Versions[1].Prefix "x": path must start with a slash
routing: v:1: Config.Versions[1].StripPath needs Path
routing: v:1: Config.Versions[1].Header X-Gatemesh-A cannot name a version
routing: v:1: Config.Versions[1].Vendor "a/b" is not a part of a media type
routing: v:1: Config.Versions[1].Parameter "q" is not the name of a parameter, or that of the weight
routing: v:1: Config.Versions[1].Versions[0].Name is required
routing: v:1: Config.Versions[1].Versions[1].Name "a b" has other characters than letters, digits, ".", "_" and "-"
routing: v:1: Config.Versions[1].Versions[3].Name "V1" is taken by an earlier version
routing: v:1: Config.Versions[1].Versions[4].Lifecycle announces nothing
routing: v:1: Config.Versions[1].Default "v3" is not among Versions
routing: f:0: Config.Routes[0].Redirect.Path: Full, ReplacePrefix and Regex exclude one another
routing: f:0: Config.Routes[0].Redirect.Scheme must be http or https
routing: f:0: Config.Routes[0].Redirect.Hostname "A.example" is not a host name in lower case
routing: f:0: Config.Routes[0].Redirect.Status 304 is not 301, 302, 303, 307 or 308
routing: f:0: Config.Routes[0].Redirect excludes Rewrite
routing: f:0: Config.Routes[0].Redirect excludes Mirrors
routing: f:0: Config.Routes[0].Redirect excludes Fault
routing: f:0: Config.Routes[0].Redirect excludes RequestHeader
routing: f:0: Config.Routes[0].Redirect excludes Response
routing: f:0: Config.Routes[0].Response.Status must be 200 to 599
routing: f:0: Config.Routes[0].Response excludes Rewrite
routing: f:0: Config.Routes[0].Response excludes Mirrors
routing: f:0: Config.Routes[0].Response excludes Fault
routing: f:0: Config.Routes[0].Response excludes RequestHeader
routing: f:0: Config.Routes[0].Rewrite changes nothing
routing: f:0: Config.Routes[0].Mirrors[0].Destination.Service is required
routing: f:0: Config.Routes[0].Fault does nothing
routing: f:1: Config.Routes[1].Response.Body: an answer with status 204 has none
routing: f:2: Config.Routes[2].Response.Status must be 200 to 599
routing: f:2: Config.Routes[2].Response.Body must not be longer than 64 KiB
routing: f:3: Config.Routes[3].Response.ContentType needs a Body
routing: f:4: Config.Routes[4].Response.ContentType has a control character, or white space at its ends
routing: f:5: Config.Routes[5].Rewrite.Hostname "a/b" is not a host name in lower case, with or without a port
routing: f:5: Config.Routes[5].Rewrite.Path.Prefix "/a//b": path contains an empty segment
routing: f:5: Config.Routes[5].Rewrite.Path.ReplacePrefix needs matches for the prefix of a path; Matches[0] is another one
routing: f:6: Config.Routes[6].Rewrite.Path.Regex "(": error parsing regexp: missing closing ): ` + "`" + `(` + "`" + `
routing: f:7: Config.Routes[7].Rewrite.Path.Substitution: the regular expression has 1 groups and no \2
routing: f:7: Config.Routes[7].Rewrite.Path.Substitution: \x is neither a group nor a backslash
routing: f:7: Config.Routes[7].Rewrite.Path.Substitution ends with a backslash
routing: f:8: Config.Routes[8].Rewrite.Path.Prefix needs ReplacePrefix
routing: f:8: Config.Routes[8].Rewrite.Path.Substitution needs Regex
routing: f:9: Config.Routes[9].Mirrors[0]: no upstream serves nobody
routing: f:9: Config.Routes[9].Mirrors[0].Numerator must not be more than Denominator
routing: f:9: Config.Routes[9].Mirrors[1].Numerator must not be more than Denominator
routing: f:10: Config.Routes[10].CORS.AllowOrigins is required, or AllowOriginMatches
routing: f:11: Config.Routes[11].CORS.AllowMethods[0]: "*" makes all others meaningless
routing: f:11: Config.Routes[11].CORS.AllowMethods[1] "A B" is not a name
routing: f:11: Config.Routes[11].CORS.AllowOrigins[0]: "*" makes all others meaningless
routing: f:11: Config.Routes[11].CORS.AllowOrigins[1]: "https://A.com" is not an origin such as https://example.com or https://*.example.com
routing: f:11: Config.Routes[11].CORS.AllowOrigins[2]: "example.com" is not an origin such as https://example.com or https://*.example.com
routing: f:11: Config.Routes[11].CORS.AllowOrigins[3]: "https://a.com/" is not an origin such as https://example.com or https://*.example.com
routing: f:11: Config.Routes[11].CORS.AllowOrigins[4]: "ftp://a.com" is not an origin such as https://example.com or https://*.example.com
routing: f:11: Config.Routes[11].CORS.AllowOrigins[5]: "https://a.*.com" is not an origin such as https://example.com or https://*.example.com
routing: f:11: Config.Routes[11].CORS.AllowOrigins[6]: "https://*b.com" is not an origin such as https://example.com or https://*.example.com
routing: f:11: Config.Routes[11].CORS.AllowOrigins[7]: "https://" is not an origin such as https://example.com or https://*.example.com
routing: f:11: Config.Routes[11].CORS.AllowOriginMatches[0].Value is required
routing: f:11: Config.Routes[11].CORS.AllowOriginMatches[1].Value "(": error parsing regexp: missing closing ): ` + "`" + `(` + "`" + `
routing: f:11: Config.Routes[11].CORS.AllowOriginMatches[2].Type: every origin is written "*" in AllowOrigins
routing: f:11: Config.Routes[11].CORS.MaxAge must be whole seconds
routing: f:11: Config.Routes[11].ResponseHeader: Access-Control-Max-Age is what CORS sets
routing: f:12: Config.Routes[12].Fault.DelayPercent must be 0 to 100
routing: f:12: Config.Routes[12].Fault.AbortPercent must be 0 to 100
routing: f:12: Config.Routes[12].Fault.Delay must not be negative
routing: f:12: Config.Routes[12].Fault.AbortStatus must be 400 to 599
routing: f:12: Config.Routes[12].Fault.AbortCode 99 is no code of gRPC
routing: f:13: Config.Routes[13].Fault.AbortPercent must be 0 to 100
routing: f:13: Config.Routes[13].Fault.DelayPercent needs Delay
routing: f:13: Config.Routes[13].Fault.AbortPercent needs AbortStatus or AbortCode
routing: f:13: Config.Routes[13].Fault does nothing
routing: f:14: Config.Routes[14].Lifecycle announces nothing
routing: f:15: Config.Routes[15].Lifecycle.Sunset must not be before Deprecated
routing: f:15: Config.Routes[15].Lifecycle.Link is not a URL with http or https, nor a path
routing: f:15: Config.Routes[15].Lifecycle.Successor is not a URL with http or https, nor a path
routing: f:16: Config.Routes[16].Lifecycle.Link needs Deprecated or Sunset
routing: f:16: Config.Routes[16].Lifecycle.GoneAfterSunset needs Sunset
routing: f:16: Config.Routes[16].ResponseHeader: Sunset is what Lifecycle sets
routing: f:17: Config.Routes[17].Backends[0].Response can only stand at a route
routing: f:17: Config.Routes[17].Backends[0].CORS can only stand at a route
routing: f:17: Config.Routes[17].Backends[0].Fault can only stand at a route
routing: f:17: Config.Routes[17].Backends[0].Lifecycle can only stand at a route
routing: f:18: Config.Routes[18].RequestHeader.Set[1].Name X_a is set twice`

// TestFiltersCostNothing: a route without filters is not slower for them.
func TestFiltersCostNothing(t *testing.T) {
	us := at("http://10.0.0.1")
	us[0].Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
	})
	allocs := func(r routing.Route) float64 {
		r.Name, r.Backends = "all", to("", backend).Backends
		h := gateway{cfg: routing.Config{Routes: []routing.Route{r}, Upstreams: us}}.handler(t)
		req := httptest.NewRequest("GET", "/", nil)
		return testing.AllocsPerRun(200, func() { h.ServeHTTP(discarded{}, req) })
	}
	plain := allocs(routing.Route{})
	assert.LessOrEqual(t, plain, float64(allocsWithoutFilters))
	assert.LessOrEqual(t, allocs(routing.Route{Filters: routing.Filters{Lifecycle: &routing.Lifecycle{Deprecated: time.Unix(1, 0)}}}), plain+2, "the value of a field, and its place in the header")
	assert.LessOrEqual(t, allocs(routing.Route{Filters: routing.Filters{RequestHeader: routing.HeaderChange{Set: []gatemesh.Field{field("X-A", "1")}}}}), plain+2)
}

// allocsWithoutFilters is what a request through chain and proxy cost before
// there were filters.
var allocsWithoutFilters = unlessRacing(33, 34)

type discarded struct{}

func (discarded) Header() http.Header         { return http.Header{} }
func (discarded) Write(p []byte) (int, error) { return len(p), nil }
func (discarded) WriteHeader(int)             {}

// TestMirrorOfSlowBody: a copy does not wait for a client that drips.
func TestMirrorOfSlowBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := filtered{upstream: answering, route: routing.Route{Filters: mirrored()}, cfg: routing.Config{Upstreams: shadowAt(roundTripper(func(*http.Request) (*http.Response, error) {
			t.Error("there must be no copy")
			return nil, io.ErrUnexpectedEOF
		}))}}
		body, w := io.Pipe()
		go func() {
			_, _ = io.WriteString(w, "a")
			time.Sleep(11 * time.Second)
			_, _ = io.WriteString(w, "b")
			_ = w.Close()
		}()
		rec := httptest.NewRecorder()
		f.handler(t).ServeHTTP(rec, httptest.NewRequest("POST", "/", body))
		assert.Equal(t, 200, rec.Code, "and the call goes on")
	})
}

// TestFiltersOfServices: what a rule of Config.Services says is done, too.
func TestFiltersOfServices(t *testing.T) {
	t.Parallel()
	cfg := apiVersions()
	cfg.Services = []routing.Service{{Service: backend.Service, Namespace: backend.Namespace, Rules: []routing.Route{
		{Name: "old", Matches: []routing.Match{{Version: "v1"}}, Backends: []routing.Backend{{Destination: backend, Weight: 1}},
			Filters: routing.Filters{RequestHeader: routing.HeaderChange{Set: []gatemesh.Field{field("X-Rule", "old")}}}},
		{Name: "gone", Matches: []routing.Match{{Path: routing.PathMatch{Value: "/gone"}}}, Filters: routing.Filters{Response: &routing.Response{Status: 410}}},
		{Name: "new", Backends: []routing.Backend{{Destination: backend, Weight: 1}},
			Filters: routing.Filters{CORS: &routing.CORS{AllowOrigins: []string{"https://app.example"}}, RequestHeader: routing.HeaderChange{Set: []gatemesh.Field{field("X-Rule", "new")}}}},
	}}}
	h := filtered{upstream: answering, cfg: cfg}.handler(t)
	assert.Equal(t, []string{"old"}, sent(t, do(t, h, "GET", "/api/v1/users")).Header["X-Rule"])
	resp := do(t, h, "GET", "/api/v2/users", "Origin", "https://app.example")
	assert.Equal(t, "https://app.example", resp.Header.Get("Access-Control-Allow-Origin"))
	assert.Equal(t, []string{"new"}, sent(t, resp).Header["X-Rule"])
	assert.Equal(t, 410, do(t, h, "GET", "/gone").StatusCode)
}
