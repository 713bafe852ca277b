package breaker

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// GateConfig configures a [Gate]. The zero GateConfig is all defaults.
type GateConfig struct {
	// Policy says when the breaker of a destination opens and for how long.
	// Default: when half of at least 20 calls within 10 seconds failed.
	Policy
	// Statuses are the answers to HTTP calls that count as failures, 500 to 599.
	// Default: 502, 503 and 504, which are about the callee. What else it
	// answers may well be about the request, and whoever knows a request that is
	// answered with 500 should not be able to open the breaker with it.
	Statuses []int
	// Codes are the same for gRPC calls. Default: Unavailable.
	Codes []gatemesh.Code
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
// Failures of a callee are: no answer, or none within the time of a [Deadline],
// an answer that breaks off, [GateConfig.Statuses] and [GateConfig.Codes]. A
// caller that went away, its own deadline (see [Policy.Patience]), and a refusal
// on this side, as by another gate or a pool without endpoints, say nothing.
// Everything else is an answer.
//
// One caller must not be able to take a destination away from others. So of the
// calls that are made for one unauthenticated client, by its address (see
// [gatemesh.ClientNetwork]), no more failures count than a quarter of those that
// open the breaker (Failures, or FailureRate of MinCalls), at least one; and after
// its probe has failed, others have a Delay to make the next. A breaker that two
// failures open is open to one client. Of callers with a principal or
// a peer, and of the application's own calls, all count: a caller that makes
// most of a destination's calls can open its breaker, if it knows requests to
// which that gives no answer. A rate limit for each consumer bounds that.
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
	cfg.Policy = cfg.Policy.byRate().withDefaults()
	cfg.Policy.validate(&f)
	cfg.Statuses, cfg.Codes = slices.Clone(cfg.Statuses), slices.Clone(cfg.Codes)
	if len(cfg.Statuses) == 0 {
		cfg.Statuses = unavailableStatuses()
	}
	if len(cfg.Codes) == 0 {
		cfg.Codes = []gatemesh.Code{gatemesh.Unavailable}
	}
	for _, s := range cfg.Statuses {
		between(&f, "GateConfig.Statuses", s, 500, 599)
	}
	checkCodes(&f, "GateConfig.Codes", cfg.Codes)
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
	var from uint64
	if circuit.state() != Closed {
		from = stranger(c)
	}
	t, wait, ok := circuit.acquire(&cfg.Policy, from)
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

// CircuitStats is what a [Gate] did with the calls to a destination.
type CircuitStats struct {
	State State
	// Refused is how many calls the breaker refused, and Opened how often it
	// opened, since the destination is known.
	Refused, Opened uint64
	Remaining       time.Duration // for which calls will be refused
}

// Stats returns what to show on pages and in metrics.
func (g *Gate) Stats() map[gatemesh.Destination]CircuitStats {
	if g.circuits == nil {
		return nil
	}
	all := g.circuits.all()
	stats := make(map[gatemesh.Destination]CircuitStats, len(all))
	for d, c := range all {
		stats[d] = CircuitStats{c.state(), c.refused.Load(), c.opened.Load(), c.remaining()}
	}
	return stats
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
	switch v := p.cfg.judge(c, &a.Outcome); {
	case v == failure:
		p.settle(c, v, retryAfterOf(a.Header))
	case v == success && p.ticket.probe != 0:
		p.settle(c, v, 0)
	}
}

// Finish records how the attempt ended.
func (p *pass) Finish(c *gatemesh.Call, o gatemesh.Outcome) {
	p.settle(c, p.cfg.judge(c, &o), 0)
}

func (p *pass) settle(c *gatemesh.Call, v verdict, after time.Duration) {
	if p.done.Swap(true) {
		return
	}
	var from uint64
	if v == failure {
		from = stranger(c)
	}
	if now, changed := p.circuit.settle(p.ticket, v, after, &p.cfg.Policy, from); changed {
		report(context.Background(), p.cfg.Observer, p.circuit, p.ticket, now, c)
	}
}
