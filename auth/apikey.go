package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Key is an API key as it is stored: without its secret. A consumer may have
// several that are valid at the same time, to change from one to the next.
type Key struct {
	// ID names the key in logs and in [gatemesh.Principal.Credential].
	// Required; unique; not secret.
	ID string
	// Consumer is the application or customer it stands for. Required.
	Consumer string
	// Hash is the hash of its secret, as [HashKey] returns it. Required; unique.
	Hash string
	// Scopes are what it may be used for. Default: none.
	Scopes []string
	// Expires is when it ends. Default: never.
	Expires time.Time
}

// KeySet is a set of API keys. The zero KeySet is empty. It is immutable: to
// change the keys, make another one and call [Authenticator.Update].
//
// A presented key is found by its SHA-256. What the time of the lookup could
// tell is about the digest, and nobody can choose a digest to learn another
// one byte by byte; known and unknown keys cost the same hash and the same
// probe. A slow password hash is not needed, because keys are random.
type KeySet struct{ byHash map[[sha256.Size]byte]*apiKey }

// apiKey is a key, made ready.
type apiKey struct {
	principal *gatemesh.Principal
	expires   time.Time
}

const (
	// maxSecret bounds the length of a presented key in bytes.
	maxSecret  = 512
	hashPrefix = "sha256:"
	// keyPrefix lets scanners find keys that were published by mistake.
	keyPrefix = "gmk_"
)

// NewKeySet returns a KeySet of keys. It reports every fault at once. An empty
// set is valid and refuses every key.
func NewKeySet(keys []Key) (*KeySet, error) {
	var f faults
	s, ids := &KeySet{make(map[[sha256.Size]byte]*apiKey, len(keys))}, make(map[string]bool, len(keys))
	for i, k := range keys {
		if err := s.add(k, ids); err != nil {
			f.add("keys[%d]: %w", i, err)
		}
	}
	if err := errors.Join(f...); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *KeySet) add(k Key, ids map[string]bool) error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case k.ID == "":
		fault("ID is required")
	case ids[k.ID]:
		fault("ID %q is there twice", k.ID)
	}
	ids[k.ID] = true
	if k.Consumer == "" {
		fault("Consumer is required")
	}
	for _, scope := range k.Scopes {
		if !validScope(scope) {
			fault("Scopes: %q is not a scope", scope)
		}
	}
	digest, err := parseHash(k.Hash)
	if err != nil {
		errs = append(errs, err)
	} else if s.byHash[digest] != nil {
		fault("Hash is there twice")
	}
	if errs != nil {
		return errors.Join(errs...)
	}
	s.byHash[digest] = &apiKey{expires: k.Expires, principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Consumer: k.Consumer, Scopes: slices.Clone(k.Scopes), Method: "api-key", Expires: k.Expires, Credential: k.ID,
	})}
	return nil
}

// Len returns the number of keys.
func (s *KeySet) Len() int { return len(s.byHash) }

// Format prints the number of keys, whatever the verb.
func (s *KeySet) Format(f fmt.State, _ rune) {
	if s == nil {
		fmt.Fprint(f, "<nil key set>")
		return
	}
	fmt.Fprintf(f, "%d API keys", len(s.byHash))
}

// find returns the key with a valid secret, or nil.
func (s *KeySet) find(secret string) *apiKey {
	var buf [maxSecret]byte // on the stack, which a conversion would not be
	return s.byHash[sha256.Sum256(buf[:copy(buf[:], secret)])]
}

// validSecret reports whether s can be a key: 1 to 512 visible ASCII bytes.
func validSecret(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= maxSecret
}

// HashKey returns the hash of an API key's secret for [Key.Hash]: "sha256:" and
// 64 hexadecimal digits. The secret should be from [GenerateKey] or as random.
func HashKey(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hashPrefix + hex.EncodeToString(sum[:])
}

// GenerateKey returns a new secret of 256 random bits for a consumer, and its
// hash to be stored.
func GenerateKey() (secret, hash string) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand promises
	secret = keyPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, HashKey(secret)
}

func parseHash(s string) (digest [sha256.Size]byte, err error) {
	digits, ok := strings.CutPrefix(s, hashPrefix)
	switch {
	case s == "":
		return digest, errors.New("Hash is required")
	case !ok || len(digits) != hex.EncodedLen(len(digest)):
		return digest, errors.New("Hash is not sha256: and 64 hexadecimal digits")
	}
	if _, err := hex.Decode(digest[:], []byte(digits)); err != nil {
		return digest, errors.New("Hash is not sha256: and 64 hexadecimal digits")
	}
	switch digest {
	case sha256.Sum256(nil):
		return digest, errors.New("Hash is that of the empty key")
	case [sha256.Size]byte{}:
		return digest, errors.New("Hash is all zeros, which nobody has a key for")
	}
	return digest, nil
}
