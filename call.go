package gatemesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"time"
)

// Protocol says how a call arrived or leaves.
type Protocol uint8

// The protocols a Call can have.
const (
	HTTP Protocol = iota + 1
	GRPC
)

// String returns "http" or "grpc".
func (p Protocol) String() string {
	switch p {
	case HTTP:
		return "http"
	case GRPC:
		return "grpc"
	}
	return "unknown"
}

// Destination is the service a call goes to. The zero Destination means that
// nobody has decided yet.
type Destination struct {
	Service   string // short name, as in "payment-service"
	Namespace string
	Subset    string // as in an Istio DestinationRule; "" is any
	Port      uint16 // the service port; 0 is the only or default one
}

// String returns the Kubernetes form, such as
// "payment-service.production/v2:8080".
func (d Destination) String() string {
	var b strings.Builder
	b.WriteString(d.Service)
	if d.Namespace != "" {
		b.WriteString("." + d.Namespace)
	}
	if d.Subset != "" {
		b.WriteString("/" + d.Subset)
	}
	if d.Port != 0 {
		fmt.Fprintf(&b, ":%d", d.Port)
	}
	return b.String()
}

// Header is a read-only view of the header fields of an HTTP request or of
// gRPC metadata. Its methods take names in any case. The zero Header is empty.
type Header struct {
	fields map[string][]string
	lower  bool // keys are lower case (gRPC metadata) and not canonical MIME keys
}

// Get returns the first value of the field name, or "". Where a decision
// hangs on the field, use [Header.Only].
func (h Header) Get(name string) string {
	if v := h.values(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Only returns the value of the field name and true if there is exactly one.
func (h Header) Only(name string) (string, bool) {
	if v := h.values(name); len(v) == 1 {
		return v[0], true
	}
	return "", false
}

// At returns value i of the [Header.Count] values of the field name, without
// the copy that [Header.Values] makes, or "" if there are not so many.
func (h Header) At(name string, i int) string {
	if v := h.values(name); 0 <= i && i < len(v) {
		return v[i]
	}
	return ""
}

// Count returns how many values the field name has.
func (h Header) Count(name string) int { return len(h.values(name)) }

// Values returns a copy of the values of the field name.
func (h Header) Values(name string) []string { return slices.Clone(h.values(name)) }

// Format prints how many fields there are, whatever the verb: values may be
// credentials.
func (h Header) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "%d header fields", len(h.fields)) }

func (h Header) values(name string) []string {
	if h.fields == nil {
		return nil
	}
	if h.lower && len(name) <= 64 { // without allocating
		var buf [64]byte
		lower := buf[:len(name)]
		for i := range lower {
			lower[i] = name[i]
			if c := name[i]; 'A' <= c && c <= 'Z' {
				lower[i] += 'a' - 'A'
			}
		}
		return h.fields[string(lower)]
	}
	return h.fields[h.key(name)]
}

// key returns name as the fields' map spells it.
func (h Header) key(name string) string {
	if h.lower {
		return strings.ToLower(name)
	}
	return textproto.CanonicalMIMEHeaderKey(name)
}

// A Slot holds what a caller sent in a reserved header field, such as
// X-Gatemesh-Identity, in whatever spelling. [Entry] moves these fields off
// the request, so that only a gate that verifies them sees them.
type Slot struct {
	Value string // the value if Count is 1, else ""
	Count int    // how many values were sent
}

// Format prints the count alone, whatever the verb.
func (s Slot) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "%d values", s.Count) }

// Call is one request on its way through the layers, the same for HTTP and
// gRPC. [Entry] makes it, adapters stamp on it what gates learn, and nothing
// else can change it: it has no exported fields. A Call is safe for concurrent
// reading once the chain has admitted it; gates of one call run one after
// another.
//
// Printing a Call shows its method, path, ids and names, and no header,
// query, credential or claim.
type Call struct {
	protocol    Protocol
	outbound    bool
	trusted     bool
	encrypted   bool
	attempt     int32
	scheme      string
	method      string
	host        string
	port        string // of the host, "" if it has none
	path        string
	matchPath   string
	rawQuery    string
	header      Header
	remote      netip.AddrPort
	local       netip.AddrPort
	client      netip.Addr
	sni         string
	requestID   string
	peer        *Peer
	principal   *Principal
	route       *Route
	backend     *WeightedDestination
	service     *Route
	version     *WeightedDestination
	lane        string
	destination Destination
	parent      *Call
	received    time.Time
	deadline    time.Time
	asked       time.Time // when the caller gives up
	until       time.Time
	hop         Hop
	pin         *pin     // the version of all configurations that the call sees
	consumed    []string // what held a credential for us, as in Admission
	names       []string // the reserved fields, by index into slots
	slots       [maxReserved]Slot
}

// Protocol says whether the call is HTTP or gRPC.
func (c *Call) Protocol() Protocol { return c.protocol }

// Scheme returns "https" or "http": from the connection, or from
// X-Forwarded-Proto of a trusted proxy.
func (c *Call) Scheme() string { return c.scheme }

// Encrypted reports whether the connection that the call came on is a TLS
// connection, whatever a proxy says about the one before it.
func (c *Call) Encrypted() bool { return c.encrypted }

// Method returns the upper-case request method. For gRPC it is POST.
func (c *Call) Method() string { return c.method }

// Host returns the canonical host: lower case, no port, no trailing dot, IPv6
// without brackets. It is empty only for HTTP/1.0 without Host.
func (c *Call) Host() string { return c.host }

// Authority returns Host with the port that the caller named, unless that is the
// default one of the scheme. IPv6 stands in brackets. It allocates if there is a
// port.
func (c *Call) Authority() string { return authority("", c) }

// Path returns the escaped canonical path that the handler and the upstream
// get; see [CanonicalPath]. For gRPC it is /package.Service/Method.
func (c *Call) Path() string { return c.path }

// MatchPath returns Path in the form to compare rules with; see [MatchForm].
func (c *Call) MatchPath() string { return c.matchPath }

// RawQuery returns the query as received, without the question mark. It never
// is part of a path match.
func (c *Call) RawQuery() string { return c.rawQuery }

// Header returns the header fields that remain after Entry took off what the
// caller may not send.
func (c *Call) Header() Header { return c.header }

// RemoteAddr returns the other end of the connection.
func (c *Call) RemoteAddr() netip.AddrPort { return c.remote }

// LocalAddr returns our end of the connection, if known.
func (c *Call) LocalAddr() netip.AddrPort { return c.local }

// LocalPort returns the port the call arrived at, or 0.
func (c *Call) LocalPort() uint16 { return c.local.Port() }

// Client returns the address of the client: RemoteAddr, or what trusted
// proxies reported in X-Forwarded-For. IPv4 is never in its IPv6-mapped form.
func (c *Call) Client() netip.Addr { return c.client }

// Trusted reports whether the caller is a trusted proxy or peer of [EntryConfig].
func (c *Call) Trusted() bool { return c.trusted }

// SNI returns the server name of the TLS handshake, or "".
func (c *Call) SNI() string { return c.sni }

// RequestID returns the id that response, upstream and logs share. It is never empty.
func (c *Call) RequestID() string { return c.requestID }

// Peer returns the verified workload at the other end of the connection, or nil.
func (c *Call) Peer() *Peer { return c.peer }

// Principal returns the authenticated user or consumer, or nil.
func (c *Call) Principal() *Principal { return c.principal }

// Route returns what the route table matched, or nil.
func (c *Call) Route() *Route { return c.route }

// Backend returns which of the Route's backends was chosen, or nil.
func (c *Call) Backend() *WeightedDestination { return c.backend }

// ServiceRoute returns the rule of the chosen service that matched, as of a
// [ServiceRouter], or nil. It is the second decision about where the call goes:
// Route is that of the front door.
func (c *Call) ServiceRoute() *Route { return c.service }

// ServiceBackend returns which of the ServiceRoute's backends was chosen, or nil.
func (c *Call) ServiceBackend() *WeightedDestination { return c.version }

// Lane returns the version that a split chose, such as "v2", or "".
func (c *Call) Lane() string { return c.lane }

// Destination returns the service the call is going to, or the zero Destination.
func (c *Call) Destination() Destination { return c.destination }

// Parent returns the inbound call that an outbound call is made for, or nil.
func (c *Call) Parent() *Call { return c.parent }

// Outbound reports whether we make the call, and did not receive it.
func (c *Call) Outbound() bool { return c.outbound }

// Attempt returns 1 for the first try of an outbound call, 2 for the first
// retry, and 0 for inbound calls.
func (c *Call) Attempt() int { return int(c.attempt) }

// Received returns when the call arrived or was started.
func (c *Call) Received() time.Time { return c.received }

// Deadline returns when the call's context ends. It is zero if there is no deadline.
func (c *Call) Deadline() time.Time { return c.deadline }

// Until returns the earliest time at which the consent of a gate ends that
// admitted the call; zero is never. On a stream it may have been renewed since.
func (c *Call) Until() time.Time { return c.until }

// Reserved returns what the caller sent in the reserved header field name. It
// is false if Entry does not reserve that name, in which case a gate that
// relies on it must deny: the field could be anybody's.
func (c *Call) Reserved(name string) (Slot, bool) {
	for i, n := range c.names {
		if strings.EqualFold(n, name) {
			return c.slots[i], true
		}
	}
	return Slot{}, false
}

// Format prints the call without anything secret, whatever the verb.
func (c Call) Format(f fmt.State, _ rune) { // by value, so that copies are covered
	fmt.Fprintf(f, "%s %s %s%s id=%s", c.protocol, c.method, c.host, c.path, c.requestID)
}

type callKey struct{}

// FromContext returns the Call that Entry put into ctx, or nil. Layers that
// find nil must fail closed.
func FromContext(ctx context.Context) *Call {
	if x := exchangeFrom(ctx); x != nil {
		return &x.call
	}
	return nil
}

func exchangeFrom(ctx context.Context) *Exchange {
	x, _ := ctx.Value(callKey{}).(*Exchange)
	return x
}

// CallInfo describes a Call for [NewCall].
type CallInfo struct {
	Protocol    Protocol // default HTTP
	Scheme      string   // default "https"
	Method      string   // default GET, or POST for gRPC
	Host        string
	Path        string // escaped; default "/"
	RawQuery    string
	Header      http.Header
	RemoteAddr  netip.AddrPort
	LocalAddr   netip.AddrPort
	Client      netip.Addr // default: RemoteAddr's
	SNI         string
	RequestID   string            // default: a new one
	Reserved    map[string]string // reserved header fields, one value each
	Peer        *Peer
	Principal   *Principal
	Route       *Route
	Lane        string
	Destination Destination
	Hop         Hop   // what the caller says
	Parent      *Call // makes it an outbound call
}

// NewCall makes a Call that belongs to no connection, for tests, dry runs and
// tools that ask a gate what it would say. Method, host and path go through
// the same canonicaliser as a received request. A handler can never meet such
// a Call: there is no way to put it into a context.
func NewCall(in CallInfo) (*Call, error) {
	c := &Call{
		protocol: in.Protocol, scheme: in.Scheme, method: in.Method, rawQuery: in.RawQuery,
		header: Header{fields: in.Header.Clone()}, remote: in.RemoteAddr, local: in.LocalAddr,
		client: in.Client, sni: in.SNI, requestID: in.RequestID, peer: in.Peer, principal: in.Principal,
		route: in.Route, lane: in.Lane, destination: in.Destination, parent: in.Parent,
		outbound: in.Parent != nil, received: time.Now(), names: []string{IdentityHeader}, hop: in.Hop,
	}
	c.gaveUpIn(in.Hop.Timeout)
	if c.protocol == 0 {
		c.protocol = HTTP
	}
	if c.scheme == "" {
		c.scheme = "https"
	}
	c.encrypted = c.scheme == "https"
	if c.method == "" {
		c.method = "GET"
		if c.protocol == GRPC {
			c.method = "POST"
		}
	}
	if in.Path == "" {
		in.Path = "/"
	}
	if c.outbound {
		c.attempt = 1
	}
	if !c.client.IsValid() {
		c.client = in.RemoteAddr.Addr()
	}
	c.client = c.client.Unmap()
	if c.requestID == "" {
		c.requestID = newRequestID()
	}
	var err error
	if c.path, err = CanonicalPath(in.Path, PathOptions{}); err != nil {
		return nil, err
	}
	c.matchPath = MatchForm(c.path)
	if c.host, c.port, err = CanonicalHost(in.Host); err != nil {
		return nil, err
	}
	if !validMethod(c.method) {
		return nil, errors.New("gatemesh: method must be an upper-case token")
	}
	for name, value := range in.Reserved {
		i := slices.IndexFunc(c.names, func(n string) bool { return strings.EqualFold(n, name) })
		if i < 0 {
			if len(c.names) == maxReserved {
				return nil, fmt.Errorf("gatemesh: more than %d reserved fields", maxReserved)
			}
			i = len(c.names)
			c.names = append(c.names, name)
		}
		c.slots[i] = Slot{Value: value, Count: 1}
	}
	return c, nil
}
