package ratelimit

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// errUnset is what a Limiter that New did not make answers.
var errUnset = gatemesh.Deny(gatemesh.Internal, "internal", "The request could not be processed.").
	WithCause(errors.New("ratelimit: the Limiter was not made by New"))

// Limiter is a gate that refuses the calls of a key that is over its limit. It
// decides from memory alone and never waits. It is safe for concurrent use and
// needs no closing. The zero Limiter refuses every call; use [New].
type Limiter struct {
	state  gatemesh.Live[state]
	table  *table       // nil for the zero Limiter
	warned atomic.Int64 // Unix seconds of the last report that the table is full
}

// state is one version of the configuration. It is immutable.
type state struct {
	Config
	plan   *plan
	fields *fields
}

var _ gatemesh.CachedGate = (*Limiter)(nil)

// New returns a Limiter for cfg. It reports every invalid field at once.
func New(cfg Config) (*Limiter, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	l := &Limiter{table: newTable(cfg.MaxKeys, time.Now())}
	return l, l.Update(cfg)
}

// Update replaces the configuration for the calls that come from now on. If
// cfg is invalid, the old one stays. What keys have used is kept: under a new
// Limit it counts as used, also when a quota becomes a token bucket or the
// reverse. Name and the facts of Key cannot change, because the chain's order
// was checked with them.
func (l *Limiter) Update(cfg Config) error { return gatemesh.Apply(l.Change(cfg)) }

// Change is [Limiter.Update] as a part of [gatemesh.Apply].
func (l *Limiter) Change(cfg Config) gatemesh.Change {
	build := func(old *state) (*state, error) { return l.build(cfg, old) }
	return gatemesh.NewChange(&l.state, build, func(_, _ *state) {
		l.table.resize(l.state.Latest().MaxKeys) // another Update may have come in between
	})
}

func (l *Limiter) build(cfg Config, old *state) (*state, error) {
	if l.table == nil {
		return nil, errors.New("ratelimit: the Limiter was not made by New")
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if old == nil {
		return &state{Config: cfg, plan: newPlan(cfg.Limit, 0), fields: newFields(&cfg)}, nil
	}
	var errs []error
	if cfg.Name != old.Name {
		errs = append(errs, errors.New("ratelimit: Config.Name cannot change"))
	}
	if !cfg.Key.sameFacts(old.Key) {
		errs = append(errs, errors.New("ratelimit: Config.Key cannot change its kind, its needs or PerRoute"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &state{Config: cfg, plan: newPlan(cfg.Limit, old.plan.seq+1), fields: newFields(&cfg)}, nil
}

// Admit charges c to its key. It returns a ResourceExhausted [*gatemesh.Denial]
// with Retry-After if the key is over its limit, which costs the key nothing.
func (l *Limiter) Admit(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	s := l.state.For(c)
	if s == nil {
		return gatemesh.Admission{}, errUnset
	}
	var buf [maxKeyLen]byte
	key, err := s.Key.append(buf[:0], c)
	if err != nil {
		return gatemesh.Admission{}, err
	}
	now := time.Now()
	v := l.table.take(key, now, s.plan)
	if v.lossy && s.Observer != nil {
		l.reportFull(ctx, s, now)
	}
	switch {
	case !v.ok:
		return gatemesh.Admission{}, s.fields.denial(v.wait)
	case c.Outbound(): // the fields are for responses
		return gatemesh.Admission{}, nil
	}
	return gatemesh.Admission{Header: s.fields.admitted(v)}, nil
}

// AdmitCached is Admit, and ok is always true.
func (l *Limiter) AdmitCached(ctx context.Context, c *gatemesh.Call) (adm gatemesh.Admission, ok bool, err error) {
	adm, err = l.Admit(ctx, c)
	return adm, true, err
}

// reportFull tells the Observer, at most once a minute, that keys with calls
// are being forgotten.
func (l *Limiter) reportFull(ctx context.Context, s *state, now time.Time) {
	last, sec := l.warned.Load(), now.Unix()
	if sec-last < 60 && last != 0 || !l.warned.CompareAndSwap(last, sec) {
		return
	}
	s.Observer.Observe(ctx, gatemesh.Event{
		Kind: gatemesh.EventFault, Layer: layerName(s.Name),
		Message: "the table of rate limits is full, keys are forgotten before their calls have come back",
	})
}

func layerName(policy string) string { return "ratelimit " + policy }

// Layer returns the limiter as a layer of a [gatemesh.Chain], named
// "ratelimit" and the policy's name.
func (l *Limiter) Layer() gatemesh.Layer {
	s := l.state.Latest()
	if s == nil {
		return gatemesh.Layer{Gate: l} // a chain refuses it for having no name
	}
	layer := s.Key.layer()
	layer.Name, layer.Gate = layerName(s.Name), l
	return layer
}

// Handler returns next behind the limiter, for use without a Chain, behind
// [gatemesh.Entry.Handler].
func (l *Limiter) Handler(next http.Handler) http.Handler {
	var o gatemesh.Observer
	if s := l.state.Latest(); s != nil {
		o = s.Observer
	}
	return gatemesh.GateHandler(l.Layer(), o)(next)
}
