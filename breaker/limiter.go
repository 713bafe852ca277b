package breaker

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"

	"github.com/gatemesh-go/gatemesh"
)

// Priority says which calls a [Limiter] serves first when there are too many.
type Priority int8

// The priorities. Values between and beyond them count as the nearest.
const (
	Lowest  Priority = iota - 2 // refused at once when the limit is reached
	Low                         // may wait in a quarter of the queue
	Normal                      // in half of it
	High                        // in three quarters
	Highest                     // in all of it
	Exempt                      // neither limited nor counted, as a health check
)

// LimiterConfig configures a [Limiter]. The zero LimiterConfig is all defaults.
type LimiterConfig struct {
	// Min and Max bound the limit, and Initial is what it begins with. 1 to
	// 1,000,000. Defaults: 10, 1,000, and 50 or the nearest of the two.
	Min, Max, Initial int
	// MaxWait is how long a call may wait for its turn. 1 ms to 10 seconds.
	// Default: 100 ms.
	MaxWait time.Duration
	// DisableQueue refuses calls at once when the limit is reached. Then
	// priorities but Exempt make no difference.
	DisableQueue bool
	// Priority of a call. It must rest on what the caller cannot choose: the
	// route, the path, the principal, the peer; not on header fields, as a
	// client that names its own priority names the highest. Default: gRPC health
	// checks are Exempt, all others Normal.
	Priority func(c *gatemesh.Call) Priority
	// Observer hears, at most every ten seconds, that calls are refused
	// (EventFault). Default: nobody.
	Observer gatemesh.Observer
}

func (cfg LimiterConfig) complete() (*LimiterConfig, error) {
	setDefault(&cfg.Min, 10)
	setDefault(&cfg.Max, max(1000, cfg.Min))
	setDefault(&cfg.Initial, min(max(50, cfg.Min), cfg.Max))
	setDefault(&cfg.MaxWait, 100*time.Millisecond)
	if cfg.Priority == nil {
		cfg.Priority = healthFirst
	}
	var f faults
	between(&f, "LimiterConfig.Min", cfg.Min, 1, maxLimit)
	between(&f, "LimiterConfig.Max", cfg.Max, min(max(1, cfg.Min), maxLimit), maxLimit)
	between(&f, "LimiterConfig.Initial", cfg.Initial, min(max(1, cfg.Min), maxLimit), min(max(1, cfg.Min, cfg.Max), maxLimit))
	between(&f, "LimiterConfig.MaxWait", cfg.MaxWait, time.Millisecond, 10*time.Second)
	return &cfg, f.err()
}

const maxLimit = 1_000_000

func healthFirst(c *gatemesh.Call) Priority {
	switch c.MatchPath() {
	case "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List":
		if c.Protocol() == gatemesh.GRPC {
			return Exempt
		}
	}
	return Normal
}

// Limiter is an inbound gate that bounds how many calls are worked on at once.
// The limit is found, by failsafe-go: it falls when answers take longer than they
// did, and rises while they do not. Calls beyond it wait in a queue no longer
// than the limit; each [Priority] may fill a part of it, so that a flood of
// others leaves room for those that matter. The rest is refused at once with
// Unavailable, reason "overloaded", Retry-After, and "X-Gatemesh-Retry: no", by
// which callers of this library do not try again.
//
// Of calls of the same priority, those go first that can be tried elsewhere: the
// first attempts of a verified peer that says that further ones can follow
// ([gatemesh.Hop]). They may fill half a step less of the queue, which is never
// less than what the next lower priority may fill, and are refused without
// Retry-After and "no", so that the one above that retries can find another
// replica, within its budget. Who was refused there, too, is told "no" like
// everybody: then this replica is not the only one that is overloaded. A peer
// that lies about it gains nothing beyond what callers have that say nothing.
//
// A call is worked on until its response begins: the time until then is what
// the limit follows, and then the place is free. How long the body of a response
// takes is a matter of the client, and a stream may stay open for ever: bound
// these by other means. A handler that waits for the body of its request is at
// work on it: a client that sends one slowly holds a place, and looks like a
// service that is slow. So bound that time, too, by a [Deadline] before the
// Limiter and [http.ResponseController.SetReadDeadline] or
// [http.Server.ReadTimeout], and how much one client may have under way at a
// time by its address. A gRPC call of one answer begins with its end. Calls that are
// refused by gates behind the Limiter, that fail, panic, or whose caller leaves
// are worked on, but their time says nothing, as it is not that of an answer.
// What waits on purpose, as a long poll, ought to be [Exempt].
//
// The Limiter belongs before what costs time, and behind what the Priority reads.
// It is safe for concurrent use, has no goroutines and needs no closing. The
// zero Limiter refuses every call; use [NewLimiter].
type Limiter struct {
	state   gatemesh.Live[LimiterConfig]
	engine  atomic.Pointer[engine] // nil for the zero Limiter
	update  sync.Mutex
	waiting atomic.Int64
	warned  atomic.Int64 // Unix seconds of the last report
	stats   limiterCounts
}

type limiterCounts struct{ calls, exempt, waited, refused atomic.Uint64 }

// engine is a limit of failsafe-go, which cannot change its bounds.
type engine struct {
	adaptivelimiter.AdaptiveLimiter[any]
	bounds [2]int

	mu   sync.Mutex
	owed []adaptivelimiter.Permit // in the engine that replaced this one, for calls still counted here
	any  atomic.Bool              // whether there are any
}

func newEngine(cfg *LimiterConfig, initial int) *engine {
	initial = min(max(initial, cfg.Min), cfg.Max)
	b := adaptivelimiter.NewBuilder[any]().WithLimits(uint(cfg.Min), uint(cfg.Max), uint(initial))
	return &engine{AdaptiveLimiter: b.Build(), bounds: [2]int{cfg.Min, cfg.Max}}
}

var _ gatemesh.CachedGate = (*Limiter)(nil)

// NewLimiter returns a Limiter. It reports every invalid field at once.
func NewLimiter(cfg LimiterConfig) (*Limiter, error) {
	now, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	l := &Limiter{}
	l.engine.Store(newEngine(now, now.Initial))
	return l, l.Update(cfg)
}

// Update replaces the configuration for the calls that come from now on. If
// cfg is invalid, the old one stays. The limit stays what it is, within the new
// bounds, and calls under way go on to count.
func (l *Limiter) Update(cfg LimiterConfig) error { return gatemesh.Apply(l.Change(cfg)) }

// Change is [Limiter.Update] as a part of [gatemesh.Apply].
func (l *Limiter) Change(cfg LimiterConfig) gatemesh.Change {
	build := func(*LimiterConfig) (*LimiterConfig, error) {
		if l.engine.Load() == nil {
			return nil, errors.New("breaker: the Limiter was not made by NewLimiter")
		}
		return cfg.complete()
	}
	return gatemesh.NewChange(&l.state, build, func(_, _ *LimiterConfig) { l.adopt() })
}

// adopt changes the bounds of the limit, if they are others.
func (l *Limiter) adopt() {
	l.update.Lock()
	defer l.update.Unlock()
	cfg, old := l.state.Latest(), l.engine.Load() // another Update may have come in between
	if old.bounds == [2]int{cfg.Min, cfg.Max} {
		return
	}
	now := newEngine(cfg, old.Limit())
	old.mu.Lock()
	defer old.mu.Unlock()
	for range old.Inflight() {
		if p, ok := now.TryAcquirePermit(); ok {
			old.owed = append(old.owed, p)
		}
	}
	old.any.Store(len(old.owed) > 0)
	l.engine.Store(now)
}

// repay frees the place that a call of e holds in the engine after it.
func (e *engine) repay() {
	if !e.any.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.owed); n > 0 {
		e.owed[n-1].Drop()
		e.owed = e.owed[:n-1]
	}
}

// Layer returns the gate as a layer of a [gatemesh.Chain], named "limiter".
func (l *Limiter) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name: "limiter", Gate: l, Gives: []gatemesh.Fact{FactCapacity},
		After: []gatemesh.Fact{gatemesh.FactSpan, gatemesh.FactDeadline},
	}
}

// FactCapacity says that the call holds one of the places of a [Limiter].
const FactCapacity gatemesh.Fact = "capacity"

var errOverloaded = gatemesh.Deny(gatemesh.Unavailable, "overloaded", "The service is overloaded; try again later.").
	WithRetryAfter(time.Second).WithField(gatemesh.RetryHeader, "no")

// errElsewhere is for calls that another replica may have a place for.
var errElsewhere = gatemesh.Deny(gatemesh.Unavailable, errOverloaded.Reason, errOverloaded.Detail)

// elsewhere reports whether c can be tried at another replica and was not yet.
func elsewhere(c *gatemesh.Call) bool {
	h := c.Hop()
	return h.Retries && h.Left > 0 && h.Attempt <= 1
}

// Admit gives c a place, if need be after a wait.
func (l *Limiter) Admit(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	adm, cfg, most, err := l.try(ctx, c)
	if cfg == nil || err != nil {
		return adm, err
	}
	l.stats.calls.Add(1)
	if l.waiting.Add(1) > int64(most) {
		l.waiting.Add(-1)
		return adm, l.refuse(ctx, cfg, c)
	}
	defer l.waiting.Add(-1)
	l.stats.waited.Add(1)
	e := l.engine.Load()
	p, err := e.AcquirePermitWithMaxWait(ctx, cfg.MaxWait)
	switch {
	case err == nil:
		return gatemesh.Admission{Finish: hold(e, p)}, nil
	case ctx.Err() != nil:
		return adm, ctx.Err() // the caller's end is no refusal of ours
	}
	return adm, l.refuse(ctx, cfg, c)
}

// AdmitCached gives c a place if there is one, or refuses it if it may not wait.
func (l *Limiter) AdmitCached(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, bool, error) {
	adm, cfg, most, err := l.try(ctx, c)
	if cfg != nil && l.waiting.Load() < int64(most) {
		return gatemesh.Admission{}, false, nil // Admit follows
	}
	if cfg != nil {
		l.stats.calls.Add(1)
		err = l.refuse(ctx, cfg, c)
	}
	return adm, true, err
}

// try gives c a place if there is one, and counts it. If not, it returns the
// configuration, and how many may wait at most if c is among them.
func (l *Limiter) try(_ context.Context, c *gatemesh.Call) (_ gatemesh.Admission, wait *LimiterConfig, most int, _ error) {
	cfg := l.state.For(c)
	if cfg == nil {
		return gatemesh.Admission{}, nil, 0, errUnset
	}
	p := cfg.Priority(c)
	if p >= Exempt {
		l.stats.calls.Add(1)
		l.stats.exempt.Add(1)
		return gatemesh.Admission{}, nil, 0, nil
	}
	e := l.engine.Load()
	if permit, ok := e.TryAcquirePermit(); ok {
		l.stats.calls.Add(1)
		return gatemesh.Admission{Finish: hold(e, permit)}, nil, 0, nil
	}
	if cfg.DisableQueue {
		return gatemesh.Admission{}, cfg, 0, nil
	}
	steps := float64(p - Lowest) // of four
	if elsewhere(c) {
		steps -= 0.5
	}
	return gatemesh.Admission{}, cfg, int(math.Ceil(float64(e.Limit()) * steps / 4)), nil
}

// refuse counts and tells the Observer now and then.
func (l *Limiter) refuse(ctx context.Context, cfg *LimiterConfig, c *gatemesh.Call) error {
	l.stats.refused.Add(1)
	last, now := l.warned.Load(), time.Now().Unix()
	if cfg.Observer != nil && now-last >= 10 && l.warned.CompareAndSwap(last, now) {
		cfg.Observer.Observe(ctx, gatemesh.Event{
			Kind: gatemesh.EventFault, Layer: "limiter", Call: c, Message: "the service is overloaded; calls are refused",
		})
	}
	if elsewhere(c) {
		return errElsewhere
	}
	return errOverloaded
}

// LimiterStats is what a [Limiter] has done and does. Counts are since New.
type LimiterStats struct {
	Limit, InFlight, Waiting int
	// Calls are all, of which Exempt were neither counted nor limited, Waited
	// had to queue, and Refused were refused.
	Calls, Exempt, Waited, Refused uint64
}

// Stats returns what to show on pages and in metrics. It reads several values
// one after another.
func (l *Limiter) Stats() LimiterStats {
	e := l.engine.Load()
	if e == nil {
		return LimiterStats{}
	}
	return LimiterStats{
		Limit: e.Limit(), InFlight: e.Inflight(), Waiting: int(l.waiting.Load()),
		Calls: l.stats.calls.Load(), Exempt: l.stats.exempt.Load(), Waited: l.stats.waited.Load(), Refused: l.stats.refused.Load(),
	}
}

// place is what a call holds until its response begins. No place is used for two
// calls, as Answered may come late; they are made by the dozen.
type place struct {
	e      *engine
	permit adaptivelimiter.Permit
	freed  atomic.Bool
}

var _ gatemesh.Answerer = (*place)(nil)

type places struct {
	used int
	all  [16]place
}

var spare = sync.Pool{New: func() any { return new(places) }}

func hold(e *engine, permit adaptivelimiter.Permit) *place {
	s := spare.Get().(*places)
	p := &s.all[s.used]
	if s.used++; s.used < len(s.all) {
		spare.Put(s)
	}
	p.e, p.permit = e, permit
	return p
}

// Answered frees the place: the response begins.
func (p *place) Answered(_ *gatemesh.Call, a gatemesh.Attempt) { p.free(&a.Outcome) }

// Finish frees the place if there was no response.
func (p *place) Finish(_ *gatemesh.Call, o gatemesh.Outcome) { p.free(&o) }

func (p *place) free(o *gatemesh.Outcome) {
	if p.freed.Swap(true) {
		return
	}
	if telling(o) {
		p.permit.Record()
	} else {
		p.permit.Drop()
	}
	p.e.repay()
}

// telling reports whether the time that a call took is that of an answer. What
// failed may have failed fast. A deadline that has passed tells that the time
// was not shorter, which matters most when all do.
func telling(o *gatemesh.Outcome) bool {
	switch {
	case o.Canceled, o.Panicked:
		return false
	case o.Code == gatemesh.DeadlineExceeded:
		return true
	case o.Denial != nil:
		return false
	}
	return !failed(o.Code)
}
