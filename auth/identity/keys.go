package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"
)

// PublicKey is a key that verifies tokens.
type PublicKey struct {
	// ID is what tokens name the key by: 1 to 64 letters, digits, '.', '_' and
	// '-'. Default: the thumbprint of the key (RFC 7638, RFC 8037 §2).
	ID string
	// Key is Required.
	Key ed25519.PublicKey
}

// SigningKey is a key that signs tokens. Printing it shows its ID alone.
type SigningKey struct {
	// ID is as in [PublicKey].
	ID string
	// Private is Required.
	Private ed25519.PrivateKey `json:"-"`
}

// Public returns what verifies the tokens that k signs. It has no Key if k has
// no valid one.
func (k SigningKey) Public() PublicKey {
	p := PublicKey{ID: k.ID}
	if len(k.Private) == ed25519.PrivateKeySize {
		p.Key, _ = k.Private.Public().(ed25519.PublicKey)
		p = p.withID()
	}
	return p
}

// Format prints the ID, whatever the verb.
func (k SigningKey) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "signing key %q", k.Public().ID) }

func (k SigningKey) check() error {
	switch {
	case len(k.Private) == 0:
		return errors.New("is required")
	case len(k.Private) != ed25519.PrivateKeySize:
		return fmt.Errorf("must have a private key of %d bytes", ed25519.PrivateKeySize)
	case !bytes.Equal(ed25519.NewKeyFromSeed(k.Private.Seed()), k.Private):
		// Signing under a public half that is not ours gives the key away.
		return errors.New("has a private key whose halves do not belong together")
	}
	return k.Public().check()
}

func (k PublicKey) check() error {
	switch {
	case len(k.Key) == 0:
		return errors.New("has no key")
	case len(k.Key) != ed25519.PublicKeySize:
		return fmt.Errorf("must have a public key of %d bytes", ed25519.PublicKeySize)
	case k.ID != "" && !validKeyID(k.ID):
		return fmt.Errorf("has an ID that is not of 1 to %d letters, digits, '.', '_' and '-'", maxKeyID)
	}
	return nil
}

// withID returns a copy of k that has an ID and shares no memory with it.
func (k PublicKey) withID() PublicKey {
	k.Key = bytes.Clone(k.Key)
	if k.ID == "" {
		sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + encoding.EncodeToString(k.Key) + `"}`))
		k.ID = encoding.EncodeToString(sum[:])
	}
	return k
}

// A KeySource knows the keys that verify tokens. It is asked on every call,
// also for tokens that were verified before, so that a withdrawn key counts no
// more: it must answer from memory, and be safe for concurrent use. [StaticKeys],
// [*Keys], [*JWKSFile], [*Minter] and [KeyFunc] are KeySources.
type KeySource interface {
	// Key returns the key with that ID, or false. The caller does not change it.
	Key(id string) (ed25519.PublicKey, bool)
}

// KeyFunc makes a KeySource of a function.
type KeyFunc func(id string) (ed25519.PublicKey, bool)

// Key calls f.
func (f KeyFunc) Key(id string) (ed25519.PublicKey, bool) { return f(id) }

// StaticKeys is a set of keys that does not change. The zero StaticKeys knows
// none, and [NewVerifier] refuses it.
type StaticKeys struct{ keys map[string]ed25519.PublicKey }

// NewStaticKeys returns a set with a copy of keys. It reports every invalid key
// at once, keys with the same ID among them, and refuses an empty set.
func NewStaticKeys(keys ...PublicKey) (StaticKeys, error) {
	s := StaticKeys{make(map[string]ed25519.PublicKey, len(keys))}
	var errs []error
	if len(keys) == 0 {
		errs = append(errs, errors.New("identity: a set of keys must not be empty"))
	}
	for i, k := range keys {
		if err := s.add(k); err != nil {
			errs = append(errs, fmt.Errorf("identity: key %d %w", i, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return StaticKeys{}, err
	}
	return s, nil
}

func (s StaticKeys) add(k PublicKey) error {
	if err := k.check(); err != nil {
		return err
	}
	k = k.withID()
	if _, ok := s.keys[k.ID]; ok {
		return fmt.Errorf("has the ID %q of another one", k.ID)
	}
	s.keys[k.ID] = k.Key
	return nil
}

// Key implements [KeySource].
func (s StaticKeys) Key(id string) (ed25519.PublicKey, bool) {
	k, ok := s.keys[id]
	return k, ok
}

// Len returns how many keys there are.
func (s StaticKeys) Len() int { return len(s.keys) }

// Keys is a [KeySource] whose keys can be replaced while it is in use, for an
// application that fetches the edge's JWKS now and then. A fetch that fails
// should leave the old set in place. The zero Keys knows no key.
type Keys struct{ set atomic.Pointer[StaticKeys] }

// NewKeys returns a holder of set, which must not be empty.
func NewKeys(set StaticKeys) (*Keys, error) {
	k := &Keys{}
	return k, k.Set(set)
}

// Set replaces the keys. Tokens of keys that are not in set are refused from
// now on. An empty set is an error and changes nothing.
func (k *Keys) Set(set StaticKeys) error {
	if set.Len() == 0 {
		return errors.New("identity: a set of keys must not be empty")
	}
	k.set.Store(&set)
	return nil
}

// Key implements [KeySource].
func (k *Keys) Key(id string) (ed25519.PublicKey, bool) {
	set := k.set.Load()
	if set == nil {
		return nil, false
	}
	return set.Key(id)
}

// noKeys reports whether s can be seen to know no key.
func noKeys(s KeySource) bool {
	switch s := s.(type) {
	case StaticKeys:
		return s.Len() == 0
	case *Keys:
		return s == nil || s.set.Load() == nil
	case *Minter:
		return s == nil || s.state.Latest() == nil
	case *JWKSFile:
		return s == nil || s.follower == nil
	case KeyFunc:
		return s == nil
	}
	return s == nil
}
