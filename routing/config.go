package routing

import (
	"net/http"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Config configures a [Router]. The zero Config is valid and has no routes:
// every call is answered with 404.
type Config struct {
	// Listeners are where calls arrive. Default: one, for every host and port.
	Listeners []Listener
	// Routes is the route table. The order is that of the last tie-break of
	// [Router.Admit]. Default: no routes.
	Routes []Route
	// Services hold what is said about calls to a service by whatever route they
	// come; at most one for a service. Default: none.
	Services []Service
	// Versions say where calls name the version of an API. Default: nowhere.
	Versions []Versioning
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
	// Headless says that the Router is of a service that calls others by itself,
	// without a proxy: through [Router.Outbound]. It needs no upstreams then, as
	// somebody else finds those, and has Services and Versions alone; what only a
	// proxy can do is an error, such as a Rewrite. Default: there is a proxy.
	Headless bool
	// Observer receives denials and the ends of calls to upstreams, and what
	// went wrong between us and them. Default: nobody.
	Observer gatemesh.Observer
}

// A Listener is a place where calls arrive: a port, and the hosts that are
// served there. Of the listeners of a port, a call belongs to the one with the
// most specific hostname that matches its host, and to that one alone. Of two
// with the same hostname, the one that names the port goes before the one for
// every port. Its zero value is invalid: Name is required.
type Listener struct {
	// Name is unique among the listeners. Required.
	Name string
	// Position is where the listener was written, for errors. Default: unknown.
	Position gatemesh.Position
	// Hostname is an exact name, or a wildcard as in [Route.Hostnames].
	// Default: every host.
	Hostname string
	// Port is the local port at which calls arrive. Default: every port, also
	// one that is not known.
	Port uint16
	// PublicPort is the port that clients connect to, which a redirect sends them
	// back to: as 443 where a Service of Kubernetes maps it to 8443, or a flag
	// does. Default: the local port at which the call has arrived.
	PublicPort uint16
	// TLS says that it serves calls on TLS connections, and else those on plain
	// ones, whatever a proxy in front of us says about the client's. A call whose
	// SNI belongs to another listener than its host is answered with 421; one
	// without SNI is not.
	TLS bool
}

// A Route sends the calls that match it to its backends. It is one rule of an
// HTTPRoute or GRPCRoute, or of a [Service]. Its zero value is invalid: Name
// and either Backends, Redirect or Response are required.
type Route struct {
	// Name is unique among the routes and fit for logs and metrics, such as
	// "production/user-service-route/0". Required.
	Name string
	// Position is where the rule was written, for errors. Default: unknown.
	Position gatemesh.Position
	// Listeners names the listeners that serve the route. Of each, it serves the
	// hosts that both name, of which there must be some. Default: every listener.
	// Empty in a Service.
	Listeners []string
	// Hostnames are exact names such as "api.example.com", or wildcards such as
	// "*.example.com", which match every name below example.com and not
	// example.com itself. Default: every host. Empty in a Service.
	Hostnames []string
	// Matches are alternatives. Default: one match for the path prefix "/".
	Matches []Match
	// Filters are what is done to calls by this route.
	Filters
	// Timeout, AttemptTimeout and Retry are those of [gatemesh.Route]. A Retry
	// needs a layer that retries in [Config.Outbound].
	Timeout        time.Duration
	AttemptTimeout time.Duration
	Retry          *gatemesh.RetryPolicy
	// Backends are where matching calls go, by weight. Required unless the
	// filters answer; the weights must not all be 0. A rule that is to answer 500
	// to everything has one backend with [Backend.Unserved].
	Backends []Backend
}

// A Backend is one of those that share the calls of a [Route].
type Backend struct {
	// Destination is where calls go. One with a subset is final: no [Service] is
	// asked about it. Required, unless the backend is Unserved.
	Destination gatemesh.Destination
	// Unserved says that there is nobody to go to, as there is none for a
	// backendRef of the Gateway API that is invalid or may not be referred to, nor
	// for a rule all of whose weights are 0. The calls that belong to the backend
	// are answered with 500, or Unavailable for gRPC; the others go on. No upstream
	// has to serve the Destination, and it has no filters.
	Unserved bool
	// Weight is the share among the backends of the route. 0 is never chosen.
	Weight uint32
	// Filters are done to the calls that go here, after those of the route.
	// Only header changes, a rewrite and mirrors can stand here.
	Filters
}

// A Service holds the rules for calls to one service, whatever route they come
// by, as a VirtualService does. Its zero value is invalid.
type Service struct {
	// Position is where it was written, for errors. Default: unknown.
	Position gatemesh.Position
	// Service is the short name of the service; "*" is every service of the
	// Namespace that has no Service of its own. Required.
	Service string
	// Namespace is the service's namespace. "" is the namespace "".
	Namespace string
	// Rules are tried in their order, and the first that matches decides. A call
	// that matches none is refused with 404, as in Istio, or Unimplemented for
	// gRPC. A backend whose Port is 0 gets the port that the call's destination
	// had. Their names are unique within the Service. Required.
	Rules []Route
}

// A Match holds for a call if all its parts hold.
type Match struct {
	// Path is the path to match. Default: the prefix "/", which is every path.
	Path PathMatch
	// Protocol is HTTP or GRPC. Default: both.
	Protocol gatemesh.Protocol
	// Method is the exact, upper-case method. Default: every method.
	Method string
	// Methods matches the method otherwise than exactly, in place of Method.
	// Default: every method.
	Methods *ValueMatch
	// Scheme and Authority match [gatemesh.Call.Scheme] and
	// [gatemesh.Call.Authority], which is the host with its port unless that is
	// the scheme's own. The scheme is http or https. Default: every one.
	Scheme, Authority *ValueMatch
	// Port is the local port of the call. Default: every port.
	Port uint16
	// Headers and Query must all hold. Default: none.
	Headers []HeaderMatch
	Query   []QueryMatch
	// Version is the API version of the call; see [Versioning]. Default: any.
	Version string
}

// PathMatch matches the path of a call, never its query.
type PathMatch struct {
	// Type says how Value is compared. Default: PathPrefix.
	Type PathType
	// Value is an escaped path. It goes through [gatemesh.CanonicalPath] like
	// the path of a call, unless it is a regular expression. Default: "/".
	Value string
	// IgnoreCase compares ASCII letters without regard to case.
	IgnoreCase bool
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
	// PathStart matches by how the path begins, as Istio's prefix does: /a
	// matches /ab, too.
	PathStart
	// PathRegex is a regular expression in the syntax of RE2 that has to match
	// the whole path as [gatemesh.Call.MatchPath] has it. It may have 4,096
	// bytes, and compile to as many instructions. Those that begin with the same
	// literal text are tried one by one; there may be 256 of them for a hostname
	// or a service. A path of more than 1 KiB for which that is too much work is
	// refused with 414.
	PathRegex
)

// MatchType says how a value is compared.
type MatchType uint8

// The match types.
const (
	MatchExact   MatchType = iota // the whole value
	MatchPrefix                   // how it begins
	MatchRegex                    // a regular expression of RE2 for the whole value
	MatchPresent                  // any value
)

// ValueMatch matches a value.
type ValueMatch struct {
	// Type says how Value is compared. Default: MatchExact.
	Type MatchType
	// Value is compared byte for byte. Empty with MatchPresent.
	Value string
}

// HeaderMatch matches a header field that is present exactly once. A repeated
// field matches nothing, so that two readers of it cannot disagree.
type HeaderMatch struct {
	// Name is compared without regard to case. Required.
	Name string
	// Type says how Value is compared. Default: MatchExact.
	Type MatchType
	// Value is compared byte for byte.
	Value string
	// Not holds for calls that do not match: also those without the field. A
	// repeated field does not hold either way.
	Not bool
}

// QueryMatch matches a parameter of the query that is present exactly once. A
// repeated one matches nothing: the Gateway API leaves it open, and recommends
// to look at the first, but the service behind may look at the last. For the
// same reason a value that cannot be unescaped counts and matches nothing. A
// semicolon is a character like others.
type QueryMatch struct {
	// Name is compared byte for byte with the decoded name. Required.
	Name string
	// Type says how Value is compared. Default: MatchExact.
	Type MatchType
	// Value is compared byte for byte with the decoded value.
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
	// scheme http, https or h2c, which is HTTP/2 without TLS, and without path,
	// query, fragment or user. Required.
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
