package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	headerStart = `{"alg":"EdDSA","kid":"`
	headerEnd   = `","typ":"gatemesh-id+jwt"}`

	maxToken = 8 << 10
	maxKeyID = 64
	maxTime  = 253402300799 // the last second of the year 9999
)

// encoding is canonical: Strict refuses stray bits at the end. It skips line
// breaks all the same, which is why canonical looks at every byte first.
var encoding = base64.RawURLEncoding.Strict()

var (
	errSize      = errors.New("token is longer than 8 KiB")
	errForm      = errors.New("token is not a compact JWS")
	errHeader    = errors.New("token header is not the one of an internal identity")
	errSignature = errors.New("signature does not verify")
	errPayload   = errors.New("payload is malformed")
)

// claims is the payload of a token.
type claims struct {
	Issuer     string         `json:"iss"`
	Audience   []string       `json:"aud"`
	IssuedAt   int64          `json:"iat"`
	Expires    int64          `json:"exp"`
	Subject    string         `json:"sub,omitempty"`
	Consumer   string         `json:"client_id,omitempty"`
	Scopes     []string       `json:"scp,omitempty"`
	OrigIssuer string         `json:"orig_iss,omitempty"`
	OrigMethod string         `json:"orig_method,omitempty"`
	Lane       string         `json:"lane,omitempty"`
	Claims     map[string]any `json:"claims,omitempty"`
}

// signedHeader returns the first segment of the tokens of a key.
func signedHeader(keyID string) string {
	return encoding.EncodeToString([]byte(headerStart + keyID + headerEnd))
}

// sign returns the token with payload c. header is of signedHeader.
func sign(header string, key ed25519.PrivateKey, c *claims) (string, error) {
	if err := c.lossless(); err != nil {
		return "", err
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", errors.New("a claim has no JSON form") // err could quote it
	}
	size := len(header) + 1 + encoding.EncodedLen(len(payload)) + 1 + encoding.EncodedLen(ed25519.SignatureSize)
	if size > maxToken {
		return "", fmt.Errorf("the token would have %d bytes; the limit is %d", size, maxToken)
	}
	b := make([]byte, 0, size)
	b = append(b, header...)
	b = append(b, '.')
	b = encoding.AppendEncode(b, payload)
	sig := ed25519.Sign(key, b)
	b = append(b, '.')
	return string(encoding.AppendEncode(b, sig)), nil
}

// lossless returns an error if JSON cannot carry c as it is: encoding/json
// would replace bytes that are no UTF-8, and two users would become one.
func (c *claims) lossless() error {
	for _, s := range [...]string{c.Subject, c.Consumer, c.OrigIssuer, c.OrigMethod, c.Lane} {
		if !utf8.ValidString(s) {
			return errors.New("the principal or the lane is not UTF-8")
		}
	}
	if !lossless(c.Scopes) {
		return errors.New("a scope is not UTF-8")
	}
	for name, v := range c.Claims {
		if !lossless(v) {
			return fmt.Errorf("claim %q is not UTF-8 or not of a JSON type", name)
		}
	}
	return nil
}

func lossless(v any) bool {
	switch v := v.(type) {
	case string:
		return utf8.ValidString(v)
	case nil, bool, json.Number, float64, int, int64:
		return true
	case []string:
		return !slices.ContainsFunc(v, func(s string) bool { return !utf8.ValidString(s) })
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !lossless(e) })
	case map[string]any:
		for k, e := range v {
			if !utf8.ValidString(k) || !lossless(e) {
				return false
			}
		}
		return true
	}
	return false
}

// jws is a token taken apart, with nothing verified.
type jws struct {
	keyID   string
	signed  string // header and payload, as the signature covers them
	payload string // still encoded
	sig     [ed25519.SignatureSize]byte
}

// split takes a token apart. It accepts one spelling of each token only.
func split(token string) (t jws, err error) {
	if len(token) > maxToken {
		return t, errSize
	}
	header, rest, _ := strings.Cut(token, ".")
	payload, sig, ok := strings.Cut(rest, ".")
	if !ok || payload == "" || len(sig) != encoding.EncodedLen(len(t.sig)) ||
		!canonical(header) || !canonical(payload) || !canonical(sig) {
		return t, errForm
	}
	if _, err := encoding.Decode(t.sig[:], []byte(sig)); err != nil {
		return t, errForm
	}
	var buf [len(headerStart) + maxKeyID + len(headerEnd)]byte
	if encoding.DecodedLen(len(header)) > len(buf) {
		return t, errHeader
	}
	n, err := encoding.Decode(buf[:], []byte(header))
	if err != nil {
		return t, errForm
	}
	id, okStart := bytes.CutPrefix(buf[:n], []byte(headerStart))
	id, okEnd := bytes.CutSuffix(id, []byte(headerEnd))
	t.keyID = string(id)
	if !okStart || !okEnd || !validKeyID(t.keyID) {
		return t, errHeader
	}
	t.payload, t.signed = payload, token[:len(token)-len(sig)-1]
	return t, nil
}

// open verifies the signature and returns the claims.
func (t *jws) open(key ed25519.PublicKey) (*claims, error) {
	if !ed25519.Verify(key, []byte(t.signed), t.sig[:]) {
		return nil, errSignature
	}
	payload, err := encoding.DecodeString(t.payload)
	if err != nil {
		return nil, errPayload
	}
	return decodeClaims(payload)
}

// decodeClaims reads a payload by exact names. Unmarshal would also take "SUB"
// for "sub", and the last of two equal names.
func decodeClaims(payload []byte) (*claims, error) {
	if !utf8.Valid(payload) {
		return nil, errPayload
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errPayload
	}
	c := &claims{}
	fields := map[string]any{
		"iss": &c.Issuer, "aud": &c.Audience, "iat": &c.IssuedAt, "exp": &c.Expires,
		"sub": &c.Subject, "client_id": &c.Consumer, "scp": &c.Scopes, "orig_iss": &c.OrigIssuer,
		"orig_method": &c.OrigMethod, "lane": &c.Lane, "claims": &c.Claims,
	}
	var seen []string
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok || slices.Contains(seen, name) {
			return nil, errPayload
		}
		seen = append(seen, name)
		into := fields[name]
		if into == nil {
			into = new(json.RawMessage)
		}
		if err := dec.Decode(into); err != nil {
			return nil, errPayload
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, errPayload
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errPayload
	}
	return c, nil
}

// canonical reports whether s has bytes of the base64url alphabet alone.
func canonical(s string) bool {
	for i := range len(s) {
		if !alphanumeric(s[i]) && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	return true
}

// validKeyID reports whether id can stand in a header without an escape, and
// in a log without a surprise.
func validKeyID(id string) bool {
	if id == "" || len(id) > maxKeyID {
		return false
	}
	for i := range len(id) {
		if !alphanumeric(id[i]) && id[i] != '-' && id[i] != '_' && id[i] != '.' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
