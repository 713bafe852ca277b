package auth

import (
	"context"
	"errors"
	"maps"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// issuer is an [Issuer], made ready. Its address stands for its configuration:
// what was verified by it holds while it is in use.
type issuer struct {
	cfg       Issuer
	denyScope *gatemesh.Denial
	realm     string
	opaque    *opaque // whose claims it judges, or nil
}

func newIssuer(cfg Issuer, realm string) *issuer {
	return &issuer{cfg: cfg, realm: realm, denyScope: denyScope(realm, cfg.RequiredScopes)}
}

// same reports whether o decides like is.
func (is *issuer) same(o *issuer) bool {
	a, b := &is.cfg, &o.cfg
	return a.Issuer == b.Issuer && slices.Equal(a.Audience, b.Audience) && a.AudienceClaim == b.AudienceClaim &&
		slices.Equal(a.Algorithms, b.Algorithms) && sameSource(a.Keys, b.Keys) && a.Leeway == b.Leeway &&
		slices.Equal(a.RequiredScopes, b.RequiredScopes) && maps.Equal(a.RequiredClaims, b.RequiredClaims) &&
		slices.Equal(a.TokenTypes, b.TokenTypes) && is.realm == o.realm
}

// sameSource compares sources, of which foreign ones may not be comparable.
func sameSource(a, b KeySource) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// verify judges a token that the cache does not know and remembers it.
func (s *state) verify(ctx context.Context, raw string, now time.Time) (*verified, *gatemesh.Denial) {
	t, err := parseToken(raw)
	if err == nil {
		name, _ := t.payload["iss"].(string)
		if i := slices.IndexFunc(s.issuers, func(is *issuer) bool { return is.cfg.Issuer == name }); i >= 0 {
			return s.verifyJWT(ctx, s.issuers[i], raw, t, now)
		}
	}
	switch {
	case s.opaque != nil:
		wait, cancel := context.WithTimeout(ctx, s.opaque.cfg.Timeout)
		defer cancel()
		v, d := s.flights.verify(wait, raw, func(fl *flight) { s.verifyOpaque(wait, raw, fl) })
		if v == nil && wait.Err() != nil && ctx.Err() == nil {
			d = s.unavailable(errTooSlow)
		}
		return v, d
	case err != nil:
		return nil, s.deny.malformed.WithCause(err)
	}
	return nil, s.deny.issuer // iss is a claim, and claims are not logged
}

// verifyJWT judges a token of is. Everything that costs little is judged before
// the signature, and all of it before the issuer's keys may be fetched.
func (s *state) verifyJWT(ctx context.Context, is *issuer, raw string, t *token, now time.Time) (*verified, *gatemesh.Denial) {
	name := is.cfg.Issuer
	c, d := s.checkClaims(is, t, now)
	if d != nil {
		return nil, d
	}
	keys := is.cfg.Keys.Keys(now)
	k, known := keys.find(t.kid, t.alg)
	if k == nil && !known {
		keys = is.cfg.Keys.Refresh(ctx, t.kid)
		k, known = keys.find(t.kid, t.alg)
		now = time.Now()
	}
	until := c.expires.Add(is.cfg.Leeway)
	switch {
	case ctx.Err() != nil:
		return nil, gatemesh.AsDenial(ctx, ctx.Err())
	case !now.Before(until): // it has, while we waited
		return nil, s.deny.expired
	case k != nil:
	case known:
		return nil, s.deny.algorithm.WithCause(&quotedError{name, "the key is not one for algorithm", t.alg})
	case s.cfg.UnavailableStatus != http.StatusUnauthorized && unavailable(is.cfg.Keys, now):
		return nil, s.unavailable(&quotedError{name, "keys cannot be had; no key for kid", t.kid})
	default:
		return nil, s.deny.keyUnknown.WithCause(&quotedError{name, "no key for kid", t.kid})
	}
	v, d := s.flights.verify(ctx, raw, func(fl *flight) {
		fl.v, fl.denial = s.verifySignature(is, raw, t, &c, k, keys, now)
		s.flights.land(raw, fl)
	})
	if v != nil && v.issuer == is && v.key.equal(k) || d != nil {
		return v, d
	}
	return s.verifySignature(is, raw, t, &c, k, keys, now) // the key has changed meanwhile
}

// verifySignature judges the signature by k, of keys, and then the scopes.
func (s *state) verifySignature(is *issuer, raw string, t *token, c *claims, k *key, keys *Keys, now time.Time) (*verified, *gatemesh.Denial) {
	name := is.cfg.Issuer
	if methods[t.alg].Verify(t.signed, t.signature, k.key) != nil {
		return nil, s.deny.signature.WithCause(&quotedError{name, "the signature is not of the key with kid", t.kid})
	}
	if d := is.checkScopes(c.scopes); d != nil {
		return nil, d
	}
	v := &verified{
		raw: strings.Clone(raw), issuer: is, kid: t.kid, alg: t.alg, key: k, at: now.UnixNano(),
		expires: unixNano(c.expires), issued: unixNano(c.issued), until: c.expires.Add(is.cfg.Leeway),
		principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
			Issuer: name, Subject: c.subject, Scopes: c.scopes, Claims: t.payload, Method: "jwt",
			Expires: c.expires, Audience: c.audience, Credential: c.id,
		}),
	}
	v.keys.Store(keys)
	s.remember(v)
	return v, nil
}

// unixNano returns 0 for the zero time, and the end of time, which is in 2262,
// for all that is later.
func unixNano(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Unix() >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// remember keeps v, unless it is alive by leeway alone.
func (s *state) remember(v *verified) {
	if v.expires > v.at {
		s.cache.put(v, v.at)
	}
}

// unavailable reports whether a key may be unknown because the issuer's keys
// could not be had.
func unavailable(keys KeySource, now time.Time) bool {
	f, ok := keys.(interface{ Failing() bool })
	return keys.Keys(now) == nil || ok && f.Failing()
}

func (is *issuer) isFor(audience []string) bool {
	return slices.ContainsFunc(audience, func(a string) bool { return slices.Contains(is.cfg.Audience, a) })
}

func (is *issuer) checkScopes(scopes []string) *gatemesh.Denial {
	for _, scope := range is.cfg.RequiredScopes {
		if !slices.Contains(scopes, scope) {
			return is.denyScope.WithCause(errors.New("lacks " + scope))
		}
	}
	return nil
}

// checkClaims judges everything but the signature and the scopes.
func (s *state) checkClaims(is *issuer, t *token, now time.Time) (claims, *gatemesh.Denial) {
	c, err := readClaims(t.payload, is.cfg.AudienceClaim)
	if err == nil && c.expires.IsZero() {
		err = errNoExpiry
	}
	if err != nil {
		return c, s.deny.malformed.WithCause(err)
	}
	switch {
	case !slices.Contains(is.cfg.Algorithms, t.alg):
		return c, s.deny.algorithm.WithCause(&quotedError{is.cfg.Issuer, "not among the algorithms:", t.alg})
	case !slices.Contains(is.cfg.TokenTypes, mediaType(t.typ)):
		return c, s.deny.typ.WithCause(&quotedError{is.cfg.Issuer, "not among the token types:", t.typ})
	}
	if d := s.checkTimes(is, &c, nil, now); d != nil {
		return c, d
	}
	if !is.isFor(c.audience) {
		return c, s.deny.audience
	}
	for name, want := range is.cfg.RequiredClaims {
		if got, ok := t.payload[name].(string); !ok || got != want {
			return c, s.deny.claim.WithCause(errors.New("lacks the required " + name))
		}
	}
	return c, nil
}

// checkTimes judges claims of which err says whether they could be read.
func (s *state) checkTimes(is *issuer, c *claims, err error, now time.Time) *gatemesh.Denial {
	leeway := is.cfg.Leeway
	switch {
	case err != nil:
		return s.deny.malformed.WithCause(err)
	case !now.Before(c.expires.Add(leeway)):
		return s.deny.expired
	case now.Before(c.notBefore.Add(-leeway)), now.Before(c.issued.Add(-leeway)):
		return s.deny.notYet
	}
	return nil
}
