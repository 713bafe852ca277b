package breaker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// State says what a breaker does with calls.
type State uint8

// The states of a breaker.
const (
	Closed   State = iota // lets all calls through
	Open                  // refuses calls
	HalfOpen              // a probe is under way, other calls are refused
)

// String returns "closed", "open" or "half-open".
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half-open"
	}
	return "unknown"
}

// verdict is what a call says about its callee.
type verdict uint8

const (
	neutral verdict = iota
	success
	failure
)

// circuit is one breaker. failsafe-go counts and decides about transitions; the
// delay is ours, so that it can be capped, lengthened by the callee and given
// back by a probe that says nothing, for which failsafe-go has no outcome.
type circuit struct {
	name string
	// word is the generation, which each change of state raises, and in the two
	// lowest bits the State. Written with mu held.
	word atomic.Uint64
	used atomic.Bool // since the last look of a table that needs room

	refused, opened atomic.Uint64
	moves           [HalfOpen + 1][HalfOpen + 1]atomic.Uint64 // from a State to another

	mu    sync.Mutex
	trips trips
	cb    circuitbreaker.CircuitBreaker[any]
	until time.Time // if not closed: when the next probe may begin
	probe uint64    // the number of the latest probe
	from  strangers
}

func newCircuit(name string, p *Policy) *circuit {
	return &circuit{name: name, trips: p.trips(), cb: p.trips().build()}
}

func (t trips) build() circuitbreaker.CircuitBreaker[any] {
	b := circuitbreaker.NewBuilder[any]().WithDelay(0).WithSuccessThreshold(1)
	if t.rate > 0 {
		b = b.WithFailureRateThreshold(t.rate, uint(t.minCalls), t.window)
	} else {
		b = b.WithFailureThreshold(uint(t.failures))
	}
	return b.Build()
}

func (c *circuit) state() State { return State(c.word.Load() & 3) }

// ticket is a call that a circuit let through.
type ticket struct {
	word  uint64
	probe uint64 // 0 unless the call is a probe
}

// acquire lets a call through, or says in how long to ask again. A closed
// circuit is not locked. from is the stranger that the call is made for: one
// whose probe failed leaves the next to others for a Delay.
func (c *circuit) acquire(p *Policy, from uint64) (t ticket, wait time.Duration, ok bool) {
	if w := c.word.Load(); State(w&3) == Closed {
		return ticket{word: w}, 0, true
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state() == Closed {
		return ticket{word: c.word.Load()}, 0, true
	}
	until := c.until
	if from != 0 && from == c.from.prober {
		until = until.Add(p.Delay)
	}
	if wait := until.Sub(now); wait > 0 {
		c.refused.Add(1)
		return ticket{}, wait, false
	}
	if c.state() == Open {
		c.cb.TryAcquirePermit() // its delay is zero
		c.sync()
	}
	c.until = now.Add(p.wait(0))
	c.probe++
	return ticket{c.word.Load(), c.probe}, 0, true
}

// settle records what a call says, unless the state has changed since it
// began. It reports the state that the circuit went into, if it did. after is
// for how long the callee asked to be left alone; from is the stranger that a
// failed call was made for.
func (c *circuit) settle(t ticket, v verdict, after time.Duration, p *Policy, from uint64) (now State, changed bool) {
	if v == neutral && t.probe == 0 {
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.word.Load() != t.word {
		return 0, false
	}
	switch v {
	case neutral:
		if t.probe == c.probe { // else another one is under way in its place
			c.until = time.Now()
		}
		return 0, false
	case success:
		if c.trips.rate == 0 {
			c.from.forget() // the failures are in a row no more
		}
		c.cb.RecordSuccess()
	case failure:
		if t.probe != 0 {
			c.from.prober = from
		} else if !c.from.hear(from, c.trips, time.Now()) {
			return 0, false
		}
		c.cb.RecordFailure()
	}
	if !c.sync() {
		return 0, false
	}
	if c.state() == Open {
		c.until = time.Now().Add(p.wait(after))
		c.opened.Add(1)
	}
	return c.state(), true
}

// sync notes a change of state and reports whether there was one.
func (c *circuit) sync() bool {
	now := Closed
	switch c.cb.State() {
	case circuitbreaker.OpenState:
		now = Open
	case circuitbreaker.HalfOpenState:
		now = HalfOpen
	}
	if now == c.state() {
		return false
	}
	c.moves[c.state()][now].Add(1)
	c.word.Store((c.word.Load()>>2+1)<<2 | uint64(now))
	return true
}

// remaining returns for how long calls will be refused.
func (c *circuit) remaining() time.Duration {
	if c.state() == Closed {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state() == Closed {
		return 0
	}
	return max(0, time.Until(c.until))
}

// adopt changes when the circuit opens. It keeps its state; counts begin anew.
func (c *circuit) adopt(t trips) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t == c.trips {
		return
	}
	c.trips, c.cb = t, t.build()
	if s := c.state(); s != Closed {
		c.cb.Open()
		if s == HalfOpen {
			c.cb.TryAcquirePermit()
		}
	}
}
