package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
	// Metadata says more about the consumer, such as its plan. It is the claim
	// "metadata" of the principal: Claim("metadata", name). At most 16 entries;
	// names of 1 to 64 letters, digits, dots, hyphens and underscores; values of 1
	// to 256 bytes of UTF-8 without control characters. Not for secrets.
	// Default: none, and then there is no such claim.
	Metadata map[string]string
}

// KeySet is a fixed [KeyStore]. The zero KeySet is empty. It is immutable: to
// change the keys, make another one and call [Authenticator.Update], or use a
// [KeyFile].
//
// A presented key is found by its SHA-256. What the time of the lookup could
// tell is about the digest, and nobody can choose a digest to learn another
// one byte by byte; known and unknown keys cost the same hash and the same
// probe. A slow password hash is not needed, because keys are random.
type KeySet struct{ byHash map[KeyDigest]*APIKey }

const (
	// maxSecret bounds the length of a presented key in bytes.
	maxSecret  = 512
	hashPrefix = "sha256:"
	// keyPrefix lets scanners find keys that were published by mistake.
	keyPrefix = "gmk_"

	maxMetadata      = 16
	maxMetadataName  = 64
	maxMetadataValue = 256
)

// NewKeySet returns a KeySet of keys. It reports every fault at once. An empty
// set is valid and refuses every key.
func NewKeySet(keys []Key) (*KeySet, error) {
	var f faults
	s, ids := &KeySet{make(map[KeyDigest]*APIKey, len(keys))}, make(map[string]bool, len(keys))
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
	ready, errs := newAPIKey(k)
	if k.ID != "" && ids[k.ID] {
		errs = append(errs, fmt.Errorf("ID %q is there twice", k.ID))
	}
	ids[k.ID] = true
	if ready != nil && s.byHash[ready.digest] != nil {
		errs = append(errs, errors.New("Hash is there twice"))
	}
	if errs != nil {
		return errors.Join(errs...)
	}
	s.byHash[ready.digest] = ready
	return nil
}

// newAPIKey makes k ready, or returns every fault of it.
func newAPIKey(k Key) (*APIKey, []error) {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if k.ID == "" {
		fault("ID is required")
	}
	if k.Consumer == "" {
		fault("Consumer is required")
	}
	for _, scope := range k.Scopes {
		if !validScope(scope) {
			fault("Scopes: %q is not a scope", scope)
		}
	}
	if len(k.Metadata) > maxMetadata {
		fault("Metadata has more than %d entries", maxMetadata)
	}
	for _, name := range slices.Sorted(maps.Keys(k.Metadata)) {
		switch v := k.Metadata[name]; {
		case !validMetadataName(name):
			fault("Metadata has a name that is not 1 to %d letters, digits, dots, hyphens and underscores", maxMetadataName)
		case v == "" || len(v) > maxMetadataValue || !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl):
			fault("Metadata: the value of %q is not 1 to %d bytes of UTF-8 without control characters", name, maxMetadataValue)
		}
	}
	digest, err := parseHash(k.Hash)
	if err != nil {
		errs = append(errs, err)
	}
	if errs != nil {
		return nil, errs
	}
	info := gatemesh.PrincipalInfo{
		Consumer: k.Consumer, Scopes: k.Scopes, Method: "api-key", Expires: k.Expires, Credential: k.ID,
	}
	if len(k.Metadata) > 0 {
		metadata := make(map[string]any, len(k.Metadata))
		for name, v := range k.Metadata {
			metadata[name] = v
		}
		info.Claims = map[string]any{"metadata": metadata}
	}
	return &APIKey{digest, gatemesh.NewPrincipal(info), k.Expires}, nil
}

func validMetadataName(s string) bool {
	return s != "" && len(s) <= maxMetadataName &&
		strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
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

// FindKey returns the key with the digest, or nil. It is always the answer.
func (s *KeySet) FindKey(digest KeyDigest, _ time.Time) (k *APIKey, known bool) {
	return s.byHash[digest], true
}

// LoadKey returns what FindKey does.
func (s *KeySet) LoadKey(_ context.Context, digest KeyDigest) (*APIKey, error) {
	return s.byHash[digest], nil
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
	return KeyDigest(sha256.Sum256([]byte(secret))).String()
}

// GenerateKey returns a new secret of 256 random bits for a consumer, and its
// hash to be stored.
func GenerateKey() (secret, hash string) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand promises
	secret = keyPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, HashKey(secret)
}

var emptyDigest KeyDigest = sha256.Sum256(nil)

func parseHash(s string) (digest KeyDigest, err error) {
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
	case emptyDigest:
		return digest, errors.New("Hash is that of the empty key")
	case KeyDigest{}:
		return digest, errors.New("Hash is all zeros, which nobody has a key for")
	}
	return digest, nil
}
