package routing

import (
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Filters are what a route does to calls besides sending them on. The zero
// Filters do nothing, and cost nothing.
//
// A call can go through four sets of them: those of its route, of the backend
// that was chosen, of the rule of the [Service] it goes to, and of that one's
// backend. Requests pass them in this order and answers in the reverse one, as
// if each were a proxy of its own. What the gates have judged is the call as it
// came: [gatemesh.Call] stays as it is, and what is sent differs from it only as
// is said here.
type Filters struct {
	// RequestHeader changes the request before it is sent on, ResponseHeader the
	// answer of the upstream, or a Redirect or Response. Refusals stay as they are.
	RequestHeader, ResponseHeader HeaderChange
	// Redirect answers with a redirect. It excludes backends and all that is done
	// to a request on its way, as there is none: RequestHeader, Rewrite, Mirrors,
	// Fault and Response.
	Redirect *Redirect
	// Response answers without an upstream. It excludes what Redirect excludes.
	Response *Response
	// Rewrite changes host and path of what is sent on.
	Rewrite *Rewrite
	// Mirrors get copies of the requests. Their answers are thrown away.
	Mirrors []Mirror
	// CORS lets pages of other origins call. Without [Router.CORS] in the chain,
	// whoever asks for a credential there refuses the preflight requests.
	CORS *CORS
	// Fault delays and refuses calls on purpose.
	Fault *Fault
	// Lifecycle announces that what is called will go.
	Lifecycle *Lifecycle
}

// HeaderChange changes header fields: Set, then Add, then Remove. A field that
// is set or removed goes in every spelling that servers cannot tell from its
// name, such as X_Role for X-Role.
//
// What cannot be named: Host, the fields of the connection and of the framing
// (RFC 9110 §7.6.1), those that say whom a request came from and are made anew
// (Forwarded, X-Forwarded-For, -Host and -Proto), those that make a server act on
// another request than the one that was judged, such as X-HTTP-Method-Override,
// X-Request-Id, and all that carries an identity of ours.
type HeaderChange struct {
	Set    []gatemesh.Field // in place of what is there; each name once
	Add    []gatemesh.Field // beside what is there
	Remove []string
}

// PathChange makes another path of a path. Exactly one kind of change is
// allowed; the zero PathChange changes nothing. It sees the path as it is
// forwarded, escaped; escapes are never decoded for it. What comes of it is a
// canonical path again: a call for which that would have an empty or a dot
// segment, or an encoded slash that was not there, is refused with 400.
type PathChange struct {
	// Full replaces the whole path.
	Full string
	// ReplacePrefix replaces what a PathPrefix or PathStart of the rule has
	// matched by Prefix, where whole segments stay whole: /a replaced by /b
	// makes /b/c of /a/c, and by "" or "/" makes /c. Every match of the rule must
	// be one of these; of several the longest that the path begins with counts.
	// A path that begins with none, because an earlier filter has changed it,
	// stays.
	ReplacePrefix bool
	Prefix        string
	// Regex replaces all that it matches by Substitution, with \1 to \9 for its
	// groups, \0 for the whole match and \\ for a backslash, in the syntax of RE2.
	// A path of more than 8 KiB, or in which one search could take some
	// milliseconds, is refused with 414, and one in which all searches together
	// could, with 400.
	Regex, Substitution string
}

// Redirect answers with a redirect. What is not set is that of the request. The
// location is always absolute. The query is kept, but for a credential in it
// that would go to another host or out of TLS.
type Redirect struct {
	Scheme   string // http or https
	Hostname string
	// Port is that of the location. Default: that of Scheme, if it is set, and
	// else that at which the call arrived, or which the client has named if
	// a trusted proxy says that it was asked over TLS. It is left out where it is
	// the scheme's own.
	Port   uint16
	Path   PathChange
	Status int // 301, 302, 303, 307 or 308. Default: 302.
}

// Rewrite changes what is sent on. The Call stays as it was judged: a policy of
// the gateway is about the path and the host that the client asked for, and not
// about what becomes of them here, which is for the service behind to judge.
// X-Forwarded-Host names the host that the client asked for.
type Rewrite struct {
	Hostname string // the Host of the request, with or without a port. Default: unchanged.
	Path     PathChange
}

// Mirror is a destination that gets copies of requests, as they are sent to the
// upstream: behind all changes of headers, host and path. The Host is not marked,
// because what a service of the mesh judges is its Host; Istio would add
// "-shadow" to it.
//
// A copy is a call of ours: it goes through the gates of [Config.Outbound], which
// see its destination, and carries the identity that they give it, as the
// request itself does. It is never tried again.
//
// Nobody waits for a mirror. A body is copied while it streams to the upstream
// and sent when it has come to its end. There is no copy of a request whose body
// is longer than 64 KiB, takes more than 10 s or is not wanted to its end by the
// upstream, that upgrades its connection, or that comes while 128 other copies
// are under way; a copy ends after 10 s.
type Mirror struct {
	Destination gatemesh.Destination // required; an upstream must serve it
	// Numerator of Denominator requests are copied. Default: all, which is 0 of 0.
	Numerator, Denominator uint32
}

// CORS answers preflight requests and allows pages of other origins to read
// answers, as the Fetch standard says. Preflight requests are answered by
// [Router.CORS], before anybody asks who the caller is; what the upstream says
// of it in Access-Control-* fields is taken off. Origins are echoed, never "*".
// What that layer could not know, because it is not in the chain or the rule of
// the service was chosen behind it, is done by [Router.Proxy]: no preflight
// request is ever forwarded by a route with CORS.
type CORS struct {
	// AllowOrigins are origins such as "https://app.example.com", or with "*"
	// for the whole or the leftmost labels of the host: "https://*.example.com"
	// is any name below example.com. "*" alone is every origin; only that, without
	// AllowCredentials, allows the origin "null". Required, unless
	// AllowOriginMatches is given.
	AllowOrigins []string
	// AllowOriginMatches match the origin as it was sent. MatchPresent is not
	// one of them.
	AllowOriginMatches []ValueMatch
	AllowMethods       []string // "*" is every method. Default: the methods of Fetch that need no permission.
	AllowHeaders       []string // "*" is every field. Default: none.
	ExposeHeaders      []string // "*" is every field. Default: none.
	// MaxAge is how long a browser may remember the answer to a preflight
	// request, in whole seconds. Default: 5 s.
	MaxAge           time.Duration
	AllowCredentials bool
}

// Fault makes calls fail on purpose, to see what happens. Delays and refusals
// happen before the outbound layers, so that nobody retries them or blames the
// upstream; Observers hear of each from the layer "fault".
type Fault struct {
	// Delay holds a share of the calls back before they are sent on. It counts
	// against the timeout of the route and ends when the caller leaves.
	Delay        time.Duration
	DelayPercent float64 // 0 is never, 100 always
	// AbortStatus, or AbortCode for gRPC calls, answers a share of the calls. If
	// only one is given, the other follows from it. A status is 400 to 599.
	AbortStatus  int
	AbortCode    gatemesh.Code
	AbortPercent float64 // 0 is never, 100 always
}

// Response is an answer without an upstream.
type Response struct {
	Status      int    // required, 200 to 599
	Body        []byte // at most 64 KiB
	ContentType string // required with a Body
}

// Lifecycle announces the end of what a route serves, on every answer, refusals
// included. Link fields of the upstream stand beside ours; Deprecation and Sunset
// are ours alone.
type Lifecycle struct {
	// Deprecated is when it is or was deprecated: the field Deprecation, RFC
	// 9745. Zero: it is not.
	Deprecated time.Time
	// Sunset is when it will be gone: the field Sunset, RFC 8594. Not before
	// Deprecated. Zero: not known.
	Sunset time.Time
	// Link is where people read about it, with the relation "deprecation", or
	// "sunset" without Deprecated. Successor is what to use instead, with the
	// relation "successor-version". Default: none.
	Link, Successor string
	// GoneAfterSunset answers with 410 from Sunset on.
	GoneAfterSunset bool
}
