package auth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Why a token is malformed, for the log.
var (
	errSegments    = errors.New("a token has three segments of base64url")
	errBase64      = errors.New("a segment is not canonical base64url")
	errCritical    = errors.New("the header demands extensions (crit)")
	errAlgorithm   = errors.New("alg is not a string")
	errKeyID       = errors.New("kid is not a string")
	errType        = errors.New("typ is not a string")
	errNoExpiry    = errors.New("exp is missing")
	errTime        = errors.New("a time claim is not a number in a sane range")
	errString      = errors.New("a registered claim is not a string")
	errAudience    = errors.New("the audience is neither a string nor strings")
	errScope       = errors.New("the scope is neither a string nor strings")
	errReplacement = errors.New("a registered claim contains U+FFFD, which stands for whatever could not be decoded")
)

// Names that decide. Their case-folded twins are refused.
var (
	registeredHeader = []string{"alg", "kid", "typ", "crit", "b64", "enc", "zip"}
	registeredClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "scp"}
)

// token is a JWS in compact form (RFC 7515 §3.1) of which nothing is verified.
type token struct {
	alg, kid, typ string
	payload       map[string]any
	signed        string // what the signature is over
	signature     []byte
}

// wellFormed reports whether raw has three non-empty segments of the base64url
// alphabet. It stops at the first byte that cannot be.
func wellFormed(raw string) bool {
	dots, last := 0, -1
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '.':
			if dots++; dots > 2 || i == last+1 {
				return false
			}
			last = i
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return dots == 2 && last+1 < len(raw)
}

// strict refuses trailing bits, which would give a token several spellings.
// It ignores line breaks, which wellFormed has excluded.
var strict = base64.RawURLEncoding.Strict()

// parseToken reads a token. Header members that bring keys (jku, x5u, x5c,
// jwk) are ignored: keys come from the issuer's configuration alone.
func parseToken(raw string) (*token, error) {
	if !wellFormed(raw) {
		return nil, errSegments
	}
	head, rest, _ := strings.Cut(raw, ".")
	body, sig, _ := strings.Cut(rest, ".")
	header, err := decodeSegment(head, registeredHeader)
	if err != nil {
		return nil, err
	}
	t := &token{signed: raw[:len(head)+1+len(body)]}
	if _, ok := header["crit"]; ok { // RFC 7515 §4.1.11: we understand none
		return nil, errCritical
	}
	var ok bool
	if t.alg, ok = header["alg"].(string); !ok {
		return nil, errAlgorithm
	}
	if t.kid, ok = optionalString(header, "kid"); !ok {
		return nil, errKeyID
	}
	if t.typ, ok = optionalString(header, "typ"); !ok {
		return nil, errType
	}
	if t.payload, err = decodeSegment(body, registeredClaims); err != nil {
		return nil, err
	}
	if t.signature, err = strict.DecodeString(sig); err != nil {
		return nil, errBase64
	}
	return t, nil
}

func decodeSegment(segment string, registered []string) (map[string]any, error) {
	data, err := strict.DecodeString(segment)
	if err != nil {
		return nil, errBase64
	}
	return decodeObject(data, registered)
}

func optionalString(m map[string]any, name string) (string, bool) {
	v, there := m[name]
	s, ok := v.(string)
	return s, ok || !there
}

// claims are the registered claims of a token. Times are zero if absent.
type claims struct {
	subject, id                string
	audience, scopes           []string
	expires, notBefore, issued time.Time
}

// readClaims reads the registered claims. The audience is in audienceClaim.
func readClaims(m map[string]any, audienceClaim string) (c claims, err error) {
	for _, f := range []struct {
		name string
		to   *string
	}{{"sub", &c.subject}, {"jti", &c.id}} {
		var ok bool
		if *f.to, ok = optionalString(m, f.name); !ok {
			return c, errString
		}
		// Two subjects must not become one by what decoding replaces.
		if strings.ContainsRune(*f.to, '\uFFFD') {
			return c, errReplacement
		}
	}
	for _, f := range []struct {
		name string
		to   *time.Time
	}{{"exp", &c.expires}, {"nbf", &c.notBefore}, {"iat", &c.issued}} {
		v, there := m[f.name]
		if !there {
			continue
		}
		if *f.to, err = numericDate(v); err != nil {
			return c, err
		}
	}
	// Other readers of the token drop the fraction of a second.
	if !c.expires.IsZero() {
		c.expires = c.expires.Truncate(time.Second)
	}
	if c.audience, err = stringOrStrings(m[audienceClaim], errAudience); err != nil {
		return c, err
	}
	scope, ok := m["scope"]
	if !ok {
		scope = m["scp"] // of Entra ID and Okta
	}
	c.scopes, err = readScopes(scope)
	return c, err
}

// numericDate reads a NumericDate (RFC 7519 §2) after 1970 and before 10000.
func numericDate(v any) (time.Time, error) {
	var f float64
	var err error
	switch v := v.(type) {
	case json.Number:
		if len(v) > 32 {
			return time.Time{}, errTime
		}
		f, err = strconv.ParseFloat(string(v), 64)
	case float64: // of a function of the application
		f = v
	}
	if err != nil || !(f >= 1 && f < 253402300800) {
		return time.Time{}, errTime
	}
	sec, frac := math.Modf(f)
	return time.Unix(int64(sec), int64(frac*1e9)), nil
}

func stringOrStrings(v any, fault error) ([]string, error) {
	switch v := v.(type) {
	case nil: // absent; a null is no audience either
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		out := make([]string, len(v))
		for i, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fault
			}
			out[i] = s
		}
		return out, nil
	}
	return nil, fault
}

// readScopes reads a space-separated string (RFC 6749 §3.3) or an array.
func readScopes(v any) ([]string, error) {
	s, ok := v.(string)
	if !ok {
		return stringOrStrings(v, errScope)
	}
	scopes := strings.Split(s, " ")
	return slices.DeleteFunc(scopes, func(s string) bool { return s == "" }), nil
}
