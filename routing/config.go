package routing

import (
	"net/http"

	"github.com/gatemesh-go/gatemesh"
)

// Config configures a [Router]. The zero Config is valid and has no routes:
// every call is answered with 404.
type Config struct {
	// Routes is the route table. The order is that of the last tie-break of
	// [Router.Admit]. Default: no routes.
	Routes []Route
	// Upstreams are the places that serve destinations. Every backend of every
	// route must be served by at least one. Default: none.
	Upstreams []Upstream
	// Subsets give names to groups of upstreams, as a DestinationRule does.
	// Default: none.
	Subsets []Subset
	// Outbound are gates for each call to an upstream, such as the identity
	// minter. They run after the proxy has removed the hop-by-hop fields.
	// Default: none.
	Outbound []gatemesh.Layer
	// Observer receives denials and the ends of calls to upstreams, and what
	// went wrong between us and them. Default: nobody.
	Observer gatemesh.Observer
}

// A Route sends the calls that match it to its backends. It is one rule of an
// HTTPRoute. Its zero value is invalid: Name and Backends are required.
type Route struct {
	// Name is unique among the routes and fit for logs and metrics, such as
	// "production/user-service-route/0". Required.
	Name string
	// Position is where the rule was written, for errors. Default: unknown.
	Position gatemesh.Position
	// Hostnames are exact names such as "api.example.com", or wildcards such as
	// "*.example.com", which match every name below example.com and not
	// example.com itself. Default: every host.
	Hostnames []string
	// Matches are alternatives. Default: one match for the path prefix "/".
	Matches []Match
	// Backends are where matching calls go, by weight. Required; the weights
	// must not all be 0.
	Backends []gatemesh.WeightedDestination
}

// A Match holds for a call if all its parts hold.
type Match struct {
	// Path is the path to match. Default: the prefix "/", which is every path.
	Path PathMatch
	// Method is the exact, upper-case method. Default: every method.
	Method string
	// Headers must all be present. Default: none.
	Headers []HeaderMatch
}

// PathMatch matches the path of a call, never its query.
type PathMatch struct {
	// Type says how Value is compared. Default: PathPrefix.
	Type PathType
	// Value is an escaped path. It goes through [gatemesh.CanonicalPath] like
	// the path of a call. Default: "/".
	Value string
}

// PathType says how a path is compared.
type PathType uint8

// The path types.
const (
	// PathPrefix matches whole segments: the prefix /a matches /a, /a/ and
	// /a/b, but not /ab. A slash at the end of the prefix means nothing.
	PathPrefix PathType = iota
	// PathExact matches the path as a whole: /a does not match /a/.
	PathExact
)

// HeaderMatch matches a header field that is present exactly once, with
// exactly this value. A repeated field matches nothing, so that two readers of
// it cannot disagree.
type HeaderMatch struct {
	// Name is compared without regard to case. Required.
	Name string
	// Value is compared byte for byte.
	Value string
}

// A Subset names those upstreams of a service that have certain labels, as in
// a DestinationRule.
type Subset struct {
	// Position is where the subset was written, for errors. Default: unknown.
	Position gatemesh.Position
	// Service is the short name of the service. Required.
	Service string
	// Namespace is the service's namespace. "" is the namespace "".
	Namespace string
	// Name is the subset's name, such as "v2". Required.
	Name string
	// Labels select the upstreams that have all of them. Default: every
	// upstream of the service.
	Labels map[string]string
}

// An Upstream is a place that serves destinations. Several that serve the same
// destination take turns.
type Upstream struct {
	// Service is the short name of the service it serves. Required.
	Service string
	// Namespace is the service's namespace. Default: any.
	Namespace string
	// Subset names the subset it belongs to. Default: it belongs to those
	// [Config.Subsets] whose labels it has.
	Subset string
	// Port is the service port it serves. Default: any. A destination without
	// a port fits if all upstreams of its service have the same Port, and else
	// only those without one.
	Port uint16
	// URL is where it listens, as scheme://host or scheme://host:port, with the
	// scheme http or https, and without path, query, fragment or user. Required.
	URL string
	// Labels are compared with [Subset.Labels]. Default: none.
	Labels map[string]string
	// Transport carries the calls. It is not closed by the Router. Default: one
	// transport that all upstreams of the Router share: HTTP/1.1, HTTP/2 over
	// TLS, unencrypted HTTP/2 for gRPC, no proxy of the environment, no
	// compression of its own, and no limit on how long an answer may take.
	Transport http.RoundTripper
	// Balance puts a choice of endpoints in front of Transport, or of the shared
	// one, such as the Transport method of a pool of package routing/pool. What
	// it returns sends the call to an address of its choosing; the host of URL
	// is then no more than a name. Default: the address is that of URL.
	Balance func(http.RoundTripper) http.RoundTripper
}
