package breaker

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// RetryConfig configures a [Retry]. The zero RetryConfig is all defaults.
type RetryConfig struct {
	// MaxAttempts is how often a call is tried, the first time included. 1 to
	// 10; 1 is never again. Default: 3.
	MaxAttempts int
	// Budget is how many retries each call to a destination earns, among those
	// that may be retried. Above 0, up to 1. Default: 0.1. A destination saves up
	// to 100, or what MinPerSecond lends it if that is more.
	Budget float64
	// MinPerSecond is how many retries a second a destination may have however
	// few calls it gets. It is lent, 6 seconds' worth at the start (at least one
	// retry), and as much again after each call that goes well; what calls earn
	// pays it back first. So it is this or the Budget's share, whichever is more,
	// and not both; and a destination that only fails has no more than that start,
	// or its share. Above 0, up to 1,000. Default: 10, which is more than a tenth
	// of less than 100 calls a second.
	MinPerSecond float64
	// BackoffBase is the longest pause before the second attempt. It doubles
	// with each, up to BackoffMax; each pause is any part of that, at random.
	// 1 ms to 1 minute. Default: 25 ms.
	BackoffBase time.Duration
	// BackoffMax is not below BackoffBase, up to 1 minute. Default: 250 ms, or
	// BackoffBase if that is more.
	BackoffMax time.Duration
	// MaxRetryAfter is the longest Retry-After that is waited for; with a
	// longer one, the answer stands. Up to 1 minute. Default: 1 second.
	MaxRetryAfter time.Duration
	// Statuses are the answers to HTTP calls that are worth another attempt,
	// 400 to 599. Default: 502, 503 and 504. A call without an answer always is.
	Statuses []int
	// Codes are the same for gRPC calls. Default: Unavailable, which a call
	// without an answer has, too.
	Codes []gatemesh.Code
	// Idempotent says of a gRPC call, and of an HTTP call of another than the
	// idempotent methods, that to make it twice does no harm. Default: no call
	// of these.
	Idempotent func(c *gatemesh.Call) bool
	// DespiteCaller retries also what is called for a call that somebody above
	// tries again by himself ([gatemesh.Hop.Retried]), but no more often than he
	// still can: of three attempts at each of two services, the callee then sees
	// six, and with each further service more. Default: those calls are left to
	// him.
	DespiteCaller bool
	// Hedge says when a second attempt is begun while the first is under way.
	// Like a retry, it is for calls that may safely be made twice, counts among
	// MaxAttempts, and takes from the Budget; a pool sends it to another
	// endpoint. The answer that comes first is the caller's, and the other
	// attempt is cancelled; of failures, the second. Streams of gRPC and
	// requests whose body cannot be had again are not hedged. Default: never.
	Hedge HedgeConfig
}

func (cfg RetryConfig) complete() (*RetryConfig, error) {
	setDefault(&cfg.MaxAttempts, 3)
	setDefault(&cfg.Budget, 0.1)
	setDefault(&cfg.MinPerSecond, 10)
	setDefault(&cfg.BackoffBase, 25*time.Millisecond)
	setDefault(&cfg.BackoffMax, max(250*time.Millisecond, cfg.BackoffBase))
	setDefault(&cfg.MaxRetryAfter, time.Second)
	cfg.Statuses, cfg.Codes = slices.Clone(cfg.Statuses), slices.Clone(cfg.Codes)
	if len(cfg.Statuses) == 0 {
		cfg.Statuses = unavailableStatuses()
	}
	if len(cfg.Codes) == 0 {
		cfg.Codes = []gatemesh.Code{gatemesh.Unavailable}
	}
	var f faults
	between(&f, "RetryConfig.MaxAttempts", cfg.MaxAttempts, 1, maxAttempts)
	if !(cfg.Budget > 0 && cfg.Budget <= 1) { // NaN, too
		f.add("RetryConfig.Budget %v is not above 0 and up to 1", cfg.Budget)
	}
	if !(cfg.MinPerSecond > 0 && cfg.MinPerSecond <= 1000) {
		f.add("RetryConfig.MinPerSecond %v is not above 0 and up to 1000", cfg.MinPerSecond)
	}
	between(&f, "RetryConfig.BackoffBase", cfg.BackoffBase, time.Millisecond, maxBackoff)
	between(&f, "RetryConfig.BackoffMax", cfg.BackoffMax, min(cfg.BackoffBase, maxBackoff), maxBackoff)
	between(&f, "RetryConfig.MaxRetryAfter", cfg.MaxRetryAfter, 0, time.Minute)
	cfg.Hedge.complete(&f)
	for _, s := range cfg.Statuses {
		between(&f, "RetryConfig.Statuses", s, 400, 599)
	}
	checkCodes(&f, "RetryConfig.Codes", cfg.Codes)
	return &cfg, f.err()
}

// unavailableStatuses are those by which a callee, or a proxy before it, says
// that it cannot answer now.
func unavailableStatuses() []int {
	return []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}
}

func checkCodes(f *faults, field string, codes []gatemesh.Code) {
	for _, c := range codes {
		if c == gatemesh.OK || c == gatemesh.Canceled || c > gatemesh.Unauthenticated {
			f.add("%s: %v is not the code of a failure", field, c)
		}
	}
}

func setDefault[T comparable](field *T, v T) {
	if *field == *new(T) {
		*field = v
	}
}

// maxBudgets bounds the budgets. A further destination takes the place of one,
// if possible of one without calls of late, which then starts anew.
const maxBudgets = 1024

// Retry is a [gatemesh.LayeredRetrier] for calls that may safely be made twice: HTTP
// GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110 §9.2.2), requests with an
// Idempotency-Key, and what [RetryConfig.Idempotent] names. Each destination has
// a budget of its own, so that retries cannot multiply the load of a service
// that is down. When it is used up, or the attempts are, the last answer is the
// caller's. What the route of a call says about retries, as of
// [gatemesh.RetryPolicy], holds in place of the configuration, within the budget
// and for calls that may be made twice.
//
// Of the services on the way of a call, one retries: the first that may. It
// tells those behind it, which then leave it alone ([gatemesh.Hop]). And nobody
// tries again what was refused with "X-Gatemesh-Retry: no".
//
// It is safe for concurrent use and needs no closing. The zero Retry never
// retries; use [NewRetry].
type Retry struct {
	state     gatemesh.Live[RetryConfig]
	budgets   *table[budget] // nil for the zero Retry
	latencies *table[latencies]
}

var (
	_ gatemesh.LayeredRetrier = (*Retry)(nil)
	_ gatemesh.Hedger         = (*Retry)(nil)
)

// NewRetry returns a Retry. It reports every invalid field at once.
func NewRetry(cfg RetryConfig) (*Retry, error) {
	r := &Retry{budgets: newTable[budget](), latencies: newTable[latencies]()}
	if err := r.Update(cfg); err != nil {
		return nil, err
	}
	return r, nil
}

// Update replaces the configuration for the calls that come from now on. If
// cfg is invalid, the old one stays. Budgets keep what they have.
func (r *Retry) Update(cfg RetryConfig) error { return gatemesh.Apply(r.Change(cfg)) }

// Change is [Retry.Update] as a part of [gatemesh.Apply].
func (r *Retry) Change(cfg RetryConfig) gatemesh.Change {
	return gatemesh.NewChange(&r.state, func(*RetryConfig) (*RetryConfig, error) {
		if r.budgets == nil {
			return nil, errors.New("breaker: the Retry was not made by NewRetry")
		}
		return cfg.complete()
	}, nil)
}

// Layer returns the retries as a layer of a [gatemesh.Outbound], named "retry".
func (r *Retry) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name: "retry", Retry: r, Gives: []gatemesh.Fact{gatemesh.FactAttempt},
		After: []gatemesh.Fact{gatemesh.FactSpan, gatemesh.FactDeadline},
	}
}

// Retry says whether c is tried again after attempt a, and when.
func (r *Retry) Retry(ctx context.Context, c *gatemesh.Call, a gatemesh.Attempt) (wait time.Duration, again bool) {
	cfg := r.state.For(c)
	if cfg == nil || !cfg.ours(c) {
		return 0, false
	}
	r.learn(cfg, c, &a)
	b := r.budget(cfg, c.Destination())
	if b == nil { // all are in use just now
		return 0, false
	}
	if a.Asked == 0 {
		b.calls.Add(1)
		b.earn(cfg.Budget, cfg.MinPerSecond)
	}
	if a.Err == nil && !failed(a.Code) && !b.alive.Load() {
		b.alive.Store(true)
	}
	rule := routeRetry(c)
	if a.Attempts >= cfg.attempts(c, rule) || !a.Replayable || !cfg.worthwhile(ctx, c, &a, rule) {
		return 0, false
	}
	now := time.Now()
	if wait, again = cfg.pause(ctx, &a, rule, now); !again {
		return 0, false
	}
	if !b.spend(now, cfg.MinPerSecond) {
		b.over.Add(1)
		return 0, false
	}
	b.retried.Add(1)
	return wait, true
}

// RetryStats is what a [Retry] did with the calls to a destination that may be
// made twice, since it is known.
type RetryStats struct {
	// Calls, and how many attempts were begun beyond the first: Retried after
	// one that failed, Hedged beside one that took long. OverBudget were not
	// retried, as the budget was used up.
	Calls, Retried, Hedged, OverBudget uint64
	Budget                             float64 // how many further attempts are left
}

// Stats returns what to show on pages and in metrics.
func (r *Retry) Stats() map[gatemesh.Destination]RetryStats {
	if r.budgets == nil {
		return nil
	}
	all := r.budgets.all()
	stats := make(map[gatemesh.Destination]RetryStats, len(all))
	for d, b := range all {
		stats[d] = RetryStats{b.calls.Load(), b.retried.Load(), b.hedged.Load(), b.over.Load(), b.left()}
	}
	return stats
}

// Retries reports whether c is one of those that are tried again, which the
// callee is told, so that it leaves that to us; and how many further attempts
// there can be: by what the configuration or the route says, by the caller's
// number if we retry despite him, and by what the budget has just now. If that
// is used up, c is ours all the same: what we may not spend is not to be spent
// behind us.
func (r *Retry) Retries(_ context.Context, c *gatemesh.Call) (left int, ours bool) {
	cfg := r.state.For(c)
	if cfg == nil || !cfg.ours(c) {
		return 0, false
	}
	most := cfg.attempts(c, routeRetry(c))
	if most < 2 {
		return 0, false
	}
	if left = most - c.Attempt(); left > 0 {
		b := r.budget(cfg, c.Destination())
		if b == nil {
			return 0, true
		}
		left = min(left, b.available(time.Now(), cfg.MinPerSecond))
	}
	return left, true
}

// budget returns the budget of d, or nil if there is no place for it.
func (r *Retry) budget(cfg *RetryConfig, d gatemesh.Destination) *budget {
	if b := r.budgets.all()[d]; b != nil {
		return b
	}
	return r.budgets.get(d, maxBudgets, func() *budget { return newBudget(time.Now(), cfg.MinPerSecond) },
		func(b *budget) bool { return !b.used.Swap(false) })
}

// ours reports whether it is for us to try c again.
func (cfg *RetryConfig) ours(c *gatemesh.Call) bool {
	in := c.Parent()
	return (cfg.DespiteCaller || in == nil || !in.Hop().Retried()) && cfg.safe(c)
}

// safe reports whether c may be made twice.
func (cfg *RetryConfig) safe(c *gatemesh.Call) bool {
	if c.Protocol() == gatemesh.HTTP {
		switch c.Method() {
		case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
			return true
		}
		if key, ok := c.Header().Only("Idempotency-Key"); ok && key != "" {
			return true
		}
	}
	return cfg.Idempotent != nil && cfg.Idempotent(c)
}
