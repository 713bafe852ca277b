package identity

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/gatemesh-go/gatemesh"
)

const maxJWKS = 1 << 20

// jwk is a key as in RFC 7517 §4 and RFC 8037 §2.
type jwk struct {
	Kty string   `json:"kty"`
	Crv string   `json:"crv"`
	Use string   `json:"use,omitempty"`
	Ops []string `json:"key_ops,omitempty"`
	Alg string   `json:"alg,omitempty"`
	Kid string   `json:"kid"`
	X   string   `json:"x"`
	// D is there to notice a private key that got into a public document.
	D json.RawMessage `json:"d,omitempty"`
}

// ours reports whether k is meant for what we do.
func (k *jwk) ours() bool {
	return k.Kty == "OKP" && k.Crv == "Ed25519" && (k.Use == "" || k.Use == "sig") &&
		(k.Alg == "" || k.Alg == "EdDSA" || k.Alg == "Ed25519") && (k.Ops == nil || slices.Contains(k.Ops, "verify"))
}

// ParseJWKS returns the Ed25519 signature keys of a JWK set (RFC 7517 §5) such
// as [Minter.JWKS] makes it. Keys of other kinds are skipped. It is an error if
// no key is left, if a key has a private part, and if an Ed25519 key is
// malformed, has no kid or shares it; every such key is reported. Documents of
// more than 1 MiB are refused.
func ParseJWKS(document []byte) (StaticKeys, error) {
	if len(document) > maxJWKS {
		return StaticKeys{}, fmt.Errorf("identity: jwks: document is longer than %d bytes", maxJWKS)
	}
	var in struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(document, &in); err != nil {
		return StaticKeys{}, errors.New("identity: jwks: document is not a JWK set") // err could quote a key
	}
	s := StaticKeys{make(map[string]ed25519.PublicKey, len(in.Keys))}
	var errs []error
	for i, k := range in.Keys {
		if err := k.addTo(s); err != nil {
			errs = append(errs, fmt.Errorf("identity: jwks: key %d %w", i, err))
		}
	}
	if len(errs) == 0 && s.Len() == 0 {
		errs = append(errs, errors.New("identity: jwks: no Ed25519 signature key in the document"))
	}
	if err := errors.Join(errs...); err != nil {
		return StaticKeys{}, err
	}
	return s, nil
}

func (k *jwk) addTo(s StaticKeys) error {
	switch {
	case k.D != nil:
		return errors.New("has a private part, which must never be published")
	case !k.ours():
		return nil
	case k.Kid == "":
		return errors.New("has no kid")
	case !canonical(k.X):
		return errors.New("has an x that is not base64url")
	}
	x, err := encoding.DecodeString(k.X)
	if err != nil {
		return errors.New("has an x that is not base64url")
	}
	return s.add(PublicKey{ID: k.Kid, Key: x})
}

// renderJWKS returns the JWK set of keys, in their order.
func renderJWKS(keys []PublicKey) ([]byte, error) {
	out := struct {
		Keys []jwk `json:"keys"`
	}{make([]jwk, len(keys))}
	for i, k := range keys {
		out.Keys[i] = jwk{Kty: "OKP", Crv: "Ed25519", Use: "sig", Alg: "EdDSA", Kid: k.ID, X: encoding.EncodeToString(k.Key)}
	}
	return json.Marshal(out)
}

// Key implements [KeySource] with the published keys, for a Verifier in the
// same process.
func (m *Minter) Key(id string) (ed25519.PublicKey, bool) {
	s := m.state.Latest()
	if s == nil {
		return nil, false
	}
	return s.keys.Key(id)
}

// JWKS returns the published keys as a JWK set (RFC 7517 §5): Key, Next,
// Previous. It returns nil for the zero Minter.
func (m *Minter) JWKS() []byte {
	s := m.state.Latest()
	if s == nil {
		return nil
	}
	return slices.Clone(s.jwks)
}

// jwksMaxAge is how long the JWK set may be cached, in seconds. The steps of a
// rotation must be further apart.
const jwksMaxAge = 60

var (
	denyMethod = (&gatemesh.Denial{
		Code: gatemesh.Unimplemented, Status: http.StatusMethodNotAllowed,
		Reason: "method_not_allowed", Detail: "The key set can only be read.",
	}).WithField("Allow", "GET, HEAD")
	denyNoKeys = gatemesh.Deny(gatemesh.Unavailable, "no_keys", "There is no key set yet.")
)

// JWKSHandler serves [Minter.JWKS], always the current one, to GET and HEAD. It
// may be cached for 60 s. The keys in it are public.
func (m *Minter) JWKSHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := m.state.Latest()
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			gatemesh.WriteDenial(w, r, denyMethod)
			return
		case s == nil:
			gatemesh.WriteDenial(w, r, denyNoKeys)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "application/jwk-set+json")
		h.Set("Content-Length", strconv.Itoa(len(s.jwks)))
		h.Set("Cache-Control", "public, max-age="+strconv.Itoa(jwksMaxAge))
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Method == http.MethodGet {
			_, _ = w.Write(s.jwks) // the client may be gone, which concerns nobody else
		}
	})
}
