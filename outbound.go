package gatemesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// OutboundConfig configures an [Outbound].
type OutboundConfig struct {
	// Mesh says which destination of ours a host (with its port, as in the
	// URL) stands for. Required. For other hosts it reports false: calls to
	// them pass without identity and request id, also when a redirect leads
	// there. A redirect from one host into the mesh, or from one service of it
	// to another, is refused. It is not asked about the scheme: what a base
	// sends in plain text, identities included, anybody on the way can read.
	// The transport of package mtls refuses such requests. See [MeshHosts].
	Mesh func(ctx context.Context, host string) (Destination, bool)
	// Layers judge calls to the mesh. The first listed sees a call first; the
	// order is checked as by [NewChain]. The fields of their Admissions go onto
	// the request. One layer may be a Retry: those before it judge the call
	// once, those behind it every attempt.
	Layers []Layer
	// Observer receives denials, retries and ends of calls. Default: nobody.
	Observer Observer
}

// MeshHosts returns an [OutboundConfig.Mesh] that looks hosts up in a copy of
// m, first as "name:port", then as "name".
func MeshHosts(m map[string]Destination) func(context.Context, string) (Destination, bool) {
	m = maps.Clone(m)
	return func(_ context.Context, host string) (Destination, bool) {
		return lookupHost(m, host)
	}
}

// Outbound is the counterpart of a [Chain] for the calls that a service makes.
// It gives each a Call of its own whose Parent is the inbound call in the
// context, judges it, and sends request id and the gates' fields along. Fields
// that carry an identity and that it did not create itself are removed,
// wherever the call goes. It is immutable; what its layers do can be changed by
// their own Update methods.
type Outbound struct {
	cfg     OutboundConfig
	call    []Layer // asked once
	attempt []Layer // asked for each attempt, if there is a Retrier
	retry   Retrier // or nil
	retries string  // its name
}

// NewOutbound returns an Outbound. It reports every invalid field at once, and
// an order of layers in which one would not find what it needs.
func NewOutbound(cfg OutboundConfig) (*Outbound, error) {
	var errs []error
	if cfg.Mesh == nil {
		errs = append(errs, errors.New("gatemesh: OutboundConfig.Mesh is required"))
	}
	cfg.Layers = slices.Clone(cfg.Layers)
	o := &Outbound{cfg: cfg, call: cfg.Layers}
	for i, l := range cfg.Layers {
		errs = append(errs, checkLayer("outbound", i, cfg.Layers))
		switch {
		case l.Handler != nil:
			errs = append(errs, fmt.Errorf("gatemesh: outbound: %q wraps handlers and belongs into a Chain", l.Name))
		case l.Retry == nil:
		case o.retry != nil:
			errs = append(errs, fmt.Errorf("gatemesh: outbound: %q and %q would both retry, which multiplies attempts", o.retries, l.Name))
		default:
			o.retry, o.retries = l.Retry, l.Name
			o.call, o.attempt = cfg.Layers[:i:i], cfg.Layers[i+1:]
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return o, nil
}

// OutboundRequest is a request about to be sent, for adapters of other
// transports than net/http.
type OutboundRequest struct {
	Protocol                                  Protocol
	Scheme, Method, Authority, RawQuery, Path string // Path is escaped
	Header                                    map[string][]string
	LowerCase                                 bool // as in [Inbound]
	Redirected                                bool // another host chose where the request goes
	Once                                      bool // cannot be sent again, as a stream
	Lone                                      bool // two attempts cannot run at the same time
}

// outgoing is what an Exchange of an outbound call has beyond a received one's.
type outgoing struct {
	by      *Outbound
	of      *Exchange // the call that this is an attempt of; nil for the call itself
	tries   int
	once    bool
	lone    bool
	asked   int      // how often the Retrier was
	went    []string // endpoints, oldest first; guarded by Exchange.mu
	wentBuf [2]string
	hop     [1]string // the field X-Gatemesh-Hop
}

// outboundExchange is both in one allocation.
type outboundExchange struct {
	Exchange
	outgoing outgoing
}

func newOutboundExchange(by *Outbound) *Exchange {
	x := new(outboundExchange)
	x.out = &x.outgoing
	x.out.by = by
	return &x.Exchange
}

// attemptOf returns the outbound call that x is an attempt of, or nil.
func (x *Exchange) attemptOf() *Exchange {
	if x.out == nil {
		return nil
	}
	return x.out.of
}

func (o *outgoing) endpoint() string {
	if o == nil || len(o.went) == 0 {
		return ""
	}
	return o.went[len(o.went)-1]
}

// Start makes the Call of a request and asks the gates that judge it once;
// [Exchange.Attempt] follows. It returns nil for a request that does not go to
// the mesh: such a request is sent without what [CarriesIdentity].
func (o *Outbound) Start(ctx context.Context, in OutboundRequest) (*Exchange, *Denial) {
	dest, ok := o.cfg.Mesh(ctx, in.Authority)
	if !ok {
		return nil, nil
	}
	x := newOutboundExchange(o)
	x.ctx, x.observer, x.gates = ctx, o.cfg.Observer, o.call
	x.out.once, x.out.lone = in.Once, in.Lone
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
	if parent := x.inbound(); parent != nil {
		c.parent, c.requestID, c.lane = &parent.call, parent.call.requestID, parent.call.lane
		x.pin.version.Store(parent.pin.version.Load())
	} else {
		c.requestID = newRequestID()
	}
	// One version for this call in any case: also if that of the parent ends in
	// the meantime, or has ended.
	if c.pin = &x.pin; x.pin.version.Load() == nil {
		x.pin.version.Store(latest.Load())
	}
	if in.Redirected {
		return x, x.Deny(x.Context(), "outbound", denyRedirect)
	}
	_, d := x.Admit(x.Context())
	return x, d
}

// inbound returns the received call that an outbound one is made for, or nil.
func (x *Exchange) inbound() *Exchange {
	p := exchangeFrom(x.ctx)
	for p != nil && p.call.outbound {
		p = exchangeFrom(p.ctx)
	}
	return p
}

// caller returns the context that the application made an outbound call with.
func (x *Exchange) caller() context.Context {
	if of := x.attemptOf(); of != nil {
		return of.ctx
	}
	return x.ctx
}

// Answered records that the callee answered an outbound call or attempt, and
// tells the gates of that one. A call is answered when the answer of an attempt
// is to stand.
func (x *Exchange) Answered(a Attempt) {
	x.tellAnswered(a)
	for p := x; p != nil; p = exchangeFrom(p.ctx) {
		p.reached.Store(true)
		if !p.call.outbound {
			return
		}
		if x.attemptOf() == nil && p.call.pin == &p.pin { // an attempt's answer may be given up
			p.Begun()
		}
	}
}

func (x *Exchange) tellAnswered(a Attempt) {
	x.mu.Lock()
	told, finishers := x.told || x.finished, x.finishers
	x.told = true
	x.mu.Unlock()
	if told {
		return
	}
	a.Duration = time.Since(x.call.received)
	for i := len(finishers) - 1; i >= 0; i-- {
		if f, ok := finishers[i].it.(Answerer); ok {
			x.tellOne(finishers[i].layer.Name, f, a)
		}
	}
}

func (x *Exchange) tellOne(name string, f Answerer, a Attempt) {
	defer x.recoverFinisher(name)
	f.Answered(&x.call, a)
}

// RecordEndpoint notes on the outbound call that ctx belongs to at which
// address the attempt under way asks. Balancers call it; [TriedEndpoint] and
// [Outcome] tell. It has no effect on other contexts.
func RecordEndpoint(ctx context.Context, addr string) {
	x := exchangeFrom(ctx)
	if x == nil || !x.call.outbound {
		return
	}
	for ; x != nil; x = x.attemptOf() {
		x.mu.Lock()
		if x.out.went == nil {
			x.out.went = x.out.wentBuf[:0]
		}
		if len(x.out.went) < maxEndpoints {
			x.out.went = append(x.out.went, addr)
		}
		x.mu.Unlock()
	}
}

const maxEndpoints = 16

// TriedEndpoint reports whether an earlier attempt of the outbound call that
// ctx belongs to asked at addr, so that another one can look elsewhere.
func TriedEndpoint(ctx context.Context, addr string) bool {
	x := exchangeFrom(ctx)
	if x == nil || x.attemptOf() == nil || x.call.attempt < 2 {
		return false
	}
	of := x.out.of
	of.mu.Lock()
	defer of.mu.Unlock()
	return slices.Contains(of.out.went, addr)
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

// ForeignHeader returns h, the fields of a request that does not go to the mesh,
// without those that carry an identity and without the credential of the call
// in ctx, and whether there were any. It copies h only then.
func ForeignHeader(ctx context.Context, h map[string][]string) (fields map[string][]string, changed bool) {
	x := exchangeFrom(ctx)
	for name, values := range h {
		left := values
		switch {
		case CarriesIdentity(name):
			left = nil
		case x != nil:
			if left = x.unconsumed(name, values); left != nil {
				left = x.left(name, left)
			}
		}
		if len(left) == len(values) && (len(left) == 0 || &left[0] == &values[0]) {
			continue
		}
		if !changed {
			h, changed = maps.Clone(h), true
		}
		if left == nil {
			delete(h, name)
		} else {
			h[name] = left
		}
	}
	return h, changed
}

// OutgoingHeader returns the header fields to send with an outbound call: those
// of the request without identities that are not ours, and what the call
// carries. The caller owns the map, and not its values.
func (x *Exchange) OutgoingHeader() map[string][]string {
	h := x.call.header
	out := make(map[string][]string, len(h.fields)+2+len(x.fields))
	for name, values := range h.fields {
		if CarriesIdentity(name) || strings.EqualFold(name, RequestIDHeader) {
			continue
		}
		if left := x.left(name, values); left != nil || values == nil {
			out[name] = slices.Clip(left) // whoever appends gets a copy
		}
	}
	x.id[0] = x.call.requestID
	out[h.key(RequestIDHeader)] = x.id[:]
	x.hopFields(out)
	for _, f := range x.fields {
		if f.Value == "" {
			delete(out, h.key(f.Name))
		} else {
			out[h.key(f.Name)] = []string{f.Value}
		}
	}
	return out
}
