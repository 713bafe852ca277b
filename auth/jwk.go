package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// maxKeys bounds the keys of one set; issuers have a handful.
const maxKeys = 256

// errOtherUse marks keys that are not for signatures, which is no fault.
var errOtherUse = errors.New("key is for another use")

// ParseJWKS returns the keys of a JSON Web Key Set (RFC 7517 §5) as a fixed
// source. Keys for another use than verifying are left out; any other key that
// cannot be used is an error, as is a set without keys. Unlike a [JWKS], it
// accepts secrets (kty "oct").
func ParseJWKS(data []byte) (*Keys, error) {
	set, bad, err := parseJWKS(data, true)
	if err = errors.Join(append(bad, err)...); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	return set, nil
}

// parseJWKS reads the keys it can and returns why it could not read the
// others. A document without a single key is an error: an issuer that signs
// has one, so it is a mistake, or not the issuer's document.
func parseJWKS(data []byte, secrets bool) (set *Keys, bad []error, err error) {
	// Into maps, because encoding/json matches the names of structs in any case.
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, nil, errors.New("JWKS is not a JSON object")
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(doc["keys"], &raw); err != nil {
		return nil, nil, errors.New("JWKS has no array keys")
	}
	if len(raw) > maxKeys {
		return nil, nil, fmt.Errorf("JWKS has more than %d keys", maxKeys)
	}
	set = &Keys{}
	for i, data := range raw {
		k, err := parseJWK(data, secrets)
		if err == nil {
			err = set.add(k)
		}
		if err != nil && !errors.Is(err, errOtherUse) {
			bad = append(bad, fmt.Errorf("JWKS key %d: %w", i, err))
		}
	}
	if len(set.list) == 0 {
		return nil, bad, errors.New("JWKS has no usable key")
	}
	return set, bad, nil
}

var registeredJWK = []string{"kty", "use", "key_ops", "alg", "kid", "n", "e", "d", "crv", "x", "y", "k"}

// parseJWK reads a JSON Web Key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
func parseJWK(data []byte, secrets bool) (*key, error) {
	m, err := decodeObject(data, registeredJWK)
	if err != nil {
		return nil, err
	}
	var kty, use, alg, kid string
	for name, to := range map[string]*string{"kty": &kty, "use": &use, "alg": &alg, "kid": &kid} {
		var ok bool
		if *to, ok = optionalString(m, name); !ok {
			return nil, fmt.Errorf("%s is not a string", name)
		}
	}
	if use != "" && use != "sig" {
		return nil, errOtherUse
	}
	if ops, ok := m["key_ops"]; ok {
		if list, ok := ops.([]any); !ok || !slices.Contains(list, any("verify")) {
			return nil, errOtherUse
		}
	}
	if len(kid) > maxKeyID {
		return nil, fmt.Errorf("kid is longer than %d bytes", maxKeyID)
	}
	if _, ok := m["d"]; ok {
		return nil, errors.New("key is private: whoever has read the set can sign with it")
	}
	switch kty {
	case "RSA":
		n, nerr := member(m, "n")
		e, eerr := member(m, "e")
		if err := errors.Join(nerr, eerr); err != nil {
			return nil, err
		}
		if len(e) > 4 {
			return nil, errors.New("e is longer than 4 bytes")
		}
		return newKey(kid, alg, &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())})
	case "EC":
		crv, _ := m["crv"].(string)
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[crv]
		if curve == nil {
			return nil, errors.New("crv is not supported")
		}
		x, xerr := member(m, "x")
		y, yerr := member(m, "y")
		if err := errors.Join(xerr, yerr); err != nil {
			return nil, err
		}
		if size := (curve.Params().BitSize + 7) / 8; len(x) != size || len(y) != size {
			return nil, errors.New("x and y are not as long as the curve's field")
		}
		pub, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
		if err != nil {
			return nil, errors.New("x and y are not a point of the curve")
		}
		return newKey(kid, alg, pub)
	case "OKP":
		if crv, _ := m["crv"].(string); crv != "Ed25519" {
			return nil, errors.New("crv is not supported")
		}
		x, err := member(m, "x")
		if err != nil {
			return nil, err
		}
		return newKey(kid, alg, ed25519.PublicKey(x))
	case "oct":
		if !secrets {
			return nil, errors.New("secrets are not taken from a published set")
		}
		k, err := member(m, "k")
		if err != nil {
			return nil, err
		}
		return newKey(kid, alg, k)
	}
	return nil, errors.New("kty is not supported")
}

// member decodes a base64url member. Its errors quote nothing: it may be a secret.
func member(m map[string]any, name string) ([]byte, error) {
	s, ok := m[name].(string)
	if !ok || s == "" {
		return nil, fmt.Errorf("%s is missing", name)
	}
	b, err := strict.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%s is not base64url", name)
	}
	return b, nil
}
