package policy

import (
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Engine judges calls by policies. Make it with [New]. The zero Engine refuses
// every call. It is safe for concurrent use, owns no goroutines and depends on
// nothing that could fail.
type Engine struct {
	state gatemesh.Live[state]
}

var (
	_ gatemesh.CachedGate  = (*Engine)(nil)
	_ gatemesh.Revalidator = (*Engine)(nil)
)

// New returns an Engine for a copy of cfg. It reports every fault at once, with
// the position of the value where it is known.
func New(cfg Config) (*Engine, error) {
	e := &Engine{}
	if err := e.Update(cfg); err != nil {
		return nil, err
	}
	return e, nil
}

// Update replaces the configuration for the calls that are judged from now on.
// If cfg is invalid, the old one stays.
func (e *Engine) Update(cfg Config) error { return gatemesh.Apply(e.Change(cfg)) }

// Change is [Engine.Update] as a part of [gatemesh.Apply].
func (e *Engine) Change(cfg Config) gatemesh.Change {
	return gatemesh.NewChange(&e.state, func(*state) (*state, error) { return compile(cfg) }, func(_, s *state) {
		if s.observer == nil {
			return
		}
		for _, n := range s.notices {
			s.observer.Observe(context.Background(), gatemesh.Event{Kind: gatemesh.EventNotice, Layer: layerName, Message: n})
		}
	})
}

const layerName = "policy"

var (
	denied      = gatemesh.Deny(gatemesh.PermissionDenied, "policy", "Access to this resource is not allowed.")
	deniedEmpty = denied.WithCause(errors.New("policy: the engine has no configuration, or there is no call"))
)

// Admit refuses c with PermissionDenied unless the policies allow it. The cause
// of the denial is the explanation, written when somebody reads it, of this
// call and the configuration that judged it. Of hooks see [Hook]. The consent
// ends after [Config.Recheck].
func (e *Engine) Admit(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	adm, _, err := e.admit(ctx, c, true)
	return adm, err
}

// AdmitCached decides like [Engine.Admit] about every call but those that a
// hook is asked about.
func (e *Engine) AdmitCached(ctx context.Context, c *gatemesh.Call) (adm gatemesh.Admission, ok bool, err error) {
	return e.admit(ctx, c, false)
}

// Revalidate judges the call of an open stream again, by the policies of now.
// Neither a candidate nor AUDIT policies hear of it, as the call was counted;
// but AUDIT hears of a hook that panics.
func (e *Engine) Revalidate(ctx context.Context, c *gatemesh.Call) (time.Time, error) {
	s := e.state.Latest()
	if s == nil || c == nil {
		return time.Time{}, deniedEmpty
	}
	var r request
	r.read(c)
	if !s.exempt.matches(&r.texts[fieldPath]) {
		if _, _, err := s.settle(ctx, c, &r, true); err != nil {
			return time.Time{}, err
		}
	}
	return time.Now().Add(s.recheck), nil
}

// admit decides, unless a hook has to be asked and mayWait is false.
func (e *Engine) admit(ctx context.Context, c *gatemesh.Call, mayWait bool) (adm gatemesh.Admission, decided bool, err error) {
	s := e.state.For(c)
	if s == nil || c == nil {
		return adm, true, deniedEmpty
	}
	adm.Until = c.Received().Add(s.recheck)
	var r request
	r.read(c)
	if s.exempt.matches(&r.texts[fieldPath]) {
		return adm, true, nil
	}
	got, decided, err := s.settle(ctx, c, &r, mayWait)
	if !decided {
		return gatemesh.Admission{}, false, nil
	}
	if s.dryRun != nil {
		s.dryRun.compare(c, s, &r, got)
	}
	s.auditCall(ctx, c, &r, err)
	if err != nil {
		return gatemesh.Admission{}, true, err
	}
	return adm, true, nil
}

// settle asks hooks and rules, unless mayWait is false and there is a hook to ask.
func (s *state) settle(ctx context.Context, c *gatemesh.Call, r *request, mayWait bool) (got ruling, decided bool, err error) {
	got = ruling{verdict: Deny}
	for i := range s.custom {
		if rule := s.custom[i].rules.match(r); rule != nil {
			if !mayWait {
				return got, false, nil
			}
			if err = s.ask(ctx, &s.custom[i], c, r, rule); err != nil {
				got.rule, got.hook = rule, s.custom[i].provider
				break
			}
		}
	}
	if err == nil {
		if got.verdict, got.rule = s.decide(r); got.verdict != Allow {
			// A copy, so that r itself stays on the stack of those who are admitted.
			err = denied.WithCause(&refusal{s, got.rule, r.keep(s.missHeaders)})
		}
	}
	return got, true, err
}

// Explain says what Admit would answer to c and why; see [gatemesh.NewCall]
// for calls to ask about. It asks no hook, and names those that Admit asks.
func (e *Engine) Explain(c *gatemesh.Call) Explanation {
	s := e.state.Latest()
	if s == nil || c == nil {
		return Explanation{Verdict: Deny, Reason: deniedEmpty.Cause().Error()}
	}
	var r request
	r.read(c)
	v, rule := s.judge(&r)
	why := s.explain(&r, v, rule, math.MaxInt)
	for i := range s.custom {
		if !s.exempt.matches(&r.texts[fieldPath]) && s.custom[i].rules.match(&r) != nil {
			why.Hooks = append(why.Hooks, s.custom[i].provider)
		}
	}
	return why
}

// Layer returns the engine as a layer of a [gatemesh.Chain].
func (e *Engine) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name:  layerName,
		Gives: []gatemesh.Fact{gatemesh.FactPolicy},
		After: []gatemesh.Fact{gatemesh.FactPrincipal, gatemesh.FactPeer, gatemesh.FactConsumerLimit, gatemesh.FactRoute},
		Gate:  e,
	}
}

// Handler judges each request before next, behind [gatemesh.Entry.Handler].
// Refused requests get 403 and next is not called.
func (e *Engine) Handler(next http.Handler) http.Handler {
	var o gatemesh.Observer
	if s := e.state.Latest(); s != nil {
		o = s.observer
	}
	return gatemesh.GateHandler(e.Layer(), o)(next)
}

// refusal is the cause of a denial: a request and the configuration it was
// judged by.
type refusal struct {
	state   *state
	rule    *rule // that refused it, or nil
	request request
}

// maxLogged is among how many sources and operations of ALLOW rules the cause
// of a denial looks for the nearest miss. Callers can get refused as often as
// they like, so that the work for a log line has a bound. [Engine.Explain] looks
// at all.
const maxLogged = 512

func (r *refusal) Error() string {
	return r.state.explain(&r.request, Deny, r.rule, maxLogged).String()
}
