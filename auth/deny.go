package auth

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// denials are the refusals of one configuration, made once: their
// WWW-Authenticate fields (RFC 6750 §3) depend on it.
type denials struct {
	missing, scheme, ambiguous *gatemesh.Denial
	tooLong, malformed         *gatemesh.Denial
	issuer, algorithm, typ     *gatemesh.Denial
	expired, notYet, audience  *gatemesh.Denial
	signature, keyUnknown      *gatemesh.Denial
	inactive, revoked          *gatemesh.Denial
	unavailable                *gatemesh.Denial

	apiKeyMalformed, apiKeyUnknown, apiKeyExpired, apiKeyRevoked, apiKeyScope *gatemesh.Denial
	apiKeyAway, claim                                                         *gatemesh.Denial
}

func newDenials(cfg *Config) denials {
	scheme := "Bearer"
	if !cfg.bearer() {
		scheme = "ApiKey" // not registered, but RFC 9110 §15.5.2 asks for some challenge
	}
	plain := func(reason, detail string) *gatemesh.Denial {
		return gatemesh.Deny(gatemesh.Unauthenticated, reason, detail).
			WithField("WWW-Authenticate", challenge(scheme, cfg.Realm))
	}
	// A client that reads invalid_token throws its token away. It is said only
	// where another try with the same token cannot succeed.
	invalid := func(reason, detail string) *gatemesh.Denial {
		return gatemesh.Deny(gatemesh.Unauthenticated, reason, detail).
			WithField("WWW-Authenticate", challenge(scheme, cfg.Realm, `error="invalid_token"`))
	}
	unavailable := plain("token_unverifiable", "The token cannot be verified at the moment.")
	if cfg.UnavailableStatus == http.StatusServiceUnavailable {
		unavailable = gatemesh.Deny(gatemesh.Unavailable, "token_unverifiable", "The token cannot be verified at the moment.")
	}
	return denials{
		revoked:  invalid("token_revoked", "The token has been revoked."),
		inactive: invalid("token_inactive", "The token is not active."), unavailable: unavailable,
		missing: plain("credential_missing", "The request carries no credential."),
		scheme:  plain("credential_scheme", "The authentication scheme is not supported."),
		ambiguous: gatemesh.Deny(gatemesh.Unauthenticated, "credential_ambiguous", "The request carries more than one credential.").
			WithField("WWW-Authenticate", challenge(scheme, cfg.Realm, `error="invalid_request"`)),
		tooLong:    invalid("token_too_long", "The token is too long."),
		malformed:  invalid("token_malformed", "The token is malformed."),
		issuer:     invalid("token_issuer", "The token is of an issuer that is not accepted."),
		algorithm:  invalid("token_algorithm", "The token is signed with an algorithm that is not accepted."),
		typ:        invalid("token_type", "The token is of a type that is not accepted."),
		expired:    invalid("token_expired", "The token has expired."),
		notYet:     invalid("token_not_yet_valid", "The token is not valid yet."),
		audience:   invalid("token_audience", "The token is for somebody else."),
		signature:  invalid("token_signature", "The signature of the token is wrong."),
		keyUnknown: plain("token_key_unknown", "The signing key of the token is not known."),
		claim:      invalid("token_claim", "The token lacks a required claim."),

		apiKeyMalformed: plain("key_malformed", "The API key is malformed."),
		apiKeyUnknown:   plain("key_unknown", "The API key is not known."),
		apiKeyExpired:   plain("key_expired", "The API key has expired."),
		apiKeyRevoked:   plain("key_revoked", "The API key has been revoked."),
		apiKeyAway:      plain("key_unavailable", "The API key cannot be checked now."),
		apiKeyScope:     gatemesh.Deny(gatemesh.PermissionDenied, "scope_missing", "The API key lacks a required scope."),
	}
}

// unavailable is the refusal of a token of which nothing can be found out.
func (s *state) unavailable(cause error) *gatemesh.Denial {
	d := s.deny.unavailable.WithCause(cause)
	if d.Code == gatemesh.Unavailable {
		wait := time.Second
		if s.opaque != nil {
			wait = max(wait, s.opaque.breaker.Remaining())
		}
		d = d.WithRetryAfter(wait)
	}
	return d
}

// denyScope is the refusal of tokens that lack one of scopes.
func denyScope(realm string, scopes []string) *gatemesh.Denial {
	return gatemesh.Deny(gatemesh.PermissionDenied, "scope_missing", "The token lacks a required scope.").
		WithField("WWW-Authenticate", challenge("Bearer", realm, `error="insufficient_scope"`, `scope="`+strings.Join(scopes, " ")+`"`))
}

func challenge(scheme, realm string, params ...string) string {
	if realm != "" {
		params = append([]string{`realm="` + realm + `"`}, params...)
	}
	if len(params) == 0 {
		return scheme
	}
	return scheme + " " + strings.Join(params, ", ")
}

// maxQuoted is how much of a caller's own words is put into a log.
const maxQuoted = 64

// quotedError is a cause that quotes something an unauthenticated caller sent.
// The text is made only if somebody logs it.
type quotedError struct {
	issuer string // ours, from the configuration
	what   string
	quote  string
}

func (e *quotedError) Error() string {
	return fmt.Sprintf("issuer %q: %s %q", e.issuer, e.what, e.quote[:min(len(e.quote), maxQuoted)])
}
