package auth

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
)

// TokenVerifier says what tokens stand for that cannot be verified with keys: by
// token introspection (see [Introspection]), or as the application likes (see
// [VerifierFunc]). It must be safe for concurrent use.
type TokenVerifier interface {
	// VerifyToken returns the claims of a token that is good, as decoded JSON
	// with the names of RFC 7662 §2.2, such as sub, aud, scope and exp.
	//
	// [ErrInactive] says that the token is not good, which ends it; a
	// [*gatemesh.Denial] with Unauthenticated or PermissionDenied refuses the
	// call as it is. Any other error, and a panic, says that nothing is known:
	// then the call is refused as [Config.UnavailableStatus] says, and it counts
	// against the verifier, whose breaker opens in the end.
	//
	// ctx ends with [Opaque.Timeout] and not with the call, as other calls may
	// wait for the same token.
	VerifyToken(ctx context.Context, token string) (claims map[string]any, err error)
}

// VerifierFunc makes a [TokenVerifier] of a function.
type VerifierFunc func(ctx context.Context, token string) (claims map[string]any, err error)

// VerifyToken calls f.
func (f VerifierFunc) VerifyToken(ctx context.Context, token string) (map[string]any, error) {
	return f(ctx, token)
}

// ErrInactive is what a [TokenVerifier] returns for a token that is not good.
var ErrInactive = errors.New("auth: the token is not active")

// Opaque says how tokens are verified that say nothing by themselves, and JWTs
// of which no [Issuer] is configured.
//
// Every token costs a call of the Verifier once per [Config.CacheTTL], and
// anybody can invent tokens. So there are at most MaxConcurrent calls, one for a
// token at a time, a token that is not good is remembered for a moment, and a
// breaker keeps calls away from a Verifier that is down. Who may invent how many
// is for a limit by address before it.
type Opaque struct {
	// Verifier says what a token stands for. Required. The caller closes it,
	// after the Authenticator's last use.
	Verifier TokenVerifier
	// Issuer is the issuer of the principals. Claims with another iss are
	// refused. Required.
	Issuer string
	// Audience lists whom a token may be for. Required, unless
	// InsecureAnyAudience is set. The token must name at least one of them.
	Audience []string
	// AudienceClaim is the claim that names the audience, a string or an array
	// of strings. Default: "aud".
	AudienceClaim string
	// InsecureAnyAudience accepts tokens for everybody: each service that gets
	// one can use it here.
	InsecureAnyAudience bool
	// RequiredScopes are scopes that every token must carry; a token without
	// one of them is refused with 403. nil is none; an empty list is an error.
	RequiredScopes []string
	// Leeway is the difference of clocks that is tolerated in exp, nbf and iat.
	// Default: 0, none. At most 2 minutes.
	Leeway time.Duration
	// Lifetime is when a token without exp ends, counted from its verification.
	// Default: 0, which refuses such tokens. At most 24 hours.
	Lifetime time.Duration
	// Timeout bounds how long a call waits, for a place among MaxConcurrent and
	// the answer together, and how long the Verifier is given for one. 1 ms to 1
	// minute. Default: 2 seconds.
	Timeout time.Duration
	// MaxConcurrent bounds the calls of the Verifier. 1 to 10,000. Default: 100.
	MaxConcurrent int
	// InactiveTTL is for how long a token that is not good is refused without
	// another call. Below 0 is not at all; at most 1 minute. Default: 5 seconds.
	InactiveTTL time.Duration
	// Breaker says when no more calls are made, and for how long. Default: after
	// 5 failures in a row, for 5 seconds. No answer, 429, 502, 503 and 504 of an
	// endpoint, and any other error of a Verifier, are failures; a token that is
	// not good is not.
	Breaker breaker.Policy
	// Observer hears of the breaker. Default: nobody.
	Observer gatemesh.Observer
}

func (o Opaque) withDefaults() Opaque {
	if o.AudienceClaim == "" {
		o.AudienceClaim = "aud"
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.MaxConcurrent == 0 {
		o.MaxConcurrent = 100
	}
	if o.InactiveTTL == 0 {
		o.InactiveTTL = 5 * time.Second
	}
	if o.Breaker.Failures == 0 && o.Breaker.FailureRate == 0 {
		o.Breaker.Failures = 5
	}
	o.Audience, o.RequiredScopes = slices.Clone(o.Audience), slices.Clone(o.RequiredScopes)
	return o
}

func (o *Opaque) validate(f *faults) {
	const at = "Config.Opaque"
	if o.Verifier == nil || isNil(o.Verifier) {
		f.add(at + ".Verifier is required")
	}
	if o.Issuer == "" {
		f.add(at + ".Issuer is required")
	}
	switch {
	case len(o.Audience) == 0 && !o.InsecureAnyAudience:
		f.add(at + ".Audience is required")
	case len(o.Audience) > 0 && o.InsecureAnyAudience:
		f.add(at + ".InsecureAnyAudience contradicts Audience")
	case slices.Contains(o.Audience, ""):
		f.add(at + ".Audience contains an empty string")
	}
	checkScopes(f, at+".RequiredScopes", o.RequiredScopes)
	checkRange(f, at+".Leeway", o.Leeway, 0, maxLeeway)
	checkRange(f, at+".Lifetime", o.Lifetime, 0, 24*time.Hour)
	checkRange(f, at+".Timeout", o.Timeout, time.Millisecond, time.Minute)
	checkRange(f, at+".MaxConcurrent", o.MaxConcurrent, 1, 10_000)
	if o.InactiveTTL > time.Minute {
		f.add(at+".InactiveTTL %v is longer than 1m0s", o.InactiveTTL)
	}
	if _, err := o.newBreaker(); err != nil {
		f.add(at+".Breaker: %w", err)
	}
}

func (o *Opaque) newBreaker() (*breaker.Breaker, error) {
	return breaker.New(breaker.Config{Name: "tokens of " + o.Issuer, Policy: o.Breaker, Observer: o.Observer})
}

// opaque is an [Opaque], made ready.
type opaque struct {
	cfg     Opaque
	is      *issuer // what judges the claims
	breaker *breaker.Breaker
	places  chan struct{}
	refused refusals
}

func newOpaque(cfg *Opaque, realm string) (*opaque, error) {
	b, err := cfg.newBreaker()
	if err != nil {
		return nil, err
	}
	o := &opaque{cfg: *cfg, breaker: b, places: make(chan struct{}, cfg.MaxConcurrent)}
	o.refused.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	o.is = newIssuer(Issuer{
		Issuer: cfg.Issuer, Audience: cfg.Audience, AudienceClaim: cfg.AudienceClaim, Leeway: cfg.Leeway, RequiredScopes: cfg.RequiredScopes,
	}, realm)
	o.is.opaque = o
	return o, nil
}

// same reports whether o decides as one made of cfg and realm would.
func (o *opaque) same(cfg *Opaque, realm string) bool {
	a, b := o.cfg, *cfg
	like := sameValue(a.Verifier, b.Verifier) && sameValue(a.Observer, b.Observer) && o.is.realm == realm &&
		slices.Equal(a.Audience, b.Audience) && slices.Equal(a.RequiredScopes, b.RequiredScopes)
	return like && a.Issuer == b.Issuer && a.AudienceClaim == b.AudienceClaim && a.InsecureAnyAudience == b.InsecureAnyAudience &&
		a.Leeway == b.Leeway && a.Lifetime == b.Lifetime && a.Timeout == b.Timeout && a.MaxConcurrent == b.MaxConcurrent &&
		a.InactiveTTL == b.InactiveTTL && a.Breaker == b.Breaker
}

// verifyOpaque has the Verifier say what raw stands for, and lands fl, which
// other calls may wait for. It returns as soon as the call of the Verifier has
// begun: ctx is of a caller that may leave.
func (s *state) verifyOpaque(ctx context.Context, raw string, fl *flight) {
	o := s.opaque
	refuse := func(d *gatemesh.Denial) {
		fl.denial = d
		s.flights.land(raw, fl)
	}
	if d := o.refused.get(raw, time.Now()); d != nil {
		refuse(d)
		return
	}
	switch {
	case !isB64Token(raw):
		refuse(s.deny.malformed.WithCause(errB64Token))
		return
	case o.breaker.State() == breaker.Open && o.breaker.Remaining() > 0: // not worth a place
		refuse(s.unavailable(errBreakerOpen))
		return
	}
	select {
	case o.places <- struct{}{}:
	case <-ctx.Done():
		fl.abandoned = true
		s.flights.land(raw, fl)
		return
	}
	permit, err := o.breaker.Acquire(ctx)
	if err != nil {
		<-o.places
		refuse(s.unavailable(err))
		return
	}
	raw = strings.Clone(raw) // which may be part of a large header
	go func() {
		defer s.flights.land(raw, fl)
		defer func() { <-o.places }()
		defer permit.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.cfg.Timeout)
		defer cancel()
		claims, err := o.ask(ctx, raw)
		fl.v, fl.denial = s.judgeAnswer(raw, claims, err, permit)
	}()
}

var (
	errB64Token    = errors.New("the token has characters that none has (RFC 6750 §2.1)")
	errBreakerOpen = errors.New("the breaker of the token verifier is open")
	errTooSlow     = errors.New("neither a place among MaxConcurrent nor an answer came within Timeout")
)

// ask calls the Verifier, which may panic.
func (o *opaque) ask(ctx context.Context, raw string) (claims map[string]any, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the token verifier panicked: %v", v)
		}
	}()
	return o.cfg.Verifier.VerifyToken(ctx, raw)
}

// judgeAnswer makes a judgment of what the Verifier said, and tells the breaker.
func (s *state) judgeAnswer(raw string, claims map[string]any, err error, permit *breaker.Permit) (*verified, *gatemesh.Denial) {
	var d *gatemesh.Denial
	var answer *statusError
	now := time.Now()
	switch {
	case errors.Is(err, ErrInactive):
		permit.Success()
		s.opaque.refused.add(raw, s.deny.inactive, now, s.opaque.cfg.InactiveTTL)
		return nil, s.deny.inactive.WithCause(err)
	case errors.As(err, &d) && d != nil && (d.Code == gatemesh.Unauthenticated || d.Code == gatemesh.PermissionDenied):
		permit.Success()
		return nil, d
	case errors.As(err, &answer):
		// Other answers are about us, such as our secret, or about the token: who
		// knows one that is answered with 500 is not to open the breaker with it,
		// nor to keep its probes for himself.
		switch answer.status {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			permit.Failure(answer.after)
		default:
			permit.Success()
		}
		return nil, s.unavailable(err)
	case errors.Is(err, errUnreadable):
		permit.Success() // likewise
		return nil, s.unavailable(err)
	case err != nil:
		permit.Failure(0)
		return nil, s.unavailable(err)
	}
	permit.Success()
	v, d := s.judgeClaims(raw, claims, now)
	if d != nil && d != s.deny.notYet {
		s.opaque.refused.add(raw, d, now, s.opaque.cfg.InactiveTTL)
	}
	return v, d
}

// judgeClaims judges the claims of a token that is active.
func (s *state) judgeClaims(raw string, m map[string]any, now time.Time) (*verified, *gatemesh.Denial) {
	o, is := s.opaque, s.opaque.is
	c, err := readClaims(m, is.cfg.AudienceClaim)
	if err == nil && c.expires.IsZero() {
		if o.cfg.Lifetime == 0 {
			err = errNoExpiry
		}
		c.expires = now.Add(o.cfg.Lifetime)
	}
	if iss, ok := m["iss"]; ok && iss != is.cfg.Issuer {
		return nil, s.deny.issuer
	}
	if d := s.checkTimes(is, &c, err, now); d != nil {
		return nil, d
	}
	if !o.cfg.InsecureAnyAudience && !is.isFor(c.audience) {
		return nil, s.deny.audience
	}
	if d := is.checkScopes(c.scopes); d != nil {
		return nil, d
	}
	method := "function"
	if _, ok := o.cfg.Verifier.(*Introspection); ok {
		method = "introspection"
	}
	v := &verified{
		raw: raw, issuer: is, at: now.UnixNano(), expires: unixNano(c.expires), issued: unixNano(c.issued),
		until: c.expires.Add(is.cfg.Leeway),
		principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
			Issuer: is.cfg.Issuer, Subject: c.subject, Scopes: c.scopes, Claims: m, Method: method,
			Expires: c.expires, Audience: c.audience, Credential: c.id,
		}),
	}
	s.remember(v)
	return v, nil
}

// isB64Token reports whether s is a b64token (RFC 6750 §2.1).
func isB64Token(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '-', c == '.', c == '_', c == '~', c == '+', c == '/':
		default:
			return false
		}
	}
	return s != ""
}

// maxRefused bounds the memory of tokens that are not good. Whoever fills it
// makes others of its kind be asked about again, and nothing else.
const maxRefused = 10_000

// refusals remembers tokens that are not good, by two hashes that nobody outside
// can compute.
type refusals struct {
	seeds [2]maphash.Seed
	mu    sync.Mutex
	by    map[[2]uint64]refusal
}

type refusal struct {
	denial *gatemesh.Denial
	until  time.Time
}

func (n *refusals) key(raw string) [2]uint64 {
	return [2]uint64{maphash.String(n.seeds[0], raw), maphash.String(n.seeds[1], raw)}
}

// get returns how raw is to be refused, or nil.
func (n *refusals) get(raw string, now time.Time) *gatemesh.Denial {
	k := n.key(raw)
	n.mu.Lock()
	defer n.mu.Unlock()
	if r := n.by[k]; now.Before(r.until) {
		return r.denial
	}
	return nil
}

func (n *refusals) add(raw string, d *gatemesh.Denial, now time.Time, ttl time.Duration) {
	if ttl <= 0 {
		return
	}
	k := n.key(raw)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by == nil {
		n.by = map[[2]uint64]refusal{}
	}
	for old := range n.by { // any, as the order of a map is random
		if len(n.by) < maxRefused {
			break
		}
		delete(n.by, old)
	}
	n.by[k] = refusal{d, now.Add(ttl)}
}
