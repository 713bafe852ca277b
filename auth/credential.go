package auth

import (
	"net/url"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// fieldNames are the names of the fields that carry credentials, in the case
// in which the protocol keeps them, so that looking them up costs nothing.
// An empty name is not looked at.
type fieldNames struct{ authorization, apiKey string }

func newFieldNames(cfg *Config) (http, grpc fieldNames) {
	if cfg.bearer() {
		http.authorization, grpc.authorization = "Authorization", "authorization"
	}
	if cfg.APIKeys != nil {
		http.apiKey, grpc.apiKey = cfg.APIKeyHeader, strings.ToLower(cfg.APIKeyHeader)
	}
	return http, grpc
}

type credential struct {
	value  string
	apiKey bool
	none   bool     // there is none, and none is needed
	in     []string // Admission.Consumed
}

// credential returns the one credential of the call.
func (s *state) credential(c *gatemesh.Call, names *fieldNames) (credential, *gatemesh.Denial) {
	h := c.Header()
	tokens, keys, value := 0, 0, ""
	var cookies, params []string
	if names.authorization != "" {
		var one bool
		if value, one = h.Only(names.authorization); one { // a second look is a tenth of what a cached call costs
			tokens = 1
		} else {
			tokens = h.Count(names.authorization)
		}
	}
	if names.apiKey != "" {
		keys = h.Count(names.apiKey)
	}
	if s.cfg.TokenCookie != "" {
		cookies = c.CookieValues(s.cfg.TokenCookie)
	}
	if s.cfg.TokenParameter != "" {
		params = c.QueryValues(s.cfg.TokenParameter)
	}
	var token string
	ok, in := true, s.tokenIn
	switch n := tokens + keys + len(cookies) + len(params); {
	case n == 0:
		if s.cfg.InsecureAnonymous && (!s.looks() || !hasCredential(c.RawQuery(), names.apiKey, s.cfg.TokenParameter)) {
			return credential{none: true}, nil
		}
		return credential{}, s.deny.missing
	case n > 1, hasCredential(c.RawQuery(), names.apiKey, s.cfg.TokenParameter):
		return credential{}, s.deny.ambiguous
	case keys == 1:
		return credential{value: h.Get(names.apiKey), apiKey: true, in: s.apiKeyIn}, nil
	case tokens == 1:
		token, ok = bearer(value)
	case len(cookies) == 1:
		token, in = cookies[0], s.cookieIn
	default:
		token, in = params[0], s.parameterIn
	}
	switch {
	case !ok:
		return credential{}, s.deny.scheme
	case len(token) > s.cfg.MaxTokenLength:
		return credential{}, s.deny.tooLong
	}
	return credential{value: token, in: in}, nil
}

// looks reports whether any credential is looked for.
func (s *state) looks() bool { return s.cfg.bearer() || s.cfg.APIKeys != nil }

// bearer returns what follows the scheme Bearer, in any case, and one space
// (RFC 6750 §2.1, RFC 9110 §11.4).
func bearer(value string) (token string, ok bool) {
	const scheme = "Bearer "
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", false
	}
	return value[len(scheme):], true
}

// hasCredential reports whether a query has a parameter that names a
// credential: access_token (RFC 6750 §2.3), or the field of the API key.
// The parameter expected is where one is looked for; it counts if it cannot be
// read.
func hasCredential(query, apiKey, expected string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if !named(name, "access_token") && (apiKey == "" || !named(name, apiKey)) && (expected == "" || !named(name, expected)) {
			continue
		}
		n, err := url.QueryUnescape(name)
		if _, err2 := url.QueryUnescape(value); err != nil || err2 != nil || expected == "" || n != expected {
			return true
		}
	}
	return false
}

// named reports whether a query-escaped name is want, in any case.
func named(name, want string) bool {
	n := 0
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '%' && i+2 < len(name) {
			hi, lo := unhex(name[i+1]), unhex(name[i+2])
			if hi < 0 || lo < 0 {
				return false
			}
			c, i = byte(hi<<4|lo), i+2
		}
		if n == len(want) || lower(c) != lower(want[n]) {
			return false
		}
		n++
	}
	return n == len(want)
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
