package breaker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivethrottler"

	"github.com/gatemesh-go/gatemesh"
)

// ThrottleConfig configures a [Throttle]. The zero ThrottleConfig is all
// defaults.
type ThrottleConfig struct {
	// FailureRate is the share of calls within a Window that may fail before
	// calls are kept back. Above 0, below 1. Default: 0.5, with which
	// twice as many calls are made as succeed.
	FailureRate float64
	// MinCalls is how many calls a Window must have for that. 1 to 1,000,000.
	// Default: 20.
	MinCalls int
	// Window is the time that FailureRate looks back. 1 second to 10 minutes.
	// Default: 30 seconds.
	Window time.Duration
	// MaxRejection is the largest share of calls that is kept back, so that some
	// find out that the callee is back. Above 0, below 1. Default: 0.9.
	MaxRejection float64
	// Statuses and Codes are the answers that count as failures, as in
	// [GateConfig].
	Statuses []int
	Codes    []gatemesh.Code
	// MaxDestinations bounds how many destinations are known. A further one
	// takes the place of another, if possible of one without calls of late. 1 to
	// 65,536. Default: 1,024.
	MaxDestinations int

	judge *GateConfig
}

func (cfg ThrottleConfig) complete() (*ThrottleConfig, error) {
	setDefault(&cfg.FailureRate, 0.5)
	setDefault(&cfg.MinCalls, 20)
	setDefault(&cfg.Window, 30*time.Second)
	setDefault(&cfg.MaxRejection, 0.9)
	setDefault(&cfg.MaxDestinations, 1024)
	cfg.judge = &GateConfig{Statuses: slices.Clone(cfg.Statuses), Codes: slices.Clone(cfg.Codes), Policy: Policy{Patience: time.Second}}
	if len(cfg.Statuses) == 0 {
		cfg.judge.Statuses = unavailableStatuses()
	}
	if len(cfg.Codes) == 0 {
		cfg.judge.Codes = []gatemesh.Code{gatemesh.Unavailable}
	}
	var f faults
	if !(cfg.FailureRate > 0 && cfg.FailureRate < 1) { // NaN, too
		f.add("ThrottleConfig.FailureRate %v is not between 0 and 1", cfg.FailureRate)
	}
	if !(cfg.MaxRejection > 0 && cfg.MaxRejection < 1) {
		f.add("ThrottleConfig.MaxRejection %v is not between 0 and 1", cfg.MaxRejection)
	}
	between(&f, "ThrottleConfig.MinCalls", cfg.MinCalls, 1, 1_000_000)
	between(&f, "ThrottleConfig.Window", cfg.Window, time.Second, 10*time.Minute)
	between(&f, "ThrottleConfig.MaxDestinations", cfg.MaxDestinations, 1, 1<<16)
	for _, s := range cfg.Statuses {
		between(&f, "ThrottleConfig.Statuses", s, 400, 599)
	}
	checkCodes(&f, "ThrottleConfig.Codes", cfg.Codes)
	return &cfg, f.err()
}

// throttleBounds is what a throttler of failsafe-go is built of.
type throttleBounds struct {
	rate, most float64
	calls      int
	window     time.Duration
}

func (cfg *ThrottleConfig) bounds() throttleBounds {
	return throttleBounds{cfg.FailureRate, cfg.MaxRejection, cfg.MinCalls, cfg.Window}
}

// Throttle is an outbound gate that keeps back a share of the calls to a
// destination that refuses many, as the chapter "Handling Overload" of Google's
// SRE book describes: what would be refused anyway is not sent, which costs the
// callee as much as to answer. Each destination has a count of its own, of
// failsafe-go. Beside a [Gate], which keeps everything away from a callee that is
// down, a Throttle is for one that is up and has too much to do.
//
// What counts as a failure is as with the Gate, those that are made for one
// unauthenticated client included: no more than a quarter of those that it takes
// to keep calls back. What is kept back counts for nothing.
//
// It is safe for concurrent use and needs no closing. The zero Throttle refuses
// every call; use [NewThrottle].
type Throttle struct {
	state     gatemesh.Live[ThrottleConfig]
	throttles *table[throttle] // nil for the zero Throttle
}

// throttle is the count of one destination.
type throttle struct {
	used           atomic.Bool
	calls, refused atomic.Uint64
	engine         atomic.Pointer[throttleEngine]
}

type throttleEngine struct {
	adaptivethrottler.AdaptiveThrottler[any]
	bounds throttleBounds

	mu   sync.Mutex
	from strangers
}

func newThrottleEngine(b throttleBounds) *throttleEngine {
	t := adaptivethrottler.NewBuilder[any]().
		WithFailureRateThreshold(b.rate, uint(b.calls), b.window).WithMaxRejectionRate(b.most).Build()
	return &throttleEngine{AdaptiveThrottler: t, bounds: b}
}

var _ gatemesh.Gate = (*Throttle)(nil)

// NewThrottle returns a Throttle. It reports every invalid field at once.
func NewThrottle(cfg ThrottleConfig) (*Throttle, error) {
	t := &Throttle{throttles: newTable[throttle]()}
	if err := t.Update(cfg); err != nil {
		return nil, err
	}
	return t, nil
}

// Update replaces the configuration for the calls that come from now on. If
// cfg is invalid, the old one stays. Calls are counted anew if it is about their
// counting that it changed.
func (t *Throttle) Update(cfg ThrottleConfig) error { return gatemesh.Apply(t.Change(cfg)) }

// Change is [Throttle.Update] as a part of [gatemesh.Apply].
func (t *Throttle) Change(cfg ThrottleConfig) gatemesh.Change {
	build := func(*ThrottleConfig) (*ThrottleConfig, error) {
		if t.throttles == nil {
			return nil, errors.New("breaker: the Throttle was not made by NewThrottle")
		}
		return cfg.complete()
	}
	return gatemesh.NewChange(&t.state, build, func(_, _ *ThrottleConfig) {
		b := t.state.Latest().bounds() // another Update may have come in between
		t.throttles.each(func(d *throttle) {
			if d.engine.Load().bounds != b {
				d.engine.Store(newThrottleEngine(b))
			}
		})
	})
}

// Layer returns the gate as a layer of a [gatemesh.Outbound], named "throttle".
func (t *Throttle) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name: "throttle", Gate: t,
		After: []gatemesh.Fact{gatemesh.FactSpan, gatemesh.FactDeadline, gatemesh.FactAttempt},
	}
}

var errThrottled = gatemesh.Deny(gatemesh.Unavailable, "throttled", "The service is overloaded; try again later.").
	WithRetryAfter(time.Second).WithField(gatemesh.RetryHeader, "no")

// Admit refuses a share of the calls to the destination of c with Unavailable,
// reason "throttled", if it fails many.
func (t *Throttle) Admit(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	cfg := t.state.For(c)
	if cfg == nil {
		return gatemesh.Admission{}, errUnset
	}
	d := t.throttles.all()[c.Destination()]
	if d == nil {
		d = t.throttles.get(c.Destination(), cfg.MaxDestinations, func() *throttle {
			d := &throttle{}
			d.engine.Store(newThrottleEngine(t.state.Latest().bounds()))
			return d
		}, func(d *throttle) bool { return !d.used.Swap(false) })
	}
	if d == nil { // all are in use just now
		return gatemesh.Admission{}, nil
	}
	if !d.used.Load() {
		d.used.Store(true)
	}
	d.calls.Add(1)
	e := d.engine.Load()
	if !e.TryAcquirePermit() {
		d.refused.Add(1)
		return gatemesh.Admission{}, errThrottled
	}
	return gatemesh.Admission{Finish: &throttled{cfg: cfg.judge, engine: e}}, nil
}

// ThrottleStats is what a [Throttle] did with the calls to a destination.
type ThrottleStats struct {
	Calls, Refused uint64 // since it is known; Calls are all
	Rejection      float64
}

// Stats returns what to show on pages and in metrics.
func (t *Throttle) Stats() map[gatemesh.Destination]ThrottleStats {
	if t.throttles == nil {
		return nil
	}
	all := t.throttles.all()
	stats := make(map[gatemesh.Destination]ThrottleStats, len(all))
	for at, d := range all {
		stats[at] = ThrottleStats{d.calls.Load(), d.refused.Load(), d.engine.Load().RejectionRate()}
	}
	return stats
}

// throttled is an attempt that was let through.
type throttled struct {
	cfg    *GateConfig
	engine *throttleEngine
	done   atomic.Bool
}

var _ gatemesh.Answerer = (*throttled)(nil)

// Answered records what the header decides. Other answers may still break off.
func (p *throttled) Answered(c *gatemesh.Call, a gatemesh.Attempt) {
	if v := p.cfg.judge(c, &a.Outcome); v == failure {
		p.settle(c, v)
	}
}

// Finish records how the attempt ended.
func (p *throttled) Finish(c *gatemesh.Call, o gatemesh.Outcome) { p.settle(c, p.cfg.judge(c, &o)) }

func (p *throttled) settle(c *gatemesh.Call, v verdict) {
	if p.done.Swap(true) {
		return
	}
	switch v {
	case success:
		p.engine.RecordSuccess()
	case failure:
		if p.engine.hears(stranger(c)) {
			p.engine.RecordFailure()
		}
	}
}

func (e *throttleEngine) hears(from uint64) bool {
	if from == 0 {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	b := &e.bounds
	return e.from.hear(from, trips{rate: b.rate, minCalls: b.calls, window: b.window}, time.Now())
}
