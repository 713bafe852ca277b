package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"reflect"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// KeyStore has API keys. [*KeySet] is a fixed one and [*KeyFile] one that
// follows a file. Implementations must be safe for concurrent use.
//
// A store that is elsewhere, as in a database, keeps what it has loaded for a
// while, answers FindKey from that, and fetches in LoadKey alone. How long it
// keeps a key is how long a withdrawn one may still pass. It never sees a
// secret, only its digest.
//
// Fails closed: a key that cannot be had is refused with 401.
type KeyStore interface {
	// FindKey returns the key whose secret has the digest, or nil if there is
	// none, as far as memory tells at now. It is called for every call that
	// presents a key, known or not, and must not wait. known reports whether
	// that is the answer; if not, LoadKey follows.
	FindKey(digest KeyDigest, now time.Time) (k *APIKey, known bool)
	// LoadKey returns the key whose secret has the digest, or nil if there is
	// none. It may wait as long as ctx allows, and should set a limit of its
	// own. It is never called for [Authenticator.AdmitCached]. The caller is not
	// authenticated: the work done for many such calls must be bounded, which
	// takes remembering what there is not, in bounded memory, and a breaker. An
	// error goes to the log and not to the caller.
	LoadKey(ctx context.Context, digest KeyDigest) (*APIKey, error)
}

var (
	_ KeyStore = (*KeySet)(nil)
	_ KeyStore = (*KeyFile)(nil)
)

// KeyDigest is the SHA-256 of the secret of an API key.
type KeyDigest [sha256.Size]byte

// String returns d in the form of [Key.Hash], as [HashKey] does.
func (d KeyDigest) String() string { return hashPrefix + hex.EncodeToString(d[:]) }

// digestOf returns the digest of a valid secret.
func digestOf(secret string) KeyDigest {
	var buf [maxSecret]byte // on the stack, which a conversion would not be
	return sha256.Sum256(buf[:copy(buf[:], secret)])
}

// APIKey is a [Key], checked and made ready to be found. It is immutable. The
// zero APIKey is the key of no secret. Make one with [NewAPIKey].
type APIKey struct {
	digest    KeyDigest
	principal *gatemesh.Principal
	expires   time.Time
}

// NewAPIKey returns a copy of k for a [KeyStore]. It reports every fault at once.
func NewAPIKey(k Key) (*APIKey, error) {
	ready, errs := newAPIKey(k)
	if errs != nil {
		var f faults
		for _, err := range errs {
			f.add("Key.%w", err)
		}
		return nil, errors.Join(f...)
	}
	return ready, nil
}

// findAPIKey judges a presented key from memory. If it returns neither an
// admission nor a refusal, the store is to be asked.
func (s *state) findAPIKey(value string, now time.Time) (adm gatemesh.Admission, d *gatemesh.Denial) {
	if !validSecret(value) {
		return adm, s.deny.apiKeyMalformed
	}
	digest := digestOf(value)
	k, known := s.cfg.APIKeys.FindKey(digest, now)
	if !known {
		return adm, nil
	}
	return s.admitAPIKey(k, digest, now)
}

// loadAPIKey asks the store for a presented key, which is valid.
func (s *state) loadAPIKey(ctx context.Context, value string) (gatemesh.Admission, error) {
	digest := digestOf(value)
	k, err := s.cfg.APIKeys.LoadKey(ctx, digest)
	switch {
	case ctx.Err() != nil:
		return gatemesh.Admission{}, gatemesh.AsDenial(ctx, ctx.Err())
	case err != nil:
		return gatemesh.Admission{}, s.deny.apiKeyAway.WithCause(err)
	}
	adm, d := s.admitAPIKey(k, digest, time.Now())
	if d != nil {
		return gatemesh.Admission{}, d
	}
	return adm, nil
}

// admitAPIKey judges the key that a store has found for digest, which may be nil.
func (s *state) admitAPIKey(k *APIKey, digest KeyDigest, now time.Time) (adm gatemesh.Admission, d *gatemesh.Denial) {
	switch {
	case k == nil:
		return adm, s.deny.apiKeyUnknown
	case subtle.ConstantTimeCompare(k.digest[:], digest[:]) == 0:
		// Of a store that does not compare all of it, or byte for byte. No
		// secret has the digest of the zero APIKey.
		return adm, s.deny.apiKeyUnknown.WithCause(errors.New("the key store has found a key of another secret"))
	case !k.expires.IsZero() && !now.Before(k.expires):
		return adm, s.deny.apiKeyExpired.WithCause(errors.New("key id " + k.principal.Credential()))
	}
	for _, scope := range s.cfg.APIKeyScopes {
		if !k.principal.HasScope(scope) {
			return adm, s.deny.apiKeyScope.WithCause(errors.New("key id " + k.principal.Credential() + " lacks " + scope))
		}
	}
	if d := s.checkKeyRevoked(k.principal, now); d != nil {
		return adm, d
	}
	adm = gatemesh.Admission{Principal: k.principal, Consumed: s.apiKeyIn}
	if !s.cfg.DisableStreamExpiry {
		adm.Until = k.expires
	}
	return adm, nil
}

// isNil reports whether an interface value holds a nil pointer, function or map.
func isNil(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Pointer, reflect.Func, reflect.Map:
		return r.IsNil()
	}
	return false
}
