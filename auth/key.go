package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// methods are the signature algorithms there are. The none algorithm is not one.
var methods = map[string]jwt.SigningMethod{
	"RS256": jwt.SigningMethodRS256, "RS384": jwt.SigningMethodRS384, "RS512": jwt.SigningMethodRS512,
	"PS256": jwt.SigningMethodPS256, "PS384": jwt.SigningMethodPS384, "PS512": jwt.SigningMethodPS512,
	"ES256": jwt.SigningMethodES256, "ES384": jwt.SigningMethodES384, "ES512": jwt.SigningMethodES512,
	"EdDSA": jwt.SigningMethodEdDSA,
	"HS256": jwt.SigningMethodHS256, "HS384": jwt.SigningMethodHS384, "HS512": jwt.SigningMethodHS512,
}

func isSymmetric(alg string) bool { return strings.HasPrefix(alg, "HS") }

// KeySource has the verification keys of one issuer. [*Keys] is a fixed source
// and [*JWKS] one that follows its issuer. Implementations must be safe for
// concurrent use.
type KeySource interface {
	// Keys returns the keys that may be used at now, or nil if there are none.
	// It is called for every call and must not wait. While nothing changes, it
	// must return the same pointer.
	Keys(now time.Time) *Keys
	// Refresh is called for a token whose key id (which may be "") is not
	// among Keys, and returns the keys to look through once more. It may wait
	// for new ones as long as ctx allows. The caller is not authenticated: the
	// work done for many such calls must be bounded.
	Refresh(ctx context.Context, kid string) *Keys
}

// Keys is a set of verification keys. It is immutable. The nil Keys has none.
type Keys struct{ list []*key }

// key is a verification key, bound to the algorithms it may be used with.
type key struct {
	id   string
	algs []string
	key  any // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey or []byte
}

// StaticKey is a key for [StaticKeys]. Printing it shows no key.
type StaticKey struct {
	// ID is the kid that tokens name the key by. Default: none, for tokens
	// without kid.
	ID string
	// Algorithm is the one algorithm that the key may be used with. Default:
	// every algorithm of [Issuer.Algorithms] that is made for such a key.
	Algorithm string
	// Key is an *rsa.PublicKey of 2048 to 8192 bits, an *ecdsa.PublicKey on
	// P-256, P-384 or P-521, an ed25519.PublicKey, or a []byte with a secret
	// of at least 32 random bytes for HS256, 48 for HS384 and 64 for HS512
	// (RFC 7518 §3.2). Required.
	Key any
}

// Format prints id and algorithm, whatever the verb.
func (k StaticKey) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "static key id=%q alg=%q", k.ID, k.Algorithm)
}

// StaticKeys returns a fixed set of copies of keys. It reports every fault at once.
func StaticKeys(keys ...StaticKey) (*Keys, error) {
	var f faults
	if len(keys) == 0 {
		f.add("StaticKeys: at least one key is required")
	}
	set := &Keys{}
	for i, in := range keys {
		k, err := newKey(in.ID, in.Algorithm, in.Key)
		if err == nil {
			err = set.add(k)
		}
		if err != nil {
			f.add("StaticKeys: keys[%d]: %w", i, err)
		}
	}
	if err := errors.Join(f...); err != nil {
		return nil, err
	}
	return set, nil
}

// Keys returns k.
func (k *Keys) Keys(time.Time) *Keys { return k }

// Refresh returns k at once.
func (k *Keys) Refresh(context.Context, string) *Keys { return k }

// Len returns the number of keys.
func (k *Keys) Len() int {
	if k == nil {
		return 0
	}
	return len(k.list)
}

// Format prints the number of keys, whatever the verb.
func (k *Keys) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "%d verification keys", k.Len()) }

// add refuses a second key that the same tokens would fit.
func (k *Keys) add(n *key) error {
	for _, o := range k.list {
		if o.id == n.id && (n.id != "" && slices.ContainsFunc(n.algs, o.fits) || o.equal(n)) {
			return fmt.Errorf("key with id %q is there twice", cut(n.id))
		}
	}
	k.list = append(k.list, n)
	return nil
}

// find returns the key for a token. known reports whether there is any key of
// that id, whatever its algorithm. A token without kid finds a key only if
// there is exactly one for its algorithm.
func (k *Keys) find(kid, alg string) (found *key, known bool) {
	if k == nil {
		return nil, false
	}
	for _, c := range k.list {
		if kid != "" && c.id != kid {
			continue
		}
		known = known || kid != ""
		if !c.fits(alg) {
			continue
		}
		if found != nil {
			return nil, known
		}
		found = c
	}
	return found, known
}

// equal reports whether k and o, in which no key is there twice, have equal keys.
func (k *Keys) equal(o *Keys) bool {
	return len(k.list) == len(o.list) &&
		!slices.ContainsFunc(k.list, func(c *key) bool { return !slices.ContainsFunc(o.list, c.equal) })
}

func (k *key) fits(alg string) bool { return slices.Contains(k.algs, alg) }

func (k *key) symmetric() bool { return isSymmetric(k.algs[0]) }

func (k *key) equal(o *key) bool {
	if k == o {
		return true
	}
	if k.id != o.id || !slices.Equal(k.algs, o.algs) {
		return false
	}
	switch a := k.key.(type) {
	case *rsa.PublicKey:
		b, ok := o.key.(*rsa.PublicKey)
		return ok && a.Equal(b)
	case *ecdsa.PublicKey:
		b, ok := o.key.(*ecdsa.PublicKey)
		return ok && a.Equal(b)
	case ed25519.PublicKey:
		b, ok := o.key.(ed25519.PublicKey)
		return ok && a.Equal(b)
	}
	return false // secrets are never fetched, so they are never compared
}

// newKey checks a key, copies it and binds it to its algorithms: golang-jwt
// does not see that a P-384 key is no key for ES256 (RFC 7518 §3.4), or that
// a 1024-bit RSA key is none at all.
func newKey(id, alg string, in any) (*key, error) {
	k := &key{id: id}
	switch in := in.(type) {
	case nil:
		return nil, errors.New("Key is required")
	case *rsa.PublicKey:
		if in == nil || in.N == nil {
			return nil, errors.New("RSA key is nil")
		}
		if bits := in.N.BitLen(); bits < 2048 || bits > 8192 {
			return nil, fmt.Errorf("RSA key of %d bits is not between 2048 and 8192", bits)
		}
		if in.E < 3 || in.E%2 == 0 || in.E > 1<<31-1 || in.N.Bit(0) == 0 {
			return nil, errors.New("RSA key is not one")
		}
		k.key = &rsa.PublicKey{N: new(big.Int).Set(in.N), E: in.E}
		k.algs = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		if in == nil || in.Curve == nil {
			return nil, errors.New("EC key is nil")
		}
		switch in.Curve {
		case elliptic.P256():
			k.algs = []string{"ES256"}
		case elliptic.P384():
			k.algs = []string{"ES384"}
		case elliptic.P521():
			k.algs = []string{"ES512"}
		default:
			return nil, errors.New("EC key is not on P-256, P-384 or P-521")
		}
		point, err := in.Bytes()
		if err != nil {
			return nil, errors.New("EC key is not a point of its curve")
		}
		if k.key, err = ecdsa.ParseUncompressedPublicKey(in.Curve, point); err != nil {
			return nil, errors.New("EC key is not a point of its curve")
		}
	case ed25519.PublicKey:
		if len(in) != ed25519.PublicKeySize {
			return nil, errors.New("Ed25519 key is not 32 bytes long")
		}
		k.key, k.algs = ed25519.PublicKey(bytes.Clone(in)), []string{"EdDSA"}
	case []byte:
		if bytes.Contains(in, []byte("-----BEGIN")) {
			return nil, errors.New("secret is a PEM file, which is rarely secret")
		}
		for i, name := range []string{"HS256", "HS384", "HS512"} {
			if len(in) >= 32+16*i { // RFC 7518 §3.2: as long as the hash
				k.algs = append(k.algs, name)
			}
		}
		if k.algs == nil {
			return nil, fmt.Errorf("secret of %d bytes is shorter than 32", len(in))
		}
		k.key = bytes.Clone(in)
	default:
		return nil, fmt.Errorf("key of type %T is not supported; give the public key", in)
	}
	if alg == "Ed25519" { // RFC 9864 §2.2
		alg = "EdDSA"
	}
	if alg != "" {
		if !k.fits(alg) {
			return nil, fmt.Errorf("key is not one for algorithm %q", cut(alg))
		}
		k.algs = []string{alg}
	}
	return k, nil
}

// cut shortens what others wrote for an error text.
func cut(s string) string { return s[:min(len(s), maxQuoted)] }
