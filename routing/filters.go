package routing

import (
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Filters are what a route does to calls besides sending them on. The zero
// Filters do nothing.
type Filters struct {
	// RequestHeader changes the request before it is sent on, ResponseHeader the
	// answer of the upstream.
	RequestHeader, ResponseHeader HeaderChange
	// Redirect answers with a redirect. It excludes backends, Rewrite and Response.
	Redirect *Redirect
	// Response answers without an upstream. It excludes backends and Rewrite.
	Response *Response
	// Rewrite changes host and path of what is sent on.
	Rewrite *Rewrite
	// Mirrors get copies of the requests. Their answers are thrown away.
	Mirrors []Mirror
	// CORS lets pages of other origins call.
	CORS *CORS
	// Fault delays and refuses calls on purpose.
	Fault *Fault
	// Lifecycle announces that what is called will go.
	Lifecycle *Lifecycle
}

// HeaderChange changes header fields: Set, then Add, then Remove. Host,
// hop-by-hop fields and those that carry an identity cannot be named.
type HeaderChange struct {
	Set    []gatemesh.Field // in place of what is there
	Add    []gatemesh.Field // beside what is there
	Remove []string
}

// PathChange makes another path of a path. Exactly one kind of change is
// allowed; the zero PathChange changes nothing.
type PathChange struct {
	// Full replaces the whole path.
	Full string
	// ReplacePrefix replaces what a PathPrefix or PathStart of the rule has
	// matched by Prefix, where whole segments stay whole: /a replaced by /b
	// makes /b/c of /a/c, and by "" or "/" makes /c. Every match of the rule must
	// be one of these.
	ReplacePrefix bool
	Prefix        string
	// Regex replaces what it matches by Substitution, with \1 to \9 for its
	// groups, in the syntax of RE2.
	Regex, Substitution string
}

// Redirect answers with a redirect. What is not set is that of the request.
type Redirect struct {
	Scheme   string // http or https
	Hostname string
	// Port is that of the location. Default: that of Scheme, if it is set, and
	// else that at which the call arrived. It is left out where it is the
	// scheme's own.
	Port   uint16
	Path   PathChange
	Status int // 301, 302, 303, 307 or 308. Default: 302.
}

// Rewrite changes what is sent on. The Call stays as it was judged.
type Rewrite struct {
	Hostname string // the Host of the request. Default: unchanged.
	Path     PathChange
}

// Mirror is a destination that gets copies of requests.
type Mirror struct {
	Destination gatemesh.Destination // required
	// Numerator of Denominator requests are copied. Default: all, which is 0 of 0.
	Numerator, Denominator uint32
}

// CORS answers preflight requests and allows pages of other origins to read
// answers, as the Fetch standard says. Preflight requests are answered by
// [Router.CORS], before anybody asks who the caller is.
type CORS struct {
	// AllowOrigins are origins such as "https://app.example.com", or with "*"
	// for the whole or the leftmost labels of the host: "https://*.example.com".
	// Required, unless AllowOriginMatches is given.
	AllowOrigins       []string
	AllowOriginMatches []ValueMatch
	AllowMethods       []string // "*" is every method. Default: the methods of Fetch that need no permission.
	AllowHeaders       []string // "*" is every field. Default: none.
	ExposeHeaders      []string // "*" is every field. Default: none.
	MaxAge             time.Duration
	AllowCredentials   bool
}

// Fault makes calls fail on purpose, to see what happens.
type Fault struct {
	// Delay holds a share of the calls back before they are sent on.
	Delay        time.Duration
	DelayPercent float64
	// AbortStatus, or AbortCode for gRPC calls, answers a share of the calls.
	AbortStatus  int
	AbortCode    gatemesh.Code
	AbortPercent float64
}

// Response is an answer without an upstream.
type Response struct {
	Status      int // required, 200 to 599
	Body        []byte
	ContentType string // required with a Body
}

// Lifecycle announces the end of what a route serves.
type Lifecycle struct {
	// Deprecated is when it is or was deprecated: the field Deprecation, RFC
	// 9745. Zero: it is not.
	Deprecated time.Time
	// Sunset is when it will be gone: the field Sunset, RFC 8594. Zero: not known.
	Sunset time.Time
	// Link is where people read about it, with the relation "deprecation", or
	// "sunset" without Deprecated. Successor is what to use instead, with the
	// relation "successor-version". Default: none.
	Link, Successor string
	// GoneAfterSunset answers with 410 from Sunset on.
	GoneAfterSunset bool
}
