package auth

import (
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// fieldNames are the names of the fields that carry credentials, in the case
// in which the protocol keeps them, so that looking them up costs nothing.
// An empty name is not looked at.
type fieldNames struct{ authorization, apiKey string }

func newFieldNames(cfg *Config) (http, grpc fieldNames) {
	if len(cfg.Issuers) > 0 {
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
}

// credential returns the one credential of the call.
func (s *state) credential(c *gatemesh.Call, names *fieldNames) (credential, *gatemesh.Denial) {
	h := c.Header()
	tokens, keys, value := 0, 0, ""
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
	switch {
	case tokens+keys == 0:
		return credential{}, s.deny.missing
	case tokens+keys > 1, hasCredential(c.RawQuery(), names.apiKey):
		return credential{}, s.deny.ambiguous
	case keys == 1:
		return credential{h.Get(names.apiKey), true}, nil
	}
	token, ok := bearer(value)
	switch {
	case !ok:
		return credential{}, s.deny.scheme
	case len(token) > s.cfg.MaxTokenLength:
		return credential{}, s.deny.tooLong
	}
	return credential{value: token}, nil
}

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
func hasCredential(query, apiKey string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, _, _ := strings.Cut(pair, "=")
		if named(name, "access_token") || apiKey != "" && named(name, apiKey) {
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
