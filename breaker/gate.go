package breaker

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// GateConfig configures a [Gate]. The zero GateConfig is all defaults.
type GateConfig struct {
	// Policy says when the breaker of a destination opens and for how long.
	Policy
	// MaxDestinations bounds how many breakers there are. A further destination
	// takes the place of one whose breaker is closed, if possible of one without
	// calls of late. If all are open, its calls pass without a breaker, and the
	// Observer hears of it. 1 to 65,536. Default: 1,024.
	MaxDestinations int
	// Observer hears when a breaker opens (EventFault) and closes
	// (EventNotice). Probes that fail in between are not reported. Default:
	// nobody.
	Observer gatemesh.Observer
}

// Gate is an outbound gate with a [Breaker] for each [gatemesh.Destination]:
// what one does never concerns another. It is safe for concurrent use and needs
// no closing. The zero Gate refuses every call; use [NewGate].
//
// Failures of a callee are: no answer, HTTP 5xx but 501 and 505, the codes
// Unavailable, Internal, Unknown, DeadlineExceeded and DataLoss, and an answer
// that breaks off. A caller that went away, a deadline of the caller below
// [Policy.Patience], and a refusal by another gate say nothing. Everything else
// is an answer, 4xx included.
//
// A probe has succeeded when the callee begins to answer: a stream may go on
// for ever.
type Gate struct {
	state    gatemesh.Live[GateConfig]
	circuits *table[circuit] // nil for the zero Gate
	warned   atomic.Int64    // Unix seconds of the last report that the table is full
}

var _ gatemesh.Gate = (*Gate)(nil)

// NewGate returns a Gate without breakers; each is made at the first call. It
// reports every invalid field at once.
func NewGate(cfg GateConfig) (*Gate, error) {
	g := &Gate{circuits: newTable[circuit]()}
	if err := g.Update(cfg); err != nil {
		return nil, err
	}
	return g, nil
}

func (cfg GateConfig) complete() (*GateConfig, error) {
	var f faults
	if cfg.MaxDestinations == 0 {
		cfg.MaxDestinations = 1024
	}
	between(&f, "GateConfig.MaxDestinations", cfg.MaxDestinations, 1, 1<<16)
	cfg.Policy = cfg.Policy.withDefaults()
	cfg.Policy.validate(&f)
	return &cfg, f.err()
}

// Update replaces the configuration for the calls that come from now on. If
// cfg is invalid, the old one stays. Breakers keep their state; failures are
// counted anew if it is about them that the Policy changed.
func (g *Gate) Update(cfg GateConfig) error { return gatemesh.Apply(g.Change(cfg)) }

// Change is [Gate.Update] as a part of [gatemesh.Apply].
func (g *Gate) Change(cfg GateConfig) gatemesh.Change {
	build := func(*GateConfig) (*GateConfig, error) {
		if g.circuits == nil {
			return nil, errors.New("breaker: the Gate was not made by NewGate")
		}
		return cfg.complete()
	}
	return gatemesh.NewChange(&g.state, build, func(_, _ *GateConfig) {
		// Another Update may have come in between.
		g.circuits.each(func(c *circuit) { c.adopt(g.state.Latest().trips()) })
	})
}

// Layer returns the gate as a layer of a [gatemesh.Outbound], named "breaker".
func (g *Gate) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name: "breaker", Gate: g, Gives: []gatemesh.Fact{gatemesh.FactBreaker},
		After: []gatemesh.Fact{gatemesh.FactSpan, gatemesh.FactDeadline, gatemesh.FactAttempt},
	}
}

// Admit refuses c with Unavailable, reason "circuit_open" and Retry-After, if
// the breaker of its destination is open.
func (g *Gate) Admit(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	cfg := g.state.For(c)
	if cfg == nil {
		return gatemesh.Admission{}, errUnset
	}
	circuit := g.circuits.all()[c.Destination()]
	if circuit == nil {
		if circuit = g.open(c.Destination(), cfg.MaxDestinations); circuit == nil {
			g.reportFull(ctx, cfg)
			return gatemesh.Admission{}, nil
		}
	}
	if !circuit.used.Load() { // a store would take the line from the other cores
		circuit.used.Store(true)
	}
	t, wait, ok := circuit.acquire(&cfg.Policy)
	if !ok {
		return gatemesh.Admission{}, errOpen.WithRetryAfter(wait)
	}
	return gatemesh.Admission{Finish: &pass{cfg: cfg, circuit: circuit, ticket: t}}, nil
}

func (g *Gate) open(d gatemesh.Destination, limit int) *circuit {
	return g.circuits.get(d, limit, func() *circuit {
		return newCircuit(d.String(), &g.state.Latest().Policy)
	}, func(c *circuit) bool { return c.state() == Closed && !c.used.Swap(false) })
}

// reportFull tells the Observer, at most once a minute.
func (g *Gate) reportFull(ctx context.Context, cfg *GateConfig) {
	last, now := g.warned.Load(), time.Now().Unix()
	if cfg.Observer == nil || now-last < 60 || !g.warned.CompareAndSwap(last, now) {
		return
	}
	cfg.Observer.Observe(ctx, gatemesh.Event{
		Kind: gatemesh.EventFault, Layer: "breaker",
		Message: "breakers of MaxDestinations are open; calls to further destinations pass without one",
	})
}

// State returns the state of the breaker of d. It is Closed for a destination
// that was never called.
func (g *Gate) State(d gatemesh.Destination) State {
	if g.circuits == nil {
		return Open
	}
	if c := g.circuits.all()[d]; c != nil {
		return c.state()
	}
	return Closed
}

// States returns the states of all breakers, for metrics and admin pages.
func (g *Gate) States() map[gatemesh.Destination]State {
	if g.circuits == nil {
		return nil
	}
	all := g.circuits.all()
	states := make(map[gatemesh.Destination]State, len(all))
	for d, c := range all {
		states[d] = c.state()
	}
	return states
}

// pass is an attempt that was let through.
type pass struct {
	cfg     *GateConfig
	circuit *circuit
	ticket  ticket
	done    atomic.Bool
}

var _ gatemesh.Answerer = (*pass)(nil)

// Answered records what the header decides: failures, with what the callee
// asks for, and the success of a probe. Other answers may still break off.
func (p *pass) Answered(c *gatemesh.Call, a gatemesh.Attempt) {
	switch v := judge(&a.Outcome, p.cfg.Patience); {
	case v == failure:
		p.settle(c, v, retryAfterOf(a.Header))
	case v == success && p.ticket.probe != 0:
		p.settle(c, v, 0)
	}
}

// Finish records how the attempt ended.
func (p *pass) Finish(c *gatemesh.Call, o gatemesh.Outcome) {
	p.settle(c, judge(&o, p.cfg.Patience), 0)
}

func (p *pass) settle(c *gatemesh.Call, v verdict, after time.Duration) {
	if p.done.Swap(true) {
		return
	}
	if now, changed := p.circuit.settle(p.ticket, v, after, &p.cfg.Policy); changed {
		report(context.Background(), p.cfg.Observer, p.circuit, p.ticket, now, c)
	}
}
