package gatemesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
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
// [Exchange.Revalidate], [Exchange.Reached] and [Exchange.Finish].
type Exchange struct {
	ctx      context.Context // of the caller, without the Call
	call     Call
	observer Observer
	gates    []Layer
	next     int // the gate to run next

	finishers []named[Finisher]
	finBuf    [4]named[Finisher]
	fields    []Field
	fieldBuf  [4]Field

	mu       sync.Mutex // guards consents after the call was admitted
	consents []consent
	until    atomic.Int64 // earliest end of a consent in Unix ns; 0 is never

	denial   *Denial
	attempts atomic.Int32
	reached  atomic.Bool
	finished atomic.Bool

	w  ResponseWriter // inbound HTTP only
	id [1]string      // the response field X-Request-Id
}

type named[T any] struct {
	name string
	it   T
}

type consent struct {
	layer string
	gate  Gate
	until time.Time
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

// Context returns the caller's context with the Call in it.
func (x *Exchange) Context() context.Context { return (*callContext)(x) }

// Call returns the call.
func (x *Exchange) Call() *Call { return &x.call }

// Admit runs the gates that have not run yet, in order, and returns the first
// refusal.
func (x *Exchange) Admit(ctx context.Context) *Denial { return x.admit(ctx, len(x.gates)) }

func (x *Exchange) admit(ctx context.Context, upto int) *Denial {
	for x.next < upto {
		l := &x.gates[x.next]
		if d := x.run(ctx, l); d != nil {
			return d
		}
		x.next++
	}
	return nil
}

// AdmitCached runs gates in order for as long as they can decide without
// waiting; see [CachedGate]. [Exchange.Admit] goes on from there.
func (x *Exchange) AdmitCached(ctx context.Context) *Denial {
	for x.next < len(x.gates) {
		l := &x.gates[x.next]
		g, ok := l.Gate.(CachedGate)
		if !ok {
			return nil
		}
		adm, ok, err := x.askCached(ctx, g)
		if err != nil {
			return x.Deny(ctx, l.Name, err)
		}
		if !ok {
			return nil
		}
		x.stamp(l, adm)
		x.next++
	}
	return nil
}

func (x *Exchange) run(ctx context.Context, l *Layer) *Denial {
	adm, err := x.ask(ctx, l.Gate)
	if err != nil {
		return x.Deny(ctx, l.Name, err)
	}
	x.stamp(l, adm)
	return nil
}

// errPanic is what a panic of a gate becomes.
type errPanic struct {
	value any
	stack []byte
}

func (e *errPanic) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

func (x *Exchange) ask(ctx context.Context, g Gate) (adm Admission, err error) {
	defer recoverTo(&err)
	return g.Admit(ctx, &x.call)
}

func (x *Exchange) askCached(ctx context.Context, g CachedGate) (adm Admission, ok bool, err error) {
	defer recoverTo(&err)
	return g.AdmitCached(ctx, &x.call)
}

func recoverTo(err *error) {
	if v := recover(); v != nil {
		*err = &errPanic{v, debug.Stack()}
	}
}

func (x *Exchange) stamp(l *Layer, adm Admission) {
	c := &x.call
	if adm.Principal != nil {
		c.principal = adm.Principal
	}
	if adm.Peer != nil {
		c.peer = adm.Peer
	}
	if adm.Route != nil {
		c.route = adm.Route
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
	x.addFields(adm.Header)
	if adm.Finish != nil {
		if x.finishers == nil {
			x.finishers = x.finBuf[:0]
		}
		x.finishers = append(x.finishers, named[Finisher]{l.Name, adm.Finish})
	}
	if !adm.Until.IsZero() {
		x.consents = append(x.consents, consent{l.Name, l.Gate, adm.Until})
		if n := adm.Until.UnixNano(); x.until.Load() == 0 || n < x.until.Load() {
			x.until.Store(n)
		}
	}
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
	x.denial = d
	x.addFields(d.Header)
	if x.observer != nil {
		var p *errPanic
		if errors.As(err, &p) {
			x.observer.Observe(ctx, Event{Kind: EventPanic, Layer: layer, Call: &x.call, Err: p})
		}
		x.observer.Observe(ctx, Event{Kind: EventDenied, Layer: layer, Call: &x.call, Denial: d})
	}
	return d
}

// Fields returns the header fields that gates want on the response, those of a
// Denial included, or on the request of an outbound call.
func (x *Exchange) Fields() []Field { return x.fields }

// Pending reports whether gates wait to learn how the call ends.
func (x *Exchange) Pending() bool { return len(x.finishers) > 0 }

// errEnded is for gates that gave a consent with an end and cannot renew it.
var errEnded = Deny(Unauthenticated, "consent_ended", "The credential ended while the stream was open.")

// Expired reports whether a consent has ended at now, so that
// [Exchange.Revalidate] must be asked before the stream goes on.
func (x *Exchange) Expired(now time.Time) bool {
	u := x.until.Load()
	return u != 0 && now.UnixNano() >= u
}

// Bounded reports whether some consent has an end.
func (x *Exchange) Bounded() bool { return x.until.Load() != 0 }

// Revalidate asks the gates whose consent has ended at now to renew it. It is
// safe for concurrent use.
func (x *Exchange) Revalidate(ctx context.Context, now time.Time) *Denial {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := 0; i < len(x.consents); i++ {
		c := &x.consents[i]
		if c.until.IsZero() || now.Before(c.until) {
			continue
		}
		r, ok := c.gate.(Revalidator)
		if !ok {
			return x.Deny(ctx, c.layer, errEnded)
		}
		until, err := x.renew(ctx, r)
		if err == nil && !until.IsZero() && !now.Before(until) {
			err = errEnded
		}
		if err != nil {
			return x.Deny(ctx, c.layer, err)
		}
		c.until = until
	}
	earliest := int64(0)
	for _, c := range x.consents {
		if n := c.until.UnixNano(); !c.until.IsZero() && (earliest == 0 || n < earliest) {
			earliest = n
		}
	}
	x.until.Store(earliest)
	return nil
}

func (x *Exchange) renew(ctx context.Context, r Revalidator) (until time.Time, err error) {
	defer recoverTo(&err)
	return r.Revalidate(ctx, &x.call)
}

// tried counts an outbound attempt made for the call.
func (x *Exchange) tried() { x.attempts.Add(1) }

// Finish tells the gates that asked for it how the call ended, the last one
// first. Only the first call has an effect.
func (x *Exchange) Finish(o Outcome) {
	if !x.finished.CompareAndSwap(false, true) {
		return
	}
	if o.Duration == 0 {
		o.Duration = time.Since(x.call.received)
	}
	if o.Denial == nil {
		o.Denial = x.denial
	}
	o.Attempts, o.Reached = int(x.attempts.Load()), o.Reached || x.reached.Load()
	for i := len(x.finishers) - 1; i >= 0; i-- {
		x.finishOne(x.finishers[i], o)
	}
	observe(x.Context(), x.observer, Event{Kind: EventFinished, Call: &x.call, Outcome: o})
}

func (x *Exchange) finishOne(f named[Finisher], o Outcome) {
	defer func() {
		if v := recover(); v != nil {
			observe(x.Context(), x.observer, Event{Kind: EventPanic, Layer: f.name, Call: &x.call, Err: &errPanic{v, debug.Stack()}})
		}
	}()
	f.it.Finish(&x.call, o)
}

// setFields puts the request id and the gates' fields on a response. Fields of
// the same name from several gates stand beside one another; what the handler
// or the upstream wrote under that name goes.
func (x *Exchange) setFields(h http.Header) {
	x.id[0] = x.call.requestID
	h[RequestIDHeader] = x.id[:]
	for i, f := range x.fields {
		first := true
		for _, g := range x.fields[:i] {
			first = first && g.Name != f.Name
		}
		if first {
			h.Set(f.Name, f.Value)
		} else {
			h.Add(f.Name, f.Value)
		}
	}
}
