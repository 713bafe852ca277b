package routing

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

var denyTimeout = gatemesh.Deny(gatemesh.DeadlineExceeded, "timeout", "The service took too long to answer.")

// bracketed returns the outbound layers between the two that enforce what the
// route of a call says: the first once a call, the last for each attempt.
func (r *Router) bracketed(layers []gatemesh.Layer) []gatemesh.Layer {
	first := gatemesh.Layer{Name: "route", Gate: gatemesh.GateFunc(r.enter)}
	last := gatemesh.Layer{Name: "attempt", Gate: gatemesh.GateFunc(attempt)}
	return slices.Concat([]gatemesh.Layer{first}, layers, []gatemesh.Layer{last})
}

// enter stamps the outbound call of a dispatch with what its routes say of it
// together, bounds it by their timeout and makes it fail as they want.
func (r *Router) enter(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	d := dispatchFrom(ctx)
	if d.copied != nil {
		return gatemesh.Admission{Route: d.copied}, nil
	}
	adm := gatemesh.Admission{Route: together(d.call.Route(), d.call.ServiceRoute())}
	d.limited = adm.Route != nil && (adm.Route.Timeout > 0 || adm.Route.AttemptTimeout > 0)
	err := r.limit(ctx, c, &adm, &d.stages)
	return adm, err
}

// limit bounds c by the timeout of the route in adm and runs the faults of s.
func (r *Router) limit(caller context.Context, c *gatemesh.Call, adm *gatemesh.Admission, s *stages) error {
	ctx := caller
	if adm.Route != nil && adm.Route.Timeout > 0 {
		adm.Context, adm.Finish = bounded(ctx, c, adm.Route.Timeout)
		ctx = adm.Context
	}
	for _, f := range s.all[:s.n] {
		if f.fault == nil {
			continue
		}
		if err := f.fault.inject(ctx, r, c); err != nil {
			if adm.Finish != nil { // a refusal has nobody who does it later
				adm.Finish.Finish(c, gatemesh.Outcome{})
			}
			if timedOut(caller, err) {
				return denyTimeout
			}
			return err
		}
	}
	return nil
}

// attempt bounds an attempt.
func attempt(ctx context.Context, c *gatemesh.Call) (adm gatemesh.Admission, _ error) {
	if r := c.Route(); r != nil && r.AttemptTimeout > 0 {
		adm.Context, adm.Finish = bounded(ctx, c, r.AttemptTimeout)
	}
	return adm, nil
}

// bounded returns a context that ends in d, and what releases it. A connection
// that is upgraded in time may then live for ever.
func bounded(ctx context.Context, c *gatemesh.Call, d time.Duration) (context.Context, gatemesh.Finisher) {
	if c.Header().Count("Upgrade") == 0 {
		ctx, cancel := context.WithTimeout(ctx, d)
		return ctx, release(cancel)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &handshake{time.AfterFunc(d, func() { cancel(context.DeadlineExceeded) }), cancel}
}

type release context.CancelFunc

func (r release) Finish(*gatemesh.Call, gatemesh.Outcome) { r() }

// handshake is an upgrade under way.
type handshake struct {
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func (h *handshake) Answered(_ *gatemesh.Call, a gatemesh.Attempt) {
	if a.Status == 101 {
		h.timer.Stop()
	}
}

func (h *handshake) Finish(*gatemesh.Call, gatemesh.Outcome) {
	h.timer.Stop()
	h.cancel(nil)
}

// timedOut reports whether err, which ended a round trip, is a timeout of ours:
// the one that the caller came with has not passed.
func timedOut(ctx context.Context, err error) bool {
	return ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded)
}

// together returns what two routes say of a call: the shorter timeouts, and the
// Retry of the service's rule, if it has one.
func together(front, service *gatemesh.Route) *gatemesh.Route {
	switch {
	case service == nil:
		return front
	case front == nil:
		return service
	case shorter(front.Timeout, service.Timeout) == front.Timeout &&
		shorter(front.AttemptTimeout, service.AttemptTimeout) == front.AttemptTimeout &&
		(service.Retry == nil || service.Retry == front.Retry):
		return front
	}
	// What is kept is bounded by the number of routes that tables have made; who
	// makes one for each call has it made anew.
	kept, ok := service.Rule.(*rule)
	if _, ours := front.Rule.(*rule); !ok || !ours {
		return merge(front, service)
	}
	return kept.merged.of(front, service)
}

// merged are the routes that calls have come by to the rule of a service,
// merged with it.
type merged struct{ routes sync.Map }

func (m *merged) of(front, service *gatemesh.Route) *gatemesh.Route {
	if r, ok := m.routes.Load(front); ok {
		return r.(*gatemesh.Route)
	}
	r, _ := m.routes.LoadOrStore(front, merge(front, service))
	return r.(*gatemesh.Route)
}

func merge(front, service *gatemesh.Route) *gatemesh.Route {
	r := *front
	r.Timeout = shorter(front.Timeout, service.Timeout)
	r.AttemptTimeout = shorter(front.AttemptTimeout, service.AttemptTimeout)
	if service.Retry != nil {
		r.Retry = service.Retry
	}
	return &r
}

// shorter returns the shorter of two bounds, of which 0 is none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
