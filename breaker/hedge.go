package breaker

import (
	"context"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// HedgeConfig says when a [Retry] begins a second attempt of a call whose first
// one takes long. The zero HedgeConfig is never.
type HedgeConfig struct {
	// Quantile of the times in which a destination's answers of late began,
	// after which the second attempt begins, such as 0.95. It needs 20 answers.
	// Above 0, below 1. 0 is none.
	Quantile float64
	// After is the shortest time for that; without a Quantile, the time. Up to 1
	// minute. Default: none, or 1 ms with a Quantile.
	After time.Duration
}

func (cfg *HedgeConfig) complete(f *faults) {
	if cfg.Quantile != 0 {
		setDefault(&cfg.After, time.Millisecond)
		if !(cfg.Quantile > 0 && cfg.Quantile < 1) { // NaN, too
			f.add("RetryConfig.Hedge.Quantile %v is not between 0 and 1", cfg.Quantile)
		}
	}
	between(f, "RetryConfig.Hedge.After", cfg.After, 0, time.Minute)
}

// HedgeAfter returns after how long without an answer c is made a second time.
func (r *Retry) HedgeAfter(_ context.Context, c *gatemesh.Call) (time.Duration, bool) {
	cfg := r.state.For(c)
	if cfg == nil || cfg.Hedge.After == 0 || c.Attempt() != 1 || !cfg.ours(c) || cfg.attempts(c, routeRetry(c)) < 2 || c.Header().Count("Upgrade") > 0 {
		return 0, false
	}
	if cfg.Hedge.Quantile == 0 {
		return cfg.Hedge.After, true
	}
	l := r.latencies.all()[c.Destination()]
	if l == nil {
		return 0, false
	}
	d, ok := l.quantile(cfg.Hedge.Quantile)
	return max(d, cfg.Hedge.After), ok
}

// Hedge takes a second attempt of c from the budget of its destination.
func (r *Retry) Hedge(_ context.Context, c *gatemesh.Call) bool {
	cfg := r.state.For(c)
	if cfg == nil {
		return false
	}
	b := r.budget(cfg, c.Destination())
	if b == nil || !b.spend(time.Now(), cfg.MinPerSecond) {
		return false
	}
	b.hedged.Add(1)
	return true
}

// learn notes how long an answer took to begin.
func (r *Retry) learn(cfg *RetryConfig, c *gatemesh.Call, a *gatemesh.Attempt) {
	if cfg.Hedge.Quantile == 0 || a.Err != nil || a.Code != gatemesh.OK {
		return
	}
	l := r.latencies.get(c.Destination(), maxBudgets, func() *latencies { return &latencies{} },
		func(l *latencies) bool { return !l.used.Swap(false) })
	if l != nil {
		l.add(a.Duration)
	}
}
