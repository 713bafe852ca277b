package auth

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Authenticator is the gate that says who calls, by bearer token or API key.
// It gives [gatemesh.FactPrincipal]. Calls without a credential are refused,
// or have no principal with [Config.InsecureAnonymous].
// Make one with [New]; it is safe for concurrent use.
//
// Fails closed: when an issuer's keys, its introspection or a [KeyStore] cannot be
// had, credentials are refused with 401 (see [Config.UnavailableStatus]); API keys
// in memory, tokens with known keys and those that are remembered do not depend
// on anybody.
type Authenticator struct {
	state    gatemesh.Live[state]
	observer gatemesh.Observer
}

var _ gatemesh.CachedGate = (*Authenticator)(nil)

// state is one configuration, made ready. It is immutable; a call uses one.
type state struct {
	cfg                                      Config
	issuers                                  []*issuer
	opaque                                   *opaque // or nil
	flights                                  flights
	cache                                    *cache
	counts                                   *counts // of all configurations
	deny                                     denials
	http                                     fieldNames
	grpc                                     fieldNames
	tokenIn, cookieIn, parameterIn, apiKeyIn []string // Admission.Consumed
}

// New returns an Authenticator for cfg. It reports every invalid field at once.
func New(cfg Config) (*Authenticator, error) {
	a := &Authenticator{observer: cfg.Observer}
	if err := a.Update(cfg); err != nil {
		return nil, err
	}
	return a, nil
}

// Update replaces the configuration for the calls that start from now on. If
// cfg is invalid, the old one stays. Verified tokens of issuers whose
// configuration is the same, with the same [Issuer.Keys], stay remembered,
// unless CacheEntries has changed. The Observer is the one New was given.
func (a *Authenticator) Update(cfg Config) error { return gatemesh.Apply(a.Change(cfg)) }

// Change is [Authenticator.Update] as a part of [gatemesh.Apply].
func (a *Authenticator) Change(cfg Config) gatemesh.Change {
	return gatemesh.NewChange(&a.state, func(old *state) (*state, error) { return newState(cfg, old) }, nil)
}

func newState(cfg Config, old *state) (*state, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &state{
		cfg: cfg, deny: newDenials(&cfg),
		tokenIn: []string{"Authorization"}, apiKeyIn: []string{cfg.APIKeyHeader},
		cookieIn: []string{"cookie:" + cfg.TokenCookie}, parameterIn: []string{"query:" + cfg.TokenParameter},
	}
	s.http, s.grpc = newFieldNames(&cfg)
	for i := range cfg.Issuers {
		is := newIssuer(cfg.Issuers[i], cfg.Realm)
		if old != nil {
			if j := slices.IndexFunc(old.issuers, is.same); j >= 0 {
				is = old.issuers[j]
			}
		}
		s.issuers = append(s.issuers, is)
	}
	if o := cfg.Opaque; o != nil {
		if old != nil && old.opaque != nil && old.opaque.same(o, cfg.Realm) && old.names(s.issuers) {
			s.opaque = old.opaque
		} else if made, err := newOpaque(o, cfg.Realm); err != nil {
			return nil, err
		} else {
			s.opaque = made
		}
	}
	s.counts = new(counts)
	if old != nil {
		s.counts = old.counts
	}
	if old != nil && old.cfg.CacheEntries == cfg.CacheEntries {
		s.cache = old.cache
	} else {
		s.cache = newCache(cfg.CacheEntries)
	}
	return s, nil
}

// names reports whether issuers have the names of those of s. If not, tokens that
// were judged by Opaque may belong to one of them now.
func (s *state) names(issuers []*issuer) bool {
	return slices.EqualFunc(s.issuers, issuers, func(a, b *issuer) bool { return a.cfg.Issuer == b.cfg.Issuer })
}

// Layer returns the gate for a [gatemesh.Chain]: behind a limit by address,
// so that guessing is limited; behind route and peer, if those are there; and
// before whatever needs the principal.
func (a *Authenticator) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name:  "auth",
		Gives: []gatemesh.Fact{gatemesh.FactPrincipal},
		After: []gatemesh.Fact{gatemesh.FactClientLimit, gatemesh.FactRoute, gatemesh.FactPeer},
		Gate:  a,
	}
}

// Handler admits requests to next for use without a [gatemesh.Chain], behind
// [gatemesh.Entry.Handler]. Refused requests get 401 or 403 and do not reach next.
func (a *Authenticator) Handler(next http.Handler) http.Handler {
	return gatemesh.GateHandler(a.Layer(), a.observer)(next)
}

// Admit returns the principal of the call's credential. It waits only for the
// key set of a token whose key is not known, for at most the source's timeout,
// for what [Opaque] says of a token, for at most its Timeout, or for a [KeyStore]
// that does not know from memory. Calls with the same token wait together.
func (a *Authenticator) Admit(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	s, now := a.state.For(c), time.Now()
	adm, cred, err := s.fromMemory(c, now)
	if err != nil || adm.Principal != nil || cred.none {
		return adm, err
	}
	if cred.apiKey {
		return s.loadAPIKey(ctx, cred.value)
	}
	s.counts.misses.Add(1)
	v, d := s.verify(ctx, cred.value, now)
	if d == nil {
		d = s.checkRevoked(v, time.Now())
	}
	if d != nil {
		return gatemesh.Admission{}, d
	}
	return s.admitToken(v, cred.in), nil
}

// AdmitCached decides like Admit about everything but tokens that were not
// verified lately, and API keys that only [KeyStore.LoadKey] can tell.
func (a *Authenticator) AdmitCached(_ context.Context, c *gatemesh.Call) (adm gatemesh.Admission, ok bool, err error) {
	s := a.state.For(c)
	adm, cred, err := s.fromMemory(c, time.Now())
	if err != nil || adm.Principal != nil || cred.none {
		return adm, err == nil, err
	}
	switch raw := cred.value; {
	case cred.apiKey, wellFormed(raw), s.opaque != nil && isB64Token(raw):
	case s.opaque != nil:
		return gatemesh.Admission{}, false, s.deny.malformed.WithCause(errB64Token)
	default:
		return gatemesh.Admission{}, false, s.deny.malformed.WithCause(errSegments)
	}
	return gatemesh.Admission{}, false, nil
}

// fromMemory decides what can be decided without a signature. If it returns
// neither a principal nor an error, cred is none, a token to verify, or an API
// key to ask the store for.
func (s *state) fromMemory(c *gatemesh.Call, now time.Time) (adm gatemesh.Admission, cred credential, err error) {
	names := &s.http
	if c.Protocol() == gatemesh.GRPC {
		names = &s.grpc
	}
	cred, d := s.credential(c, names)
	switch {
	case d != nil:
		return adm, cred, d
	case cred.none:
		return adm, cred, nil
	}
	if cred.apiKey {
		adm, d := s.findAPIKey(cred.value, now)
		if d != nil {
			return adm, cred, d
		}
		return adm, cred, nil
	}
	if v := s.cache.get(cred.value); v != nil && s.holds(v, now) {
		s.counts.hit()
		if d := s.checkRevoked(v, now); d != nil {
			return adm, cred, d
		}
		return s.admitToken(v, cred.in), cred, nil
	}
	return adm, cred, nil
}

func (s *state) admitToken(v *verified, in []string) gatemesh.Admission {
	adm := gatemesh.Admission{Principal: v.principal, Consumed: in}
	if !s.cfg.DisableStreamExpiry {
		adm.Until = v.until
	}
	return adm
}

// holds reports whether a remembered judgment would be made again at now.
func (s *state) holds(v *verified, now time.Time) bool {
	ns := now.UnixNano()
	if ns >= v.expires || ns-v.at >= int64(s.cfg.CacheTTL) {
		return false
	}
	if o := v.issuer.opaque; o != nil {
		return o == s.opaque
	}
	if !slices.Contains(s.issuers, v.issuer) {
		return false
	}
	keys := v.issuer.cfg.Keys.Keys(now)
	if keys == v.keys.Load() {
		return keys != nil
	}
	// The set has changed. Would the token find the same key in it?
	if k, _ := keys.find(v.kid, v.alg); k == nil || !k.equal(v.key) {
		return false
	}
	v.keys.Store(keys)
	return true
}
