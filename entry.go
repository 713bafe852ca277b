package gatemesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Header fields with a meaning of ours.
const (
	// IdentityHeader carries the signed internal identity (package auth/identity).
	IdentityHeader = "X-Gatemesh-Identity"
	// RequestIDHeader carries the request id to responses and upstreams.
	RequestIDHeader = "X-Request-Id"
)

const maxReserved = 4

// EntryConfig configures an [Entry]. The zero EntryConfig is valid: nobody is
// trusted and no peer is known.
type EntryConfig struct {
	// Peer verifies who is at the other end of a TLS connection. It returns
	// nil without error for a connection without a client certificate; an
	// error refuses the call, as the [*Denial] that it is or with 401. Default:
	// no call has a Peer.
	Peer func(*tls.ConnectionState) (*Peer, error)
	// TrustedProxies are the networks of proxies that overwrite
	// X-Forwarded-For and X-Request-Id on every request. Behind any other
	// address these fields are a client's invention and are dropped. Default: none.
	TrustedProxies []netip.Prefix
	// TrustPeer reports whether a verified workload is trusted like a proxy,
	// to say who the client is and what it asked for. Inside a mesh, the edge
	// is, and nobody else. Default: no peer is.
	TrustPeer func(*Peer) bool
	// TrustRequestID reports whether the request id of a verified workload is
	// kept; nothing else that it says is believed for it. Inside a mesh,
	// [AnyPeer] keeps one id through the call tree. Default: no peer's is, but
	// that of TrustPeer.
	TrustRequestID func(*Peer) bool
	// ExposeRequestID puts the request id into the field X-Request-Id that the
	// handler sees, for code that reads it there, such as middleware that would
	// invent another one. It costs a copy of the header map for calls that came
	// without one, or with one that is not kept.
	ExposeRequestID bool
	// Reserved are header fields to move off the request into [Call.Reserved]
	// besides [IdentityHeader]; at most three. Host, Connection and X-Request-Id
	// cannot be: Entry itself reads them.
	Reserved []string
	// KeepEncodedSlash keeps %2F in paths as data instead of refusing it.
	KeepEncodedSlash bool
	// KeepPathParameters keeps ";" and %3B in paths as data instead of
	// refusing them; see [PathOptions] for what that lets through.
	KeepPathParameters bool
	// KeepUnderscores keeps HTTP header fields whose name contains an
	// underscore. By default they are dropped, as nginx does, because many
	// servers cannot tell X_Role from X-Role, which is the one that is judged.
	// gRPC metadata keeps them either way.
	KeepUnderscores bool
	// AllowAbsoluteForm accepts absolute-form request targets (RFC 9112
	// §3.2.2). By default they are refused, because net/http discards the Host
	// field that came with them, so that a conflict cannot be seen.
	AllowAbsoluteForm bool
	// Observer receives denials, ends of calls and panics. Default: nobody.
	Observer Observer
}

// AnyPeer trusts every verified peer. It is meant for
// [EntryConfig.TrustRequestID]. As TrustPeer, it would let every workload
// choose the client address that limits and policies see.
func AnyPeer(*Peer) bool { return true }

// Entry is the first layer of every chain. It turns a received request into a
// [Call]: one canonical method, host and path, or a 400; reserved header fields
// moved into slots in every spelling that folds to their name; forwarding
// fields dropped from callers that are not trusted; client address and request
// id. Requests are changed by copy.
//
// Method override fields (X-HTTP-Method-Override and its like) are dropped
// from everybody, because the method that is judged is the method that is
// forwarded; fields that the Connection field nominates are dropped here, so
// that no decision hangs on a field that the next hop will not see.
type Entry struct {
	state Live[entryState]
}

type entryState struct {
	EntryConfig
	names   []string // reserved names, [IdentityHeader] first
	special map[string]fieldAction
	// shapes are the lengths that special names have, one bit each, by first
	// byte as received: most fields are let through at a glance.
	shapes [256]uint64
}

// NewEntry returns an Entry. It reports every invalid field at once.
func NewEntry(cfg EntryConfig) (*Entry, error) {
	e := &Entry{}
	if err := e.Update(cfg); err != nil {
		return nil, err
	}
	return e, nil
}

// Update replaces the configuration for the calls that start from now on. If
// cfg is invalid, the old one stays.
func (e *Entry) Update(cfg EntryConfig) error { return Apply(e.Change(cfg)) }

// Change is [Entry.Update] as a part of [Apply].
func (e *Entry) Change(cfg EntryConfig) Change {
	return NewChange(&e.state, func(*entryState) (*entryState, error) { return newEntryState(cfg) }, nil)
}

func newEntryState(cfg EntryConfig) (*entryState, error) {
	s := &entryState{EntryConfig: cfg, names: []string{IdentityHeader}, special: map[string]fieldAction{}}
	s.add(fieldUntrusted, untrustedFields...)
	s.add(fieldDrop, overrideFields...)
	s.add(fieldHost, "host")
	s.add(fieldConnection, "connection")
	s.add(fieldRequestID, RequestIDHeader)
	s.add(fieldHop, HopHeader)
	var errs []error
	s.TrustedProxies = append([]netip.Prefix(nil), cfg.TrustedProxies...)
	for i, p := range s.TrustedProxies {
		if !p.IsValid() {
			errs = append(errs, fmt.Errorf("gatemesh: EntryConfig.TrustedProxies[%d] is not a valid prefix", i))
		}
	}
	for _, name := range cfg.Reserved {
		switch {
		case !validFieldName(name):
			errs = append(errs, fmt.Errorf("gatemesh: EntryConfig.Reserved: %q is not a header name of at most 64 letters, digits and hyphens", name))
		case s.classify(name) >= fieldHost:
			errs = append(errs, fmt.Errorf("gatemesh: EntryConfig.Reserved: %s is read by Entry itself", name))
		case !slices.ContainsFunc(s.names, func(n string) bool { return strings.EqualFold(n, name) }):
			s.names = append(s.names, name)
		}
	}
	if len(s.names) > maxReserved {
		errs = append(errs, fmt.Errorf("gatemesh: EntryConfig.Reserved has more than %d names", maxReserved-1))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i, name := range s.names {
		s.add(fieldReserved+fieldAction(i), name)
	}
	for _, p := range append(untrustedPrefixes, "x-gatemesh-") {
		for n := len(p); n < 64; n++ {
			s.shape(p[0], n)
		}
	}
	return s, nil
}

// begin returns the Exchange of a call that begins now, and the configuration
// that it sees.
func (e *Entry) begin(ctx context.Context, gates []Layer) (*Exchange, *entryState) {
	x := &Exchange{ctx: ctx, gates: gates}
	x.pin.version.Store(latest.Load())
	x.call.pin = &x.pin
	s := e.state.For(&x.call)
	x.observer = s.Observer
	return x, s
}

// Inbound is a received request before anything in it is believed, for
// adapters of other transports than net/http; see [Chain.Start].
type Inbound struct {
	Protocol Protocol
	// Method, Authority, Path (escaped) and RawQuery are as received.
	Method, Authority, Path, RawQuery string
	// Header is not changed. With LowerCase its keys are lower case, as in
	// gRPC metadata, else canonical MIME keys.
	Header     map[string][]string
	LowerCase  bool
	RemoteAddr netip.AddrPort
	LocalAddr  netip.AddrPort
	TLS        *tls.ConnectionState // nil for plain text

	absoluteForm bool
}

// Public denials of Entry, one for each reason, so that refusing costs nothing.
var (
	denyMethod   = Deny(InvalidArgument, "method_malformed", "The method must be an upper-case token.")
	denyHost     = Deny(InvalidArgument, "host_malformed", "The host is malformed.")
	denyHostTwo  = Deny(InvalidArgument, "host_conflict", "The request names two different hosts.")
	denyAbsolute = Deny(InvalidArgument, "absolute_form", "Absolute-form request targets are not accepted.")
	denyQuery    = Deny(InvalidArgument, "query_malformed", "The query contains a byte that must be escaped.")
	denyPeer     = Deny(Unauthenticated, "peer_invalid", "The client certificate is not acceptable.")
	denyPath     = map[error]*Denial{
		ErrPathForm:      pathDenial("path_form", ErrPathForm),
		ErrPathByte:      pathDenial("path_byte", ErrPathByte),
		ErrPathEscape:    pathDenial("path_escape", ErrPathEscape),
		ErrPathControl:   pathDenial("path_control", ErrPathControl),
		ErrPathEncoding:  pathDenial("path_encoding", ErrPathEncoding),
		ErrPathSeparator: pathDenial("path_separator", ErrPathSeparator),
		ErrPathEmpty:     pathDenial("path_empty_segment", ErrPathEmpty),
		ErrPathDot:       pathDenial("path_dot_segment", ErrPathDot),
		ErrPathParameter: pathDenial("path_parameter", ErrPathParameter),
	}
)

func pathDenial(reason string, err error) *Denial {
	return Deny(InvalidArgument, reason, "The "+err.Error()+".")
}

// accept fills c from in and reports whether header fields had to go, in which
// case c.header is a copy. On error, c is filled as far as the log needs it.
func (s *entryState) accept(ctx context.Context, c *Call, in *Inbound) (changed bool, err error) {
	c.protocol, c.method, c.rawQuery = in.Protocol, in.Method, in.RawQuery
	c.remote, c.local, c.names = in.RemoteAddr, in.LocalAddr, s.names
	c.received = time.Now()
	c.deadline, _ = ctx.Deadline()
	c.client = in.RemoteAddr.Addr().Unmap()
	c.scheme = "http"
	var peerErr error
	if in.TLS != nil {
		c.scheme, c.sni, c.encrypted = "https", in.TLS.ServerName, true
		if s.Peer != nil {
			if c.peer, peerErr = s.Peer(in.TLS); peerErr != nil {
				c.peer = nil
			}
		}
	}
	c.trusted = s.trusts(c.client) || c.peer != nil && s.TrustPeer != nil && s.TrustPeer(c.peer)
	keepID := c.trusted || c.peer != nil && s.TrustRequestID != nil && s.TrustRequestID(c.peer)

	var hop Slot
	header, changed, hostErr := s.takeHeader(c, in, keepID, &hop)
	c.header = Header{fields: header, lower: in.LowerCase}
	s.hearHop(ctx, c, in, &hop)
	if c.trusted {
		s.believe(c)
	}
	if c.requestID == "" {
		c.requestID = newRequestID()
		if s.ExposeRequestID {
			if !changed {
				header, changed = maps.Clone(header), true
			}
			if header == nil {
				header = make(map[string][]string, 1)
			}
			header[c.header.key(RequestIDHeader)] = []string{c.requestID}
			c.header.fields = header
		}
	}
	switch {
	case peerErr != nil:
		return changed, peerDenial(peerErr)
	case !validMethod(in.Method):
		c.method = "INVALID"
		return changed, denyMethod
	case in.absoluteForm && !s.AllowAbsoluteForm:
		return changed, denyAbsolute
	case strings.IndexByte(in.RawQuery, '#') >= 0:
		return changed, denyQuery
	}
	if c.path, err = CanonicalPath(in.Path, PathOptions{KeepEncodedSlash: s.KeepEncodedSlash, KeepPathParameters: s.KeepPathParameters}); err != nil {
		if in.Path != "*" || in.Method != "OPTIONS" {
			return changed, denyPath[err]
		}
		c.path = "*" // RFC 9112 §3.2.4
	}
	c.matchPath = MatchForm(c.path)
	if c.host, c.port, err = CanonicalHost(in.Authority); err != nil {
		return changed, denyHost.WithCause(err)
	}
	return changed, hostErr
}

// peerDenial is what EntryConfig.Peer says, if it is a Denial: it may have to
// close the connection that the certificate belongs to.
func peerDenial(err error) *Denial {
	var d *Denial
	if errors.As(err, &d) {
		return d
	}
	return denyPeer.WithCause(err)
}
