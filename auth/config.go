package auth

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Config configures an [Authenticator]. The zero Config is invalid: at least
// one of Issuers, Opaque and APIKeys is required, but with InsecureAnonymous.
type Config struct {
	// Issuers are those whose bearer tokens are accepted by their keys. With
	// none, and without Opaque, the Authorization field is not looked at and
	// belongs to the application.
	Issuers []Issuer
	// Opaque says how other bearer tokens are verified. Default: they are
	// refused.
	Opaque *Opaque
	// TokenCookie is the cookie that may carry a bearer token in place of the
	// Authorization field. Browsers send cookies by themselves, so whoever
	// accepts one has to refuse requests that other sites make, such as with
	// [http.CrossOriginProtection]. Default: none.
	TokenCookie string
	// TokenParameter is the parameter of the query that may carry one, such as
	// "access_token" (RFC 6750 §2.3). URLs are written to logs and histories on
	// the way here. Default: none.
	TokenParameter string
	// APIKeys are the accepted API keys: a [*KeySet], a [*KeyFile] or a store of
	// your own, which the caller closes after the Authenticator's last use.
	// Default: none, and then APIKeyHeader is not looked at. A nil pointer is an
	// error.
	APIKeys KeyStore
	// APIKeyHeader is the field that carries an API key. Default: "X-Api-Key".
	APIKeyHeader string
	// APIKeyScopes are scopes that every API key must carry; a key without one
	// of them is refused with 403. nil is none; an empty list is an error.
	APIKeyScopes []string
	// InsecureAnonymous admits calls that carry no credential at all. They have
	// no Principal, and what they may do is for the policy behind to say: a rule
	// without request principals is good for them, too. A limit by consumer
	// refuses them. A credential that is
	// there must be valid, as ever: a bad one, two of them, one of another scheme,
	// one whose issuer is away, and one in a parameter where none is looked for
	// are refused. With neither Issuers nor Opaque nor APIKeys, no credential is
	// looked for, and nobody has a Principal. Istio's RequestAuthentication means
	// this. Default: a call without a credential is refused with 401.
	InsecureAnonymous bool
	// MaxTokenLength is the length in bytes up to which a token is looked at.
	// Default: 8192; at most 1 MiB.
	MaxTokenLength int
	// CacheEntries bounds the number of verified tokens that are remembered.
	// Each costs up to four times its length and 1 KiB of heap: the token, its
	// claims as text, and their decoded form. Very many tiny claims cost more:
	// 300 numbers, seven times the length. Default: 100,000; at most 10,000,000.
	CacheEntries int
	// CacheTTL is how long a verified token is remembered. It is forgotten
	// earlier when it expires or when its signing key goes. Default: 5 minutes;
	// at most 24 hours.
	CacheTTL time.Duration
	// UnavailableStatus is how a token is refused that nothing can be found out
	// about, because its issuer is away: 401, with a plain WWW-Authenticate, or
	// 503 with Retry-After. Neither makes a client throw its token away.
	// Default: 401.
	UnavailableStatus int
	// Revocations are credentials that are refused before they expire. The
	// caller closes them, after the Authenticator's last use. Default: none.
	Revocations *Revocations
	// DisableStreamExpiry lets streams live longer than the credential they
	// were opened with. By default, they end when it does.
	DisableStreamExpiry bool
	// Realm is the realm of WWW-Authenticate: printable ASCII without quotes
	// and backslashes. Default: none.
	Realm string
	// Observer hears of requests that reach [Authenticator.Handler] without a
	// Call. Refusals go to the Observer of the [gatemesh.Entry]. Default: nobody.
	Observer gatemesh.Observer
}

// Issuer says which tokens of one issuer are accepted.
type Issuer struct {
	// Issuer is the iss of its tokens, compared byte for byte. Required.
	Issuer string
	// Audience lists whom a token may be for. Required. The token must name at
	// least one of them.
	Audience []string
	// AudienceClaim is the claim that names the audience, a string or an array
	// of strings. Default: "aud". Amazon Cognito's access tokens have
	// "client_id" instead.
	AudienceClaim string
	// Algorithms lists the accepted signature algorithms. Required. They are
	// RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 and EdDSA;
	// or HS256, HS384 and HS512, which need secrets from [StaticKeys] and
	// cannot stand beside the others.
	Algorithms []string
	// Keys are the issuer's keys. Required. A source belongs to one issuer: all
	// its keys speak for it. The caller closes it, after the Authenticator's
	// last use.
	Keys KeySource
	// Leeway is the difference of clocks that is tolerated in exp, nbf and iat.
	// Default: 0, none. At most 2 minutes.
	Leeway time.Duration
	// RequiredScopes are scopes that every token must carry; a token without
	// one of them is refused with 403. nil is none; an empty list is an error.
	RequiredScopes []string
	// RequiredClaims are top-level claims that every token must have, with these
	// strings as values, byte for byte: such as token_use "access" of Amazon
	// Cognito, or azp and typ "Bearer" of Keycloak, whose ID tokens and access
	// tokens differ in nothing else. A token without is refused with 401. Claims
	// that have a field of their own here, or that are times, cannot be among
	// them. nil is none; an empty map is an error.
	RequiredClaims map[string]string
	// TokenTypes lists the accepted typ header values, in any case and with or
	// without "application/" (RFC 7515 §4.1.9). "" stands for a token without
	// typ. Default: "JWT", "at+jwt" (RFC 9068) and "".
	TokenTypes []string
}

const (
	defaultHeader       = "X-Api-Key"
	defaultTokenLength  = 8 << 10
	defaultCacheEntries = 100_000
	defaultCacheTTL     = 5 * time.Minute

	maxTokenLength  = 1 << 20
	maxCacheEntries = 10_000_000
	maxCacheTTL     = 24 * time.Hour
	maxLeeway       = 2 * time.Minute
)

// withDefaults returns a copy that shares nothing changeable with cfg.
func (cfg Config) withDefaults() Config {
	if cfg.APIKeyHeader == "" {
		cfg.APIKeyHeader = defaultHeader
	}
	if cfg.MaxTokenLength == 0 {
		cfg.MaxTokenLength = defaultTokenLength
	}
	if cfg.CacheEntries == 0 {
		cfg.CacheEntries = defaultCacheEntries
	}
	if cfg.CacheTTL == 0 {
		cfg.CacheTTL = defaultCacheTTL
	}
	if cfg.UnavailableStatus == 0 {
		cfg.UnavailableStatus = http.StatusUnauthorized
	}
	if cfg.Opaque != nil {
		o := cfg.Opaque.withDefaults()
		cfg.Opaque = &o
	}
	cfg.APIKeyScopes = slices.Clone(cfg.APIKeyScopes)
	cfg.Issuers = slices.Clone(cfg.Issuers)
	for i := range cfg.Issuers {
		is := &cfg.Issuers[i]
		if is.AudienceClaim == "" {
			is.AudienceClaim = "aud"
		}
		is.Audience = slices.Clone(is.Audience)
		is.Algorithms = slices.Clone(is.Algorithms)
		is.RequiredScopes = slices.Clone(is.RequiredScopes)
		is.RequiredClaims = maps.Clone(is.RequiredClaims)
		types := is.TokenTypes
		if types == nil {
			types = []string{"JWT", "at+jwt", ""}
		}
		is.TokenTypes = make([]string, len(types))
		for j, t := range types {
			is.TokenTypes[j] = mediaType(t)
		}
	}
	return cfg
}

// bearer reports whether bearer tokens are looked at.
func (cfg *Config) bearer() bool { return len(cfg.Issuers) > 0 || cfg.Opaque != nil }

// faults collects what is wrong with a configuration.
type faults []error

func (f *faults) add(format string, args ...any) {
	*f = append(*f, fmt.Errorf("auth: "+format, args...))
}

// validate reports every fault of cfg, which has its defaults.
func (cfg *Config) validate() error {
	var f faults
	if !cfg.bearer() && cfg.APIKeys == nil && !cfg.InsecureAnonymous {
		f.add("Config.Issuers, Config.Opaque or Config.APIKeys is required")
	}
	if s := cfg.UnavailableStatus; s != http.StatusUnauthorized && s != http.StatusServiceUnavailable {
		f.add("Config.UnavailableStatus %d is neither 401 nor 503", s)
	}
	if cfg.Revocations != nil && cfg.Revocations.entries == nil {
		f.add("Config.Revocations were not made by NewRevocations")
	}
	if cfg.Opaque != nil {
		cfg.Opaque.validate(&f)
		if slices.ContainsFunc(cfg.Issuers, func(is Issuer) bool { return is.Issuer == cfg.Opaque.Issuer && is.Issuer != "" }) {
			f.add("Config.Opaque.Issuer %q is one of Issuers, too", cfg.Opaque.Issuer)
		}
	}
	if cfg.APIKeys != nil && isNil(cfg.APIKeys) {
		f.add("Config.APIKeys is a nil %T; for none, leave the field nil", cfg.APIKeys)
	}
	if !isToken(cfg.APIKeyHeader) || strings.EqualFold(cfg.APIKeyHeader, "Authorization") || gatemesh.CarriesIdentity(cfg.APIKeyHeader) {
		f.add("Config.APIKeyHeader %q is not the name of a header field for API keys", cfg.APIKeyHeader)
	}
	for field, name := range map[string]string{"TokenCookie": cfg.TokenCookie, "TokenParameter": cfg.TokenParameter} {
		if name != "" && !isToken(name) {
			f.add("Config.%s %q is not a name for one", field, name)
		}
		if name != "" && !cfg.bearer() {
			f.add("Config.%s has a meaning only with Issuers or Opaque", field)
		}
	}
	checkScopes(&f, "Config.APIKeyScopes", cfg.APIKeyScopes)
	checkRange(&f, "Config.MaxTokenLength", cfg.MaxTokenLength, 1, maxTokenLength)
	checkRange(&f, "Config.CacheEntries", cfg.CacheEntries, 1, maxCacheEntries)
	checkRange(&f, "Config.CacheTTL", cfg.CacheTTL, 1, maxCacheTTL)
	if strings.ContainsFunc(cfg.Realm, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		f.add("Config.Realm must be printable ASCII without quotes and backslashes")
	}
	for i := range cfg.Issuers {
		is := &cfg.Issuers[i]
		is.validate(&f, fmt.Sprintf("Config.Issuers[%d]", i))
		if slices.ContainsFunc(cfg.Issuers[:i], func(o Issuer) bool { return o.Issuer == is.Issuer }) {
			f.add("Config.Issuers[%d].Issuer %q is there twice", i, is.Issuer)
		}
	}
	return errors.Join(f...)
}

func (is *Issuer) validate(f *faults, at string) {
	if is.Issuer == "" {
		f.add("%s.Issuer is required", at)
	}
	if len(is.Audience) == 0 {
		f.add("%s.Audience is required", at)
	} else if slices.Contains(is.Audience, "") {
		f.add("%s.Audience contains an empty string", at)
	}
	checkRange(f, at+".Leeway", is.Leeway, 0, maxLeeway)
	checkScopes(f, at+".RequiredScopes", is.RequiredScopes)
	if is.RequiredClaims != nil && len(is.RequiredClaims) == 0 {
		f.add("%s.RequiredClaims is empty; leave it nil to require none", at)
	}
	for _, name := range slices.Sorted(maps.Keys(is.RequiredClaims)) {
		switch {
		case name == "" || is.RequiredClaims[name] == "":
			f.add("%s.RequiredClaims[%q] needs a name and a value", at, name)
		case name == is.AudienceClaim || slices.Contains([]string{"iss", "aud", "exp", "nbf", "iat", "scope", "scp"}, name):
			f.add("%s.RequiredClaims[%q] has rules of its own", at, name)
		}
	}
	if len(is.TokenTypes) == 0 {
		f.add("%s.TokenTypes is empty; leave it nil for the default", at)
	}
	if len(is.Algorithms) == 0 {
		f.add("%s.Algorithms is required", at)
	}
	symmetric := 0
	for _, alg := range is.Algorithms {
		if methods[alg] == nil {
			f.add("%s.Algorithms: %q is not supported", at, alg)
		}
		if isSymmetric(alg) {
			symmetric++
		}
	}
	if symmetric > 0 && symmetric < len(is.Algorithms) {
		f.add("%s.Algorithms mixes symmetric and asymmetric algorithms", at)
	}
	switch keys := is.Keys.(type) {
	case nil:
		f.add("%s.Keys is required", at)
	case *JWKS:
		if keys == nil {
			f.add("%s.Keys is required", at)
		} else if symmetric > 0 {
			f.add("%s.Keys: symmetric algorithms need StaticKeys; secrets are not published in a JWKS", at)
		}
	case *Keys:
		if keys == nil {
			f.add("%s.Keys is required", at)
			return
		}
		for _, k := range keys.list {
			if k.symmetric() != (symmetric > 0) {
				f.add("%s.Keys: key %q is of another kind than the algorithms", at, k.id)
			} else if !slices.ContainsFunc(is.Algorithms, k.fits) {
				f.add("%s.Keys: key %q fits none of the algorithms", at, k.id)
			}
		}
	}
}

func checkRange[T int | int64 | time.Duration](f *faults, field string, v, low, high T) {
	if v < low || v > high {
		f.add("%s %v is not between %v and %v", field, v, low, high)
	}
}

func checkScopes(f *faults, field string, scopes []string) {
	if scopes != nil && len(scopes) == 0 {
		f.add("%s is empty; leave it nil to require none", field)
	}
	for _, s := range scopes {
		if !validScope(s) {
			f.add("%s: %q is not a scope", field, s)
		}
	}
}

// validScope reports whether s is a scope-token (RFC 6749 §3.3).
func validScope(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}

// isToken reports whether s is a token (RFC 9110 §5.6.2) of sensible length.
func isToken(s string) bool {
	return s != "" && len(s) <= 64 &&
		strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") == ""
}

// mediaType returns a typ value in the form in which they are compared.
func mediaType(typ string) string {
	return strings.TrimPrefix(strings.ToLower(typ), "application/")
}
