package identity

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatemesh-go/gatemesh"
)

// MethodClaim is the claim of a verified Principal that says how the edge
// authenticated the caller, such as "jwt" or "api-key".
const MethodClaim = "orig_method"

const (
	mintLayer      = "identity mint"
	defaultEntries = 8192
)

// registered are the claims of RFC 7519 §4.1, whose meaning is the token's own,
// and our own.
var registered = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", MethodClaim}

// MinterConfig configures a [Minter]. Issuer, Audience and Key are required.
type MinterConfig struct {
	// Issuer is who signs, such as "https://edge.example.internal". Verifiers
	// compare it byte for byte. Required.
	Issuer string
	// Audience is whom tokens are for, such as the trust domain. Required.
	Audience []string
	// Key signs. Required.
	Key SigningKey
	// Next are keys to publish before they sign, Previous those that signed
	// before and whose tokens may still be about. See the package comment on
	// rotation. Default: none.
	Next, Previous []PublicKey
	// Lifetime of a token, 5 s to 10 min. A token is reused until the middle of
	// its life, so half of Lifetime must cover the longest tree of calls: from
	// the edge's call to the last one made for it inside. Default: 60 s.
	Lifetime time.Duration
	// Claims are the top-level claims of the Principal to carry; those it does
	// not have are left out. Registered claims (RFC 7519 §4.1) and [MethodClaim]
	// cannot be among them. Default: none.
	Claims []string
	// CacheEntries is how many tokens are kept for reuse, 1 to 1,048,576; the
	// cache has room for up to twice as many. Default: 8192.
	CacheEntries int
	// Observer receives a notice when another key starts to sign. Default: nobody.
	Observer gatemesh.Observer
}

// validate reports every fault, and returns the keys to publish, Key first.
func (cfg MinterConfig) validate() ([]PublicKey, error) {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("identity: MinterConfig."+format, args...))
	}
	checkNames(fault, cfg.Issuer, cfg.Audience)
	if cfg.Lifetime < 5*time.Second || cfg.Lifetime > 10*time.Minute {
		fault("Lifetime is %v; it must be 5s to 10m", cfg.Lifetime)
	}
	for i, name := range cfg.Claims {
		switch {
		case name == "" || !utf8.ValidString(name):
			fault("Claims[%d] is not a name", i)
		case slices.Contains(registered, name):
			fault("Claims[%d]: %q is a registered claim", i, name)
		case slices.Contains(cfg.Claims[:i], name):
			fault("Claims[%d]: %q is there twice", i, name)
		}
	}
	checkEntries(fault, cfg.CacheEntries)

	var published []PublicKey
	set := StaticKeys{map[string]ed25519.PublicKey{}}
	publish := func(k PublicKey, format string, args ...any) {
		if err := set.add(k); err != nil {
			fault(format+" %w", append(args, err)...)
		} else {
			published = append(published, k.withID())
		}
	}
	if err := cfg.Key.check(); err != nil {
		fault("Key %w", err)
	} else {
		publish(cfg.Key.Public(), "Key")
	}
	for i, k := range cfg.Next {
		publish(k, "Next[%d]", i)
	}
	for i, k := range cfg.Previous {
		publish(k, "Previous[%d]", i)
	}
	return published, errors.Join(errs...)
}

type faultFunc = func(format string, args ...any)

func checkNames(fault faultFunc, issuer string, audience []string) {
	if issuer == "" {
		fault("Issuer is required")
	} else if !utf8.ValidString(issuer) {
		fault("Issuer is not UTF-8")
	}
	if len(audience) == 0 {
		fault("Audience is required")
	}
	for i, a := range audience {
		if a == "" || !utf8.ValidString(a) {
			fault("Audience[%d] is empty or not UTF-8", i)
		}
	}
}

func checkEntries(fault faultFunc, n int) {
	if n < 1 || n > 1<<20 {
		fault("CacheEntries is %d; it must be 1 to %d", n, 1<<20)
	}
}

// Minter signs identities at the edge; services have [Forward]. It is an outbound
// gate, for [gatemesh.OutboundConfig.Layers]: a call that is made for an inbound call with
// a Principal gets that principal's token and never another one's; a call
// without such a parent gets none, and the callee decides what that means.
//
// A Principal whose credential has ended is refused with 401, without the leeway
// that its own gate may grant. One that a token cannot carry whole (over 8 KiB,
// not UTF-8, with neither subject nor consumer) is refused with 500, and the
// cause says why. The zero Minter denies every call with a
// Principal and knows no key; use [NewMinter].
type Minter struct{ state gatemesh.Live[minterState] }

type minterState struct {
	MinterConfig
	header string // first segment of every token
	keys   StaticKeys
	jwks   []byte
	tokens *cache[mintKey, minted]
}

// mintKey is all that tokens of one minterState differ in. A Principal is
// immutable, so its address stands for everything in it; the cache keeps it
// alive, so that no other one can get that address.
type mintKey struct {
	principal *gatemesh.Principal
	lane      string
}

type minted struct {
	from, until int64 // Unix ns between which the token is reused
	field       [1]gatemesh.Field
}

var (
	denyUnmintable = gatemesh.Deny(gatemesh.Internal, "identity_unmintable", "The request could not be processed.")
	denyNoMinter   = denyUnmintable.WithCause(errors.New("the identity minter is not configured"))
	denyNobody     = denyUnmintable.WithCause(errors.New("the principal has neither a subject nor a consumer"))
	denyEnded      = gatemesh.Deny(gatemesh.Unauthenticated, "credential_expired", "The credential has expired.")
)

// NewMinter returns a Minter. It reports every invalid field at once.
func NewMinter(cfg MinterConfig) (*Minter, error) {
	m := &Minter{}
	if err := m.Update(cfg); err != nil {
		return nil, err
	}
	return m, nil
}

// Update replaces the configuration for the calls that start from now on.
// Tokens made before are not reused, since any of it may be in them. If cfg is
// invalid, the old configuration stays.
func (m *Minter) Update(cfg MinterConfig) error { return gatemesh.Apply(m.Change(cfg)) }

// Change is [Minter.Update] as a part of [gatemesh.Apply].
func (m *Minter) Change(cfg MinterConfig) gatemesh.Change {
	return gatemesh.NewChange(&m.state, func(*minterState) (*minterState, error) { return newMinterState(cfg) }, noticeKey)
}

func newMinterState(cfg MinterConfig) (*minterState, error) {
	cfg.Lifetime = cmp.Or(cfg.Lifetime, time.Minute)
	cfg.CacheEntries = cmp.Or(cfg.CacheEntries, defaultEntries)
	published, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	s := &minterState{MinterConfig: cfg, tokens: newCache[mintKey, minted](cfg.CacheEntries)}
	if s.keys, err = NewStaticKeys(published...); err != nil {
		return nil, err
	}
	if s.jwks, err = renderJWKS(published); err != nil {
		return nil, err
	}
	s.Audience, s.Claims = slices.Clone(cfg.Audience), slices.Clone(cfg.Claims)
	s.Key = SigningKey{ID: published[0].ID, Private: slices.Clone(cfg.Key.Private)}
	s.Next, s.Previous = nil, nil // keys has them
	s.header = signedHeader(s.Key.ID)
	return s, nil
}

// noticeKey says that another key signs from now on.
func noticeKey(old, s *minterState) {
	if s.Observer != nil && old != nil && old.Key.ID != s.Key.ID {
		s.Observer.Observe(context.Background(), gatemesh.Event{
			Kind: gatemesh.EventNotice, Layer: mintLayer,
			Message: "identities are now signed with key " + s.Key.ID + ", no more with " + old.Key.ID,
		})
	}
}

// Layer returns m for [gatemesh.OutboundConfig.Layers].
func (m *Minter) Layer() gatemesh.Layer {
	return gatemesh.Layer{Name: mintLayer, Gate: m, Gives: identityGives, After: identityAfter}
}

// Admit implements [gatemesh.Gate].
func (m *Minter) Admit(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	parent := c.Parent()
	if parent == nil || parent.Principal() == nil {
		return gatemesh.Admission{}, nil
	}
	s := m.state.For(c)
	if s == nil {
		return gatemesh.Admission{}, denyNoMinter
	}
	t, err := s.token(mintKey{parent.Principal(), c.Lane()}, time.Now())
	if err != nil {
		return gatemesh.Admission{}, err
	}
	return gatemesh.Admission{Header: t.field[:]}, nil
}

// token returns a token for key that is good at now, a new one if need be.
func (s *minterState) token(key mintKey, now time.Time) (*minted, error) {
	if t := s.tokens.get(key); t != nil && t.from <= now.UnixNano() && now.UnixNano() < t.until {
		return t, nil
	}
	p := key.principal
	if p.Subject() == "" && p.Consumer() == "" {
		return nil, denyNobody
	}
	c := &claims{
		Issuer: s.Issuer, Audience: s.Audience, IssuedAt: now.Unix(), Expires: now.Add(s.Lifetime).Unix(),
		Subject: p.Subject(), Consumer: p.Consumer(), Scopes: p.Scopes(),
		OrigIssuer: p.Issuer(), OrigMethod: p.Method(), Lane: key.lane,
	}
	until := now.Add(s.Lifetime / 2).UnixNano()
	if end := p.Expires(); !end.IsZero() && end.Unix() <= c.Expires {
		c.Expires = end.Unix()
		if c.Expires <= c.IssuedAt {
			return nil, denyEnded
		}
		until = c.Expires * 1e9 // a later token would not live longer
	}
	for _, name := range s.Claims {
		if v, ok := p.Claim(name); ok {
			if c.Claims == nil {
				c.Claims = make(map[string]any, len(s.Claims))
			}
			c.Claims[name] = v
		}
	}
	token, err := sign(s.header, s.Key.Private, c)
	if err != nil {
		return nil, denyUnmintable.WithCause(err)
	}
	key.lane = strings.Clone(key.lane) // the cache outlives the call
	return s.tokens.put(key, until, minted{
		from: c.IssuedAt * 1e9, until: until,
		field: [1]gatemesh.Field{{Name: gatemesh.IdentityHeader, Value: token}},
	}), nil
}
