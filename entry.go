package gatemesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
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
	// TrustPeer reports whether a verified workload is trusted like a proxy;
	// inside a mesh, [AnyPeer] keeps one request id through the call tree.
	// Default: no peer is.
	TrustPeer func(*Peer) bool
	// Reserved are header fields to move off the request into [Call.Reserved]
	// besides [IdentityHeader]; at most three. Host, Connection and X-Request-Id
	// cannot be: Entry itself reads them.
	Reserved []string
	// KeepEncodedSlash keeps %2F in paths as data instead of refusing it.
	KeepEncodedSlash bool
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

// AnyPeer trusts every verified peer. It is meant for [EntryConfig.TrustPeer]
// of services that only their own mesh can reach.
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
	state atomic.Pointer[entryState]
}

type entryState struct {
	EntryConfig
	names   []string // reserved names, [IdentityHeader] first
	special map[string]fieldAction
	// shapes are the lengths that special names have, one bit each, by first
	// byte as received: most fields are let through at a glance.
	shapes [256]uint64
}

type fieldAction int8

const (
	fieldKeep      fieldAction = iota
	fieldDrop                  // from everybody
	fieldUntrusted             // drop from callers that are not trusted
	fieldHost
	fieldConnection
	fieldRequestID
	fieldReserved // fieldReserved+i goes to slot i
)

// untrustedFields are claims about the client or the original request that
// only a trusted proxy may make.
var untrustedFields = []string{
	"forwarded", "forwarded-for", "x-forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip",
	"cf-connecting-ip", "fastly-client-ip", "client-ip", "x-original-url", "x-original-uri", "x-original-host",
	"x-rewrite-url", "x-host", "x-http-host-override", "x-proxyuser-ip",
}

// untrustedPrefixes are families of such claims.
var untrustedPrefixes = []string{"x-forwarded-", "x-envoy-", "x-original-", "x-rewrite-"}

// overrideFields ask a server to act on another method than the one judged.
var overrideFields = []string{"x-http-method-override", "x-http-method", "x-method-override"}

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
func (e *Entry) Update(cfg EntryConfig) error {
	s := &entryState{EntryConfig: cfg, names: []string{IdentityHeader}, special: map[string]fieldAction{}}
	s.add(fieldUntrusted, untrustedFields...)
	s.add(fieldDrop, overrideFields...)
	s.add(fieldHost, "host")
	s.add(fieldConnection, "connection")
	s.add(fieldRequestID, RequestIDHeader)
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
		return err
	}
	for i, name := range s.names {
		s.add(fieldReserved+fieldAction(i), name)
	}
	for _, p := range append(untrustedPrefixes, "x-gatemesh-") {
		for n := len(p); n < 64; n++ {
			s.shape(p[0], n)
		}
	}
	e.state.Store(s)
	return nil
}

func (s *entryState) add(a fieldAction, names ...string) {
	for _, name := range names {
		var buf [64]byte
		folded := string(foldName(buf[:], name))
		s.special[folded] = a
		s.shape(folded[0], len(folded))
	}
}

// shape notes that names of length n that begin with the lower-case letter c
// may be special. 63 stands for all that are longer.
func (s *entryState) shape(c byte, n int) {
	bit := uint64(1) << min(n, 63)
	s.shapes[c] |= bit
	s.shapes[c-'a'+'A'] |= bit
}

func validFieldName(name string) bool {
	return name != "" && len(name) <= 64 && name[0] != '-' &&
		strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// classify says what to do with a header field.
func (s *entryState) classify(name string) fieldAction {
	if name == "" || s.shapes[name[0]]>>min(len(name), 63)&1 == 0 {
		return fieldKeep
	}
	var buf [64]byte
	folded := foldName(buf[:], name)
	if folded == nil { // longer than any single name, but a prefix may match
		folded = foldName(buf[:], name[:len(buf)])
	} else if a, ok := s.special[string(folded)]; ok {
		return a
	}
	if strings.HasPrefix(string(folded), "x-gatemesh-") {
		return fieldDrop
	}
	for _, p := range untrustedPrefixes {
		if strings.HasPrefix(string(folded), p) {
			return fieldUntrusted
		}
	}
	return fieldKeep
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
		c.scheme, c.sni = "https", in.TLS.ServerName
		if s.Peer != nil {
			if c.peer, peerErr = s.Peer(in.TLS); peerErr != nil {
				c.peer = nil
			}
		}
	}
	c.trusted = s.trusts(c.client) || c.peer != nil && s.TrustPeer != nil && s.TrustPeer(c.peer)

	header, changed, hostErr := s.takeHeader(c, in)
	c.header = Header{fields: header, lower: in.LowerCase}
	if c.trusted {
		s.believe(c)
	}
	if c.requestID == "" {
		c.requestID = newRequestID()
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
	if c.path, err = CanonicalPath(in.Path, PathOptions{KeepEncodedSlash: s.KeepEncodedSlash}); err != nil {
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

func (s *entryState) trusts(a netip.Addr) bool {
	for _, p := range s.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// takeHeader removes from the header what this caller may not send, copying it
// on the first write, and fills the slots of c.
func (s *entryState) takeHeader(c *Call, in *Inbound) (header map[string][]string, copied bool, err error) {
	header = in.Header
	drop := func(name string) {
		if !copied {
			header, copied = maps.Clone(in.Header), true
		}
		delete(header, name)
	}
	for name, values := range in.Header {
		switch a := s.classify(name); a {
		case fieldKeep:
			if !s.KeepUnderscores && !in.LowerCase && strings.IndexByte(name, '_') >= 0 {
				drop(name)
			}
		case fieldUntrusted:
			if !c.trusted || !validFieldName(name) { // of these, nobody needs odd spellings
				drop(name)
			}
		case fieldDrop:
			drop(name)
		case fieldHost:
			// HTTP/2 keeps a host field beside :authority (RFC 9113 §8.3.1).
			for _, v := range values {
				if !sameHost(v, in.Authority) {
					err = denyHostTwo
				}
			}
			drop(name)
		case fieldConnection:
			for _, v := range values {
				s.dropNominated(in, v, drop)
			}
		case fieldRequestID:
			if c.trusted && len(values) == 1 && validRequestID(values[0]) && validFieldName(name) {
				c.requestID = values[0]
			} else {
				drop(name)
			}
		default:
			slot := &c.slots[a-fieldReserved]
			slot.Count += len(values)
			slot.Value = ""
			if slot.Count == 1 && len(values) == 1 {
				slot.Value = values[0]
			}
			drop(name)
		}
	}
	return header, copied, err
}

// dropNominated drops the fields that a Connection value names. They end at
// this hop (RFC 9110 §7.6.1). The names that steer the connection itself stay
// for the proxy behind us.
func (s *entryState) dropNominated(in *Inbound, value string, drop func(string)) {
	for token := range strings.SplitSeq(value, ",") {
		token = strings.TrimSpace(token)
		switch strings.ToLower(token) {
		case "", "close", "keep-alive", "upgrade", "te", "trailer", "transfer-encoding", "http2-settings", "connection", "host":
			continue
		}
		name := Header{lower: in.LowerCase}.key(token)
		if _, sent := in.Header[name]; sent {
			drop(name)
		}
	}
}

func sameHost(a, b string) bool {
	an, ap, aerr := CanonicalHost(a)
	bn, bp, berr := CanonicalHost(b)
	return aerr == nil && berr == nil && an == bn && ap == bp
}

// believe reads what a trusted caller says about the client.
func (s *entryState) believe(c *Call) {
	if proto, ok := c.header.Only("X-Forwarded-Proto"); ok && (proto == "https" || proto == "http") {
		c.scheme = proto
	}
	// Right to left over all lines: every trusted hop appended the address it
	// saw. The first one that is no proxy of ours is the client; whatever
	// stands left of it, or of an element we cannot read, may be invented.
	lines := c.header.values("X-Forwarded-For")
	for i := len(lines) - 1; i >= 0; i-- {
		for line := lines[i]; ; {
			comma := strings.LastIndexByte(line, ',')
			addr, ok := forwardedAddr(line[comma+1:])
			if !ok {
				return
			}
			c.client = addr
			if !s.trusts(addr) {
				return
			}
			if comma < 0 {
				break
			}
			line = line[:comma]
		}
	}
}

// forwardedAddr reads an element of X-Forwarded-For: an address, with or
// without port and brackets.
func forwardedAddr(s string) (netip.Addr, bool) {
	s = strings.Trim(s, " \t")
	if a, err := netip.ParseAddr(s); err == nil {
		return a.WithZone("").Unmap(), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().WithZone("").Unmap(), true
	}
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		if a, err := netip.ParseAddr(s[1 : len(s)-1]); err == nil {
			return a.WithZone("").Unmap(), true
		}
	}
	return netip.Addr{}, false
}

func validRequestID(id string) bool {
	return len(id) >= 1 && len(id) <= 128 &&
		strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// newRequestID returns 128 random bits. The generator is ChaCha8 seeded by the
// system: ids do not collide or follow from one another, but are no secrets.
func newRequestID() string {
	const digits = "0123456789abcdef"
	var b [32]byte
	for half := range 2 {
		n := rand.Uint64()
		for i := range 16 {
			b[half*16+i] = digits[n&15]
			n >>= 4
		}
	}
	return string(b[:])
}
