package gatemesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// OutboundConfig configures an [Outbound].
type OutboundConfig struct {
	// Mesh says which destination of ours a host (with its port, as in the
	// URL) stands for. Required. For other hosts it reports false: calls to
	// them pass unchanged, without identity and request id, also when a
	// redirect leads there. A redirect from one host into the mesh, or from one
	// service of it to another, is refused. See [MeshHosts].
	Mesh func(ctx context.Context, host string) (Destination, bool)
	// Gates judge calls to the mesh, in order. The fields of their Admissions
	// go onto the request. Only Name and Gate of a Layer are used here.
	Gates []Layer
	// Observer receives denials and ends of calls. Default: nobody.
	Observer Observer
}

// MeshHosts returns an [OutboundConfig.Mesh] that looks hosts up in a copy of
// m, first as "name:port", then as "name".
func MeshHosts(m map[string]Destination) func(context.Context, string) (Destination, bool) {
	m = maps.Clone(m)
	return func(_ context.Context, host string) (Destination, bool) {
		name, port, err := CanonicalHost(host)
		if err != nil {
			return Destination{}, false
		}
		d, ok := m[name+":"+port]
		if !ok {
			d, ok = m[name]
		}
		return d, ok
	}
}

// Outbound is the counterpart of a [Chain] for the calls that a service makes.
// It gives each a Call of its own whose Parent is the inbound call in the
// context, judges it, and sends request id and the gates' fields along. Fields
// that carry an identity and that it did not create itself are removed.
type Outbound struct{ cfg OutboundConfig }

// NewOutbound returns an Outbound. It reports every invalid field at once.
func NewOutbound(cfg OutboundConfig) (*Outbound, error) {
	var errs []error
	if cfg.Mesh == nil {
		errs = append(errs, errors.New("gatemesh: OutboundConfig.Mesh is required"))
	}
	cfg.Gates = slices.Clone(cfg.Gates)
	for i, l := range cfg.Gates {
		if l.Gate == nil || l.Name == "" {
			errs = append(errs, fmt.Errorf("gatemesh: OutboundConfig.Gates[%d] needs a Name and a Gate", i))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Outbound{cfg: cfg}, nil
}

// OutboundRequest is a request about to be sent, for adapters of other
// transports than net/http.
type OutboundRequest struct {
	Protocol                                  Protocol
	Scheme, Method, Authority, RawQuery, Path string // Path is escaped
	Header                                    map[string][]string
	LowerCase                                 bool // as in [Inbound]
	Redirected                                bool // another host chose where the request goes
}

// Start makes the Call of a request and asks the gates. It returns nil for a
// request that does not go to the mesh.
func (o *Outbound) Start(ctx context.Context, in OutboundRequest) (*Exchange, *Denial) {
	dest, ok := o.cfg.Mesh(ctx, in.Authority)
	if !ok {
		return nil, nil
	}
	x := &Exchange{ctx: ctx, observer: o.cfg.Observer, gates: o.cfg.Gates}
	c := &x.call
	c.outbound, c.attempt, c.received, c.destination = true, 1, time.Now(), dest
	c.protocol, c.scheme, c.method, c.rawQuery = in.Protocol, in.Scheme, in.Method, in.RawQuery
	c.header = Header{fields: in.Header, lower: in.LowerCase}
	c.deadline, _ = ctx.Deadline()
	if c.path, _ = CanonicalPath(in.Path, PathOptions{KeepEncodedSlash: true, KeepPathParameters: true}); c.path == "" {
		c.path = in.Path // the callee will judge it
	}
	c.matchPath = MatchForm(c.path)
	c.host, _, _ = CanonicalHost(in.Authority)
	parent := exchangeFrom(ctx)
	for parent != nil && parent.call.outbound {
		parent = exchangeFrom(parent.ctx)
	}
	if parent != nil {
		parent.tried()
		c.parent, c.requestID, c.lane = &parent.call, parent.call.requestID, parent.call.lane
	} else {
		c.requestID = newRequestID()
	}
	if in.Redirected {
		return x, x.Deny(x.Context(), "outbound", denyRedirect)
	}
	return x, x.Admit(x.Context())
}

// Answered records that the callee answered an outbound call.
func (x *Exchange) Answered() {
	x.reached.Store(true)
	if p := exchangeFrom(x.ctx); p != nil {
		p.reached.Store(true)
	}
}

// withheld reports whether a field of an outbound request is the credential
// that a call which led to it was authenticated with, in this chain or in one
// around it. It is for us and for nobody behind us. A field of that name with
// other values is the application's own.
func (x *Exchange) withheld(name string, values []string) bool {
	for p := exchangeFrom(x.ctx); p != nil; p = exchangeFrom(p.ctx) {
		if !slices.ContainsFunc(p.call.consumed, func(n string) bool { return strings.EqualFold(n, name) }) {
			continue
		}
		received := p.call.header.values(name)
		if slices.ContainsFunc(values, func(v string) bool { return slices.Contains(received, v) }) {
			return true
		}
	}
	return false
}

// CarriesIdentity reports whether a header field or metadata key belongs to
// this library and may reach an upstream only if the library wrote it.
func CarriesIdentity(name string) bool {
	if len(name) < len("x-gatemesh-") || name[0]|0x20 != 'x' {
		return false
	}
	var buf [len("x-gatemesh-")]byte
	return string(foldName(buf[:], name[:len(buf)])) == "x-gatemesh-"
}

// denyRedirect is for redirects into the mesh. Who answers one of our calls
// must not be able to send our certificate and the user's identity on to a
// third service, which allows us what it would refuse them.
var denyRedirect = Deny(PermissionDenied, "redirect_into_mesh", "A redirect to another service of the mesh is not followed.")

// redirected reports whether net/http made r to follow a redirect of another
// host. A callee may still redirect to itself.
func redirected(r *http.Request) bool {
	return r.Response != nil && (r.Response.Request == nil || r.Response.Request.URL.Host != r.URL.Host || r.Response.Request.URL.Scheme != r.URL.Scheme)
}

// Transport returns base behind o. A nil base is [http.DefaultTransport]. A
// refused call returns the [*Denial] as its error. Requests are not modified.
func (o *Outbound) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{out: o, base: base}
}

type transport struct {
	out  *Outbound
	base http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	in := OutboundRequest{
		Protocol: HTTP, Scheme: r.URL.Scheme, Method: r.Method, Authority: r.URL.Host,
		Path: r.URL.EscapedPath(), RawQuery: r.URL.RawQuery, Header: r.Header,
	}
	if in.Method == "" {
		in.Method = http.MethodGet
	}
	if in.Path == "" {
		in.Path = "/"
	}
	if in.Method == http.MethodPost && isGRPC(r.Header.Get("Content-Type")) { // a client's request has no version yet
		in.Protocol = GRPC
	}
	in.Redirected = redirected(r)
	x, d := t.out.Start(r.Context(), in)
	if x == nil {
		return t.base.RoundTrip(r)
	}
	if d != nil {
		if r.Body != nil {
			_ = r.Body.Close() // the contract of RoundTripper; its error changes nothing
		}
		x.Finish(Outcome{Code: d.grpcCode()})
		return nil, d
	}
	r2 := r.WithContext(x.Context())
	r2.Header = x.OutgoingHeader()
	returned := false
	defer func() {
		if !returned {
			x.Finish(Outcome{Code: Internal, Panicked: true})
		}
	}()
	resp, err := t.base.RoundTrip(r2)
	returned = true
	if err != nil || resp == nil { // net/http makes an error of the latter
		code := AsDenial(r.Context(), err).Code
		if code == Internal {
			code = Unavailable
		}
		x.Finish(Outcome{Code: code, Canceled: code == Canceled})
		return nil, err
	}
	x.Answered()
	switch {
	case resp.Body == nil:
		x.Finish(Outcome{Code: CodeOf(resp.StatusCode), Status: resp.StatusCode})
	case x.Pending() || x.observer != nil:
		resp.Body = watch(x, resp)
	}
	return resp, nil
}

// OutgoingHeader returns the header fields to send with an outbound call: those
// of the request without identities that are not ours, and what the call
// carries. The caller owns the map, and not its values.
func (x *Exchange) OutgoingHeader() map[string][]string {
	h := x.call.header
	out := make(map[string][]string, len(h.fields)+1+len(x.fields))
	for name, values := range h.fields {
		if !CarriesIdentity(name) && !strings.EqualFold(name, RequestIDHeader) && !x.withheld(name, values) {
			out[name] = slices.Clip(values) // whoever appends gets a copy
		}
	}
	x.id[0] = x.call.requestID
	out[h.key(RequestIDHeader)] = x.id[:]
	for _, f := range x.fields {
		out[h.key(f.Name)] = []string{f.Value}
	}
	return out
}

// watchedBody tells the gates of an outbound call when its response ends.
type watchedBody struct {
	io.ReadCloser
	x      *Exchange
	status int
	mu     sync.Mutex // Close may come from another goroutine than Read
	bytes  int64
	done   bool
}

func watch(x *Exchange, resp *http.Response) io.ReadCloser {
	b := &watchedBody{ReadCloser: resp.Body, x: x, status: resp.StatusCode}
	w, ok := resp.Body.(io.Writer)
	if !ok {
		return b
	}
	conn := watchedConn{b, w} // an upgraded connection
	if half, ok := resp.Body.(halfCloser); ok {
		return &watchedHalf{conn, half}
	}
	return &conn
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	b.bytes += int64(n)
	b.mu.Unlock()
	if err != nil {
		b.end(err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil)
	return err
}

// end finishes the call: err is io.EOF at the end of the body, nil if the
// caller closed it before, and otherwise what broke it.
func (b *watchedBody) end(err error) {
	b.mu.Lock()
	done, n := b.done, b.bytes
	b.done = true
	b.mu.Unlock()
	if done {
		return
	}
	o := Outcome{Code: CodeOf(b.status), Status: b.status, Bytes: n}
	eof := errors.Is(err, io.EOF)
	if err != nil && !eof {
		o.Truncated, o.Code = true, Unavailable
	}
	if o.Canceled = !eof && b.x.ctx.Err() == context.Canceled; o.Canceled {
		o.Code = Canceled
	}
	b.x.Finish(o)
}

type watchedConn struct {
	*watchedBody
	io.Writer
}

type watchedHalf struct {
	watchedConn
	halfCloser
}
