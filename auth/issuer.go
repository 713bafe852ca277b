package auth

import (
	"context"
	"errors"
	"maps"
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
// Everything that costs little is judged before the signature, and all of it
// before the issuer's keys may be fetched.
func (s *state) verify(ctx context.Context, raw string, now time.Time) (*verified, *gatemesh.Denial) {
	t, err := parseToken(raw)
	if err != nil {
		return nil, s.deny.malformed.WithCause(err)
	}
	name, _ := t.payload["iss"].(string)
	i := slices.IndexFunc(s.issuers, func(is *issuer) bool { return is.cfg.Issuer == name })
	if i < 0 {
		return nil, s.deny.issuer // iss is a claim, and claims are not logged
	}
	is := s.issuers[i]
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
	default:
		return nil, s.deny.keyUnknown.WithCause(&quotedError{name, "no key for kid", t.kid})
	}
	if methods[t.alg].Verify(t.signed, t.signature, k.key) != nil {
		return nil, s.deny.signature.WithCause(&quotedError{name, "the signature is not of the key with kid", t.kid})
	}
	for _, scope := range is.cfg.RequiredScopes {
		if !slices.Contains(c.scopes, scope) {
			return nil, is.denyScope.WithCause(errors.New("lacks " + scope))
		}
	}
	v := &verified{
		raw: strings.Clone(raw), issuer: is, kid: t.kid, alg: t.alg, key: k, at: now.UnixNano(),
		expires: c.expires.UnixNano(), until: until,
		principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
			Issuer: name, Subject: c.subject, Scopes: c.scopes, Claims: t.payload, Method: "jwt",
			Expires: c.expires, Audience: c.audience, Credential: c.id,
		}),
	}
	v.keys.Store(keys)
	if v.expires > v.at { // else it is alive by leeway alone
		s.cache.put(v, v.at)
	}
	return v, nil
}

// checkClaims judges everything but the signature and the scopes.
func (s *state) checkClaims(is *issuer, t *token, now time.Time) (claims, *gatemesh.Denial) {
	c, err := readClaims(t.payload, is.cfg.AudienceClaim)
	leeway := is.cfg.Leeway
	switch {
	case err != nil:
		return c, s.deny.malformed.WithCause(err)
	case !slices.Contains(is.cfg.Algorithms, t.alg):
		return c, s.deny.algorithm.WithCause(&quotedError{is.cfg.Issuer, "not among the algorithms:", t.alg})
	case !slices.Contains(is.cfg.TokenTypes, mediaType(t.typ)):
		return c, s.deny.typ.WithCause(&quotedError{is.cfg.Issuer, "not among the token types:", t.typ})
	case !now.Before(c.expires.Add(leeway)):
		return c, s.deny.expired
	case now.Before(c.notBefore.Add(-leeway)), now.Before(c.issued.Add(-leeway)):
		return c, s.deny.notYet
	case !slices.ContainsFunc(c.audience, func(a string) bool { return slices.Contains(is.cfg.Audience, a) }):
		return c, s.deny.audience
	}
	for name, want := range is.cfg.RequiredClaims {
		if got, ok := t.payload[name].(string); !ok || got != want {
			return c, s.deny.claim.WithCause(errors.New("lacks the required " + name))
		}
	}
	return c, nil
}
