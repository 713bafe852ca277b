package gatemesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Exchange is a call in progress: it runs gates, stamps what they learn, and
// tells them how the call ended. The HTTP adapters of this package and the
// gRPC adapters of grpcmesh are built on it, so that both decide alike.
// Applications do not need it.
//
// Its methods are for the one goroutine that carries the call, except
// [Exchange.Revalidate], [Exchange.Answered] and [Exchange.Finish]. Printing an
// Exchange prints its Call.
type Exchange struct {
	ctx      context.Context // of the caller, without the Call
	derived  context.Context // the latest that a gate made, or nil
	call     Call
	observer Observer
	gates    []Layer

	fields   []Field
	fieldBuf [4]Field
	refused  *Denial // by a gate; the gates are not asked again

	mu        sync.Mutex // guards what follows, up to the blank line
	finishers []finisher
	finBuf    [3]finisher
	denial    *Denial // the latest refusal, for the Outcome
	outcome   Outcome // if finished
	finished  bool
	told      bool // of the answer

	changed  bool  // Entry removed header fields
	next     int32 // the gate to run next
	attempts atomic.Int32
	reached  atomic.Bool
	consents consents
	pin      pin
	out      *outgoing // outbound only

	w  ResponseWriter // inbound HTTP only
	id [1]string      // the response field X-Request-Id
}

type finisher struct {
	layer *Layer
	it    Finisher
}

// callContext is the Exchange as the context of its call, so that the Call
// costs one allocation in all.
type callContext Exchange

func (c *callContext) Deadline() (time.Time, bool) { return c.ctx.Deadline() }
func (c *callContext) Done() <-chan struct{}       { return c.ctx.Done() }
func (c *callContext) Err() error                  { return c.ctx.Err() }
func (c *callContext) Value(key any) any {
	if key == (callKey{}) {
		return (*Exchange)(c)
	}
	return c.ctx.Value(key)
}

// Format prints the context without anything secret, whatever the verb.
func (c *callContext) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "%v.WithCall(%v)", c.ctx, &c.call)
}

// Format prints the call, whatever the verb.
func (x *Exchange) Format(f fmt.State, verb rune) { x.call.Format(f, verb) }

func (x *Exchange) accept(s *entryState, in *Inbound) (err error) {
	defer func() {
		if x.call.requestID == "" {
			x.call.requestID = newRequestID()
		}
	}()
	defer recoverTo(&err) // of EntryConfig's functions
	x.changed, err = s.accept(x.ctx, &x.call, in)
	return err
}

// Context returns the context of the call: the caller's, with the Call in it,
// and what gates have put into it.
func (x *Exchange) Context() context.Context {
	if x.derived != nil {
		return x.derived
	}
	return (*callContext)(x)
}

// Begun says that the response has begun. From here on, the call sees the
// latest configurations; see [Live].
func (x *Exchange) Begun() {
	if x.pin.version.Load() != nil { // else somebody has said so before
		x.pin.version.Store(nil)
	}
}

// Responds says that the response to a received call begins, with an HTTP
// status or 0, and tells the gates that wait for it; see [Answerer]. Only the
// first call has an effect.
func (x *Exchange) Responds(status int) {
	if x.pin.version.Load() == nil {
		return
	}
	x.Begun()
	if !x.Pending() {
		return
	}
	d := x.refusal()
	o := Outcome{Code: CodeOf(status), Status: status, Denial: d}
	switch {
	case d != nil:
		o.Code = d.grpcCode()
	case x.call.protocol == GRPC:
		o.Code, o.Status = OK, 0 // comes at the end
	}
	x.tellAnswered(Attempt{Outcome: o})
}

// Call returns the call.
func (x *Exchange) Call() *Call { return &x.call }

// Admit runs the gates that have not run yet, in order, and returns the context
// for the rest of the call, or the first refusal. After a refusal it returns
// that one again and asks nobody.
func (x *Exchange) Admit(ctx context.Context) (context.Context, *Denial) {
	return x.admit(ctx, len(x.gates))
}

func (x *Exchange) admit(ctx context.Context, upto int) (context.Context, *Denial) {
	for x.refused == nil && int(x.next) < upto {
		ctx, x.refused = x.run(ctx, &x.gates[x.next])
		x.next++
	}
	return ctx, x.refused
}

// AdmitCached runs gates in order for as long as they can decide without
// waiting; see [CachedGate]. [Exchange.Admit] goes on from there.
func (x *Exchange) AdmitCached(ctx context.Context) (context.Context, *Denial) {
	for x.refused == nil && int(x.next) < len(x.gates) {
		l := &x.gates[x.next]
		g, ok := l.Gate.(CachedGate)
		if !ok {
			return ctx, nil
		}
		var adm Admission
		ok, err := x.askCached(ctx, g, &adm)
		if err == nil && !ok {
			return ctx, nil
		}
		ctx, x.refused = x.judge(ctx, l, &adm, err)
		x.next++
	}
	return ctx, x.refused
}

func (x *Exchange) run(ctx context.Context, l *Layer) (context.Context, *Denial) {
	var adm Admission
	err := x.ask(ctx, l.Gate, &adm)
	return x.judge(ctx, l, &adm, err)
}

var errForeignContext = errors.New("gatemesh: the gate returned a context that is not made of the call's")

// judge takes the Admission by its address, as it is large and copies of it
// would be a good part of the stack.
func (x *Exchange) judge(ctx context.Context, l *Layer, adm *Admission, err error) (context.Context, *Denial) {
	if err == nil && adm.Context != nil && exchangeFrom(adm.Context) != x {
		err = errForeignContext
		if adm.Finish != nil { // it may hold something for the call
			adm.Context = nil
			x.keep(l, adm)
		}
	}
	if err != nil {
		return ctx, x.Deny(ctx, l.Name, err)
	}
	if !x.stamp(l, adm) {
		return ctx, errCanceled
	}
	if adm.Context != nil {
		ctx = adm.Context
		x.derived = ctx
		x.call.deadline, _ = ctx.Deadline()
	}
	if x.observer != nil {
		x.admitted(ctx, l)
	}
	return ctx, nil
}

//go:noinline
func (x *Exchange) admitted(ctx context.Context, l *Layer) {
	x.observer.Observe(ctx, Event{Kind: EventAdmitted, Layer: l.Name, Call: &x.call})
}

// errPanic is what a panic of a gate becomes.
type errPanic struct {
	value any
	stack []byte
}

func (e *errPanic) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

func (x *Exchange) ask(ctx context.Context, g Gate, adm *Admission) (err error) {
	defer recoverTo(&err)
	*adm, err = g.Admit(ctx, &x.call)
	return err
}

func (x *Exchange) askCached(ctx context.Context, g CachedGate, adm *Admission) (ok bool, err error) {
	defer recoverTo(&err)
	*adm, ok, err = g.AdmitCached(ctx, &x.call)
	return ok, err
}

func recoverTo(err *error) {
	if v := recover(); v != nil {
		*err = &errPanic{v, debug.Stack()}
	}
}

// stamp puts what a gate learned on the call. It reports false if the call has
// ended, because a middleware returned while it still ran the layers behind it.
func (x *Exchange) stamp(l *Layer, adm *Admission) bool {
	if !x.keep(l, adm) {
		return false
	}
	c := &x.call
	if adm.Principal != nil {
		c.principal = adm.Principal
	}
	if adm.Peer != nil {
		c.peer = adm.Peer
	}
	if adm.Route != nil {
		c.route, c.backend = adm.Route, nil
	}
	if adm.Backend != nil {
		c.backend = adm.Backend
	}
	if adm.ServiceRoute != nil {
		c.service, c.version = adm.ServiceRoute, nil
	}
	if adm.ServiceBackend != nil {
		c.version = adm.ServiceBackend
	}
	if adm.Lane != "" {
		c.lane = adm.Lane
	}
	if adm.Destination != nil {
		c.destination = *adm.Destination
	}
	if c.consumed == nil {
		c.consumed = slices.Clip(adm.Consumed) // the gate's own, never appended to
	} else {
		c.consumed = append(c.consumed, adm.Consumed...)
	}
	if !adm.Until.IsZero() && (c.until.IsZero() || adm.Until.Before(c.until)) {
		c.until = adm.Until
	}
	x.addFields(adm.Header)
	return true
}

// keep notes whom to ask later on and whom to tell about the end. A gate that
// admits a call which has ended is told at once: it may hold a slot for it.
func (x *Exchange) keep(l *Layer, adm *Admission) bool {
	x.mu.Lock()
	ended, o := x.finished, x.outcome
	if !ended && adm.Finish != nil {
		if x.finishers == nil {
			x.finishers = x.finBuf[:0]
		}
		x.finishers = append(x.finishers, finisher{l, adm.Finish})
	}
	x.mu.Unlock()
	if !ended && !adm.Until.IsZero() {
		x.consents.add(consent{l, adm.Until})
	}
	if ended && adm.Finish != nil {
		x.finishOne(finisher{l, adm.Finish}, o)
	}
	return !ended
}

func (x *Exchange) addFields(fields []Field) {
	if len(fields) == 0 {
		return
	}
	if x.fields == nil {
		x.fields = x.fieldBuf[:0]
	}
	x.fields = append(x.fields, fields...)
}

// Deny makes the refusal of layer out of err, keeps it for the Outcome and
// reports it to the Observer.
func (x *Exchange) Deny(ctx context.Context, layer string, err error) *Denial {
	d := AsDenial(ctx, err)
	x.addFields(d.Header)
	x.report(ctx, layer, err, d)
	return d
}

func (x *Exchange) report(ctx context.Context, layer string, err error, d *Denial) {
	x.mu.Lock()
	x.denial = d
	x.mu.Unlock()
	if x.observer != nil {
		var p *errPanic
		if errors.As(err, &p) {
			x.observer.Observe(ctx, Event{Kind: EventPanic, Layer: layer, Call: &x.call, Err: p})
		}
		x.observer.Observe(ctx, Event{Kind: EventDenied, Layer: layer, Call: &x.call, Denial: d})
	}
}

// over reports whether the call has ended.
func (x *Exchange) over() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.finished
}

// refusal returns the latest refusal, or nil.
func (x *Exchange) refusal() *Denial {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.denial
}

// Panicked reports that the handler of the call panicked with v, and returns
// what to answer. It must be called by the deferred function that recovered v,
// whose stack shows where.
func (x *Exchange) Panicked(ctx context.Context, v any) *Denial {
	observe(ctx, x.observer, Event{Kind: EventPanic, Layer: "handler", Call: &x.call, Err: &errPanic{v, debug.Stack()}})
	x.mu.Lock()
	x.denial = errInternal
	x.mu.Unlock()
	return errInternal
}

// Header returns the header fields of an inbound call that Entry left, to be
// read only, and whether it removed any.
func (x *Exchange) Header() (fields map[string][]string, changed bool) {
	return x.call.header.fields, x.changed
}

// Fields returns the header fields that gates want on the response, those of a
// Denial included, or on the request of an outbound call.
func (x *Exchange) Fields() []Field { return x.fields }

// Pending reports whether gates wait to learn how the call ends.
func (x *Exchange) Pending() bool { return len(x.finishers) > 0 }

// Finish tells the gates that asked for it how the call ended, the last one
// first, and before them the Observer of a refusal below the gates of an
// outbound call, as by a pool without endpoints. Only the first call has an
// effect.
func (x *Exchange) Finish(o Outcome) {
	if o.Duration == 0 {
		o.Duration = time.Since(x.call.received)
	}
	o.Attempts, o.Reached = int(x.attempts.Load()), o.Reached || x.reached.Load()
	x.mu.Lock()
	o.Endpoint = x.out.endpoint()
	if x.finished {
		x.mu.Unlock()
		return
	}
	below := o.Denial != nil && x.denial == nil && x.call.outbound && x.attemptOf() == nil
	if o.Denial == nil {
		o.Denial = x.denial
	}
	x.finished, x.outcome = true, o
	x.Begun()     // whoever keeps the Call keeps no old configurations
	x.mu.Unlock() // from here on, nobody appends to finishers
	if below {
		observe(x.Context(), x.observer, Event{Kind: EventDenied, Layer: "transport", Call: &x.call, Denial: o.Denial})
	}
	for i := len(x.finishers) - 1; i >= 0; i-- {
		x.finishOne(x.finishers[i], o)
	}
	if x.attemptOf() == nil { // an attempt ends with its call, or is reported as retried
		observe(x.Context(), x.observer, Event{Kind: EventFinished, Call: &x.call, Outcome: o})
	}
}

func (x *Exchange) finishOne(f finisher, o Outcome) {
	defer x.recoverFinisher(f.layer.Name)
	f.it.Finish(&x.call, o)
}

// recoverFinisher is deferred.
func (x *Exchange) recoverFinisher(name string) {
	if v := recover(); v != nil {
		observe(x.Context(), x.observer, Event{Kind: EventPanic, Layer: name, Call: &x.call, Err: &errPanic{v, debug.Stack()}})
	}
}

// setFields puts the request id and the gates' fields on a response. Fields of
// the same name from several gates stand beside one another; what the handler
// or the upstream wrote under that name goes, but for lists to which everybody adds.
func (x *Exchange) setFields(h http.Header) {
	x.id[0] = x.call.requestID
	h[RequestIDHeader] = x.id[:]
	for i, f := range x.fields {
		first := true
		for _, g := range x.fields[:i] {
			first = first && !strings.EqualFold(g.Name, f.Name)
		}
		if first && !strings.EqualFold(f.Name, "Link") && !strings.EqualFold(f.Name, "Vary") {
			h.Set(f.Name, f.Value)
		} else {
			h.Add(f.Name, f.Value)
		}
	}
}
