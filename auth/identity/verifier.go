package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// VerifierConfig configures a [Verifier]. Issuer, Audience and Keys are required.
type VerifierConfig struct {
	// Issuer is [MinterConfig.Issuer], compared byte for byte. Required.
	Issuer string
	// Audience is who we are; a token must name one of these. Required.
	Audience []string
	// Keys verify tokens. Required; a set that is empty is an error.
	Keys KeySource
	// MaxLifetime is the longest exp - iat that is accepted, 5 s to 1 h.
	// Default: 10 min, the most that a Minter can be set to.
	MaxLifetime time.Duration
	// Leeway is how far the clocks of edge and service may be apart: a token
	// counts that much longer, and may be issued that far in the future. 1 ns
	// to 1 min. Default: 5 s.
	Leeway time.Duration
	// Optional admits calls without an identity, and leaves them without a
	// Principal. An identity that does not verify is refused all the same.
	// Default: 401 identity_missing.
	Optional bool
	// CacheEntries is how many verified tokens are remembered, 1 to 1,048,576;
	// the cache has room for up to twice as many, each with its token of at
	// most 8 KiB and its Principal. Default: 8192.
	CacheEntries int
	// Observer is told by [Verifier.Handler] of requests that did not come
	// through an Entry. Default: nobody.
	Observer gatemesh.Observer
}

func (cfg VerifierConfig) validate() error {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("identity: VerifierConfig."+format, args...))
	}
	checkNames(fault, cfg.Issuer, cfg.Audience)
	switch {
	case cfg.Keys == nil:
		fault("Keys is required")
	case noKeys(cfg.Keys):
		fault("Keys is empty; every call would be refused")
	}
	if cfg.MaxLifetime < 5*time.Second || cfg.MaxLifetime > time.Hour {
		fault("MaxLifetime is %v; it must be 5s to 1h", cfg.MaxLifetime)
	}
	if cfg.Leeway < 0 || cfg.Leeway > time.Minute {
		fault("Leeway is %v; it must be up to 1m", cfg.Leeway)
	}
	checkEntries(fault, cfg.CacheEntries)
	return errors.Join(errs...)
}

// Verifier is the inbound gate of a service. It takes the identity that
// [gatemesh.Entry] moved off the request and admits the call as the user whom
// the edge saw: with the token's Principal and, if it has one, its lane. A call
// with no identity, more than one, or one that does not verify is answered with
// 401.
//
// A verified token is remembered, found again by comparing all of it, and good
// for as long as it has not expired and its key is the one that [KeySource]
// gives. An identity says who the user was when the call began: it sets no
// [gatemesh.Admission.Until], and streams may live longer than it.
//
// The zero Verifier denies every call; use [NewVerifier].
type Verifier struct{ state gatemesh.Live[verifierState] }

type verifierState struct {
	VerifierConfig
	tokens *cache[string, verified]
}

// verified is what a token said, and what that still hangs on.
type verified struct {
	from, until int64 // Unix ns, leeway included
	keyID       string
	key         ed25519.PublicKey
	principal   *gatemesh.Principal
	lane        string
}

// challenge is there because a 401 must have one (RFC 9110 §15.5.2).
var challenge = gatemesh.Field{Name: "WWW-Authenticate", Value: "Gatemesh-Identity"}

func deny401(reason, detail string) *gatemesh.Denial {
	return gatemesh.Deny(gatemesh.Unauthenticated, reason, detail).WithField(challenge.Name, challenge.Value)
}

var (
	denyUnready    = gatemesh.Deny(gatemesh.Internal, "identity_unverifiable", "The request could not be processed.")
	denyNoVerifier = denyUnready.WithCause(errors.New("the identity verifier is not configured"))
	denyUnreserved = denyUnready.WithCause(errors.New("the entry does not reserve " + gatemesh.IdentityHeader))

	denyMissing   = deny401("identity_missing", "The call carries no internal identity.")
	denyAmbiguous = deny401("identity_ambiguous", "The call carries more than one internal identity.")
	denyInvalid   = deny401("identity_invalid", "The internal identity is not valid.")
	denyExpired   = deny401("identity_expired", "The internal identity has expired.")

	denyIssuer   = denyInvalid.WithCause(errors.New("token has another issuer"))
	denyAudience = denyInvalid.WithCause(errors.New("token is for another audience"))
	denyTimes    = denyInvalid.WithCause(errors.New("token has no lifetime, or one longer than MaxLifetime"))
	denyFuture   = denyInvalid.WithCause(errors.New("token was issued in the future"))
	denyNoUser   = denyInvalid.WithCause(errors.New("token has neither sub nor client_id"))
)

// NewVerifier returns a Verifier. It reports every invalid field at once.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	v := &Verifier{}
	if err := v.Update(cfg); err != nil {
		return nil, err
	}
	return v, nil
}

// Update replaces the configuration for the calls that start from now on, and
// forgets the tokens verified under the old one. If cfg is invalid, the old
// configuration stays. To replace keys alone, use [Keys.Set].
func (v *Verifier) Update(cfg VerifierConfig) error { return gatemesh.Apply(v.Change(cfg)) }

// Change is [Verifier.Update] as a part of [gatemesh.Apply].
func (v *Verifier) Change(cfg VerifierConfig) gatemesh.Change {
	return gatemesh.NewChange(&v.state, func(*verifierState) (*verifierState, error) { return newVerifierState(cfg) }, nil)
}

func newVerifierState(cfg VerifierConfig) (*verifierState, error) {
	cfg.MaxLifetime = cmp.Or(cfg.MaxLifetime, 10*time.Minute)
	cfg.Leeway = cmp.Or(cfg.Leeway, 5*time.Second)
	cfg.CacheEntries = cmp.Or(cfg.CacheEntries, defaultEntries)
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.Audience = slices.Clone(cfg.Audience)
	return &verifierState{cfg, newCache[string, verified](cfg.CacheEntries)}, nil
}

// Layer returns v for [gatemesh.NewChain].
func (v *Verifier) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name: "identity", Gate: v,
		Gives: []gatemesh.Fact{gatemesh.FactPrincipal}, After: []gatemesh.Fact{gatemesh.FactPeer},
	}
}

// Handler returns next behind v, for use without a Chain, behind
// [gatemesh.Entry.Handler]. It keeps the Observer that v has now.
func (v *Verifier) Handler(next http.Handler) http.Handler {
	var o gatemesh.Observer
	if s := v.state.Latest(); s != nil {
		o = s.Observer
	}
	return gatemesh.GateHandler(v.Layer(), o)(next)
}

// Admit implements [gatemesh.Gate].
func (v *Verifier) Admit(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	s := v.state.For(c)
	token, err := s.take(c)
	if err != nil || token == "" {
		return gatemesh.Admission{}, err
	}
	now := time.Now()
	t := s.remembered(token, now)
	if t == nil {
		if t, err = s.verify(token, now); err != nil {
			return gatemesh.Admission{}, err
		}
	}
	return gatemesh.Admission{Principal: t.principal, Lane: t.lane}, nil
}

// AdmitCached implements [gatemesh.CachedGate]. It leaves to Admit the tokens
// whose signature has to be verified.
func (v *Verifier) AdmitCached(_ context.Context, c *gatemesh.Call) (adm gatemesh.Admission, ok bool, err error) {
	s := v.state.For(c)
	token, err := s.take(c)
	if err != nil || token == "" {
		return gatemesh.Admission{}, true, err
	}
	if t := s.remembered(token, time.Now()); t != nil {
		return gatemesh.Admission{Principal: t.principal, Lane: t.lane}, true, nil
	}
	return gatemesh.Admission{}, false, nil
}

// take returns the one identity of the call. None at all is "" without an
// error if that is allowed. s may be nil.
func (s *verifierState) take(c *gatemesh.Call) (string, error) {
	if s == nil {
		return "", denyNoVerifier
	}
	slot, ok := c.Reserved(gatemesh.IdentityHeader)
	switch {
	case !ok:
		return "", denyUnreserved
	case slot.Count == 0 && s.Optional:
		return "", nil
	case slot.Count == 0:
		return "", denyMissing
	case slot.Count > 1:
		return "", denyAmbiguous
	case slot.Value == "":
		return "", denyInvalid.WithCause(errForm)
	}
	return slot.Value, nil
}

// remembered returns what token said if it was verified before and would be again.
func (s *verifierState) remembered(token string, now time.Time) *verified {
	t := s.tokens.get(token)
	if t == nil || now.UnixNano() < t.from || now.UnixNano() >= t.until {
		return nil
	}
	if key, ok := s.Keys.Key(t.keyID); !ok || !bytes.Equal(key, t.key) {
		return nil
	}
	return t
}

func (s *verifierState) verify(token string, now time.Time) (*verified, error) {
	j, err := split(token)
	if err != nil {
		return nil, denyInvalid.WithCause(err)
	}
	key, ok := s.Keys.Key(j.keyID)
	if !ok || len(key) != ed25519.PublicKeySize {
		return nil, denyInvalid.WithCause(fmt.Errorf("key %q is unknown", j.keyID))
	}
	c, err := j.open(key)
	if err != nil {
		return nil, denyInvalid.WithCause(err)
	}
	if err := s.check(c, now); err != nil {
		return nil, err
	}
	t := verified{
		from: c.IssuedAt*1e9 - int64(s.Leeway), until: c.Expires*1e9 + int64(s.Leeway),
		keyID: j.keyID, key: bytes.Clone(key), principal: c.principal(), lane: c.Lane,
	}
	// The clone keeps the cache from holding on to a buffer of the transport.
	return s.tokens.put(strings.Clone(token), t.until, t), nil
}

// check judges the claims of a token whose signature is good.
func (s *verifierState) check(c *claims, now time.Time) error {
	iat, exp := time.Unix(c.IssuedAt, 0), time.Unix(c.Expires, 0)
	switch {
	case c.Issuer != s.Issuer:
		return denyIssuer
	case !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(s.Audience, a) }):
		return denyAudience
	case c.Expires <= c.IssuedAt || c.Expires > maxTime || exp.Sub(iat) > s.MaxLifetime:
		return denyTimes
	case now.Add(s.Leeway).Before(iat):
		return denyFuture
	case !now.Before(exp.Add(s.Leeway)):
		return denyExpired
	case c.Subject == "" && c.Consumer == "":
		return denyNoUser
	}
	return nil
}

func (c *claims) principal() *gatemesh.Principal {
	all := c.Claims // ours alone, and NewPrincipal copies it
	if c.OrigMethod != "" {
		if all == nil {
			all = make(map[string]any, 1)
		}
		all[MethodClaim] = c.OrigMethod
	}
	return gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Issuer: c.OrigIssuer, Subject: c.Subject, Consumer: c.Consumer, Scopes: c.Scopes, Claims: all,
		Method: method, Expires: time.Unix(c.Expires, 0), Audience: c.Audience,
	})
}
