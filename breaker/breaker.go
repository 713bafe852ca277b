package breaker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Config configures a [Breaker]. The zero Config is invalid: Name is required.
type Config struct {
	// Name is what events call the dependency, such as "redis". Required, and
	// it cannot change.
	Name string
	// Policy says when the breaker opens and for how long. Default: after 5
	// failures in a row.
	Policy
	// Observer hears when the breaker opens (EventFault) and closes
	// (EventNotice). Probes that fail in between are not reported. Default:
	// nobody.
	Observer gatemesh.Observer
}

// Breaker keeps calls away from one dependency while it is down. It is safe for
// concurrent use, has no goroutines and needs no closing. The zero Breaker
// refuses everything; use [New]. For outbound calls of the mesh, use [Gate].
//
// An open breaker fails closed: it returns an Unavailable [*gatemesh.Denial]
// with reason "circuit_open" and Retry-After, at once.
type Breaker struct {
	state gatemesh.Live[Config]
	c     *circuit // nil for the zero Breaker
}

// New returns a closed Breaker. It reports every invalid field at once.
func New(cfg Config) (*Breaker, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	b := &Breaker{c: newCircuit(cfg.Name, &cfg.Policy)}
	return b, b.Update(cfg)
}

func (cfg Config) complete() (Config, error) {
	var f faults
	if cfg.Name == "" {
		f.add("Config.Name is required")
	}
	cfg.Policy = cfg.Policy.inARow().withDefaults()
	cfg.Policy.validate(&f)
	return cfg, f.err()
}

// Update replaces the configuration. If cfg is invalid, the old one stays. The
// breaker keeps its state; an open one keeps the delay under way. Failures are
// counted anew if it is about them that the Policy changed.
func (b *Breaker) Update(cfg Config) error { return gatemesh.Apply(b.Change(cfg)) }

// Change is [Breaker.Update] as a part of [gatemesh.Apply].
func (b *Breaker) Change(cfg Config) gatemesh.Change {
	build := func(old *Config) (*Config, error) {
		if b.c == nil {
			return nil, errors.New("breaker: the Breaker was not made by New")
		}
		now, err := cfg.complete()
		if err == nil && old != nil && now.Name != old.Name {
			err = errors.New("breaker: Config.Name cannot change")
		}
		return &now, err
	}
	return gatemesh.NewChange(&b.state, build, func(_, _ *Config) {
		b.c.adopt(b.state.Latest().trips()) // another Update may have come in between
	})
}

var errUnset = gatemesh.Deny(gatemesh.Internal, "internal", "The request could not be processed.").
	WithCause(errors.New("breaker: not made by New"))

var errOpen = gatemesh.Deny(gatemesh.Unavailable, "circuit_open", "The service is not available; try again later.")

// Acquire asks whether a call may be made now. If so, its outcome has to be
// recorded on the Permit. ctx is for the Observer alone.
func (b *Breaker) Acquire(ctx context.Context) (*Permit, error) {
	cfg := b.state.Latest()
	if cfg == nil {
		return nil, errUnset
	}
	t, wait, ok := b.c.acquire(&cfg.Policy, 0)
	if !ok {
		return nil, errOpen.WithRetryAfter(wait)
	}
	return &Permit{b: b, ctx: ctx, cfg: cfg, ticket: t}, nil
}

// Do calls fn unless the breaker is open. An error of fn is a failure of the
// dependency; a [*gatemesh.Denial] only if its code says so, and then its
// Retry-After counts. A panic is a failure and goes on. That the caller
// cancelled ctx says nothing; of its deadline see [Policy.Patience]. Limits of
// the dependency's own belong into fn.
func (b *Breaker) Do(ctx context.Context, fn func(context.Context) error) error {
	p, err := b.Acquire(ctx)
	if err != nil {
		return err
	}
	defer p.Close() // after a panic
	began := time.Now()
	err = fn(ctx)
	v, after := judgeError(ctx, err, time.Since(began), p.cfg.Patience)
	p.record(v, after)
	return err
}

// State returns what the breaker does with calls. It stays Open when the delay
// is over until a call comes.
func (b *Breaker) State() State {
	if b.c == nil {
		return Open
	}
	return b.c.state()
}

// Remaining returns for how long calls will be refused: 0 if the next one is let
// through.
func (b *Breaker) Remaining() time.Duration {
	if b.c == nil {
		return maxDelay
	}
	return b.c.remaining()
}

// Format prints the name and the state, whatever the verb.
func (b *Breaker) Format(f fmt.State, _ rune) {
	if b == nil || b.c == nil {
		fmt.Fprint(f, "unset breaker")
		return
	}
	fmt.Fprintf(f, "breaker %s (%s)", b.c.name, b.c.state())
}

// Permit is a call that a Breaker let through. Exactly one outcome counts, the
// first. Defer its Close, so that none is missing. It is safe for concurrent
// use.
type Permit struct {
	b      *Breaker
	ctx    context.Context
	cfg    *Config
	ticket ticket
	done   atomic.Bool
}

// Success records that the dependency did its work.
func (p *Permit) Success() { p.record(success, 0) }

// Failure records that it did not, and for how long it asked to be left alone,
// such as with Retry-After; 0 if it did not.
func (p *Permit) Failure(retryAfter time.Duration) { p.record(failure, retryAfter) }

// Neutral records that the call says nothing, as one that the caller gave up.
// The next call may be the probe in place of this one.
func (p *Permit) Neutral() { p.record(neutral, 0) }

// Close records a failure if nothing else was recorded, as after a panic.
func (p *Permit) Close() { p.record(failure, 0) }

func (p *Permit) record(v verdict, after time.Duration) {
	if p.done.Swap(true) {
		return
	}
	if now, changed := p.b.c.settle(p.ticket, v, after, &p.cfg.Policy, 0); changed {
		report(p.ctx, p.cfg.Observer, p.b.c, p.ticket, now, nil)
	}
}

// report tells o of a change. A probe that failed leaves the breaker as it was.
func report(ctx context.Context, o gatemesh.Observer, c *circuit, t ticket, now State, call *gatemesh.Call) {
	if o == nil || t.probe != 0 && now == Open {
		return
	}
	e := gatemesh.Event{Kind: gatemesh.EventNotice, Layer: "breaker", Call: call, Message: "breaker of " + c.name + " closed"}
	if now == Open {
		e.Kind, e.Message = gatemesh.EventFault, "breaker of "+c.name+" opened; calls are refused"
	}
	o.Observe(ctx, e)
}
