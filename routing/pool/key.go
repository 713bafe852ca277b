package pool

import (
	"net/textproto"
	"net/url"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// Request is what a [HashKey] may be in, besides the call in the context. The
// zero Request has nothing.
type Request struct {
	// Header is the fields of an HTTP request, or gRPC metadata.
	Header map[string][]string
	// Query is the query of the URL, without the question mark.
	Query string
}

// finder finds what a HashKey says.
type finder struct {
	HashKey
	spellings [2]string // of Header, in HTTP and in gRPC
}

func newFinder(k HashKey) finder {
	return finder{k, [2]string{textproto.CanonicalMIMEHeaderKey(k.Header), strings.ToLower(k.Header)}}
}

// of returns the hash of what k says, and whether there is something.
func (k *finder) of(c *gatemesh.Call, r Request) (hash uint64, ok bool) {
	var s string
	switch {
	case k.Header != "":
		s = first(r.Header, k.spellings)
	case k.Cookie != "":
		s = cookie(r.Header, k.Cookie)
	case k.Query != "":
		s = parameter(r.Query, k.Query)
	default:
		return k.ofCaller(c)
	}
	return hashString(hashSeed, s), s != ""
}

// ofCaller is of for what is known of the received call that c is or is made for.
func (k *finder) ofCaller(c *gatemesh.Call) (hash uint64, ok bool) {
	for c != nil && c.Outbound() {
		c = c.Parent()
	}
	if c == nil {
		return 0, false
	}
	if k.ClientAddress {
		if !c.Client().IsValid() {
			return 0, false
		}
		h := hashSeed
		for _, b := range c.Client().As16() {
			h = hashByte(h, b)
		}
		return mix(h), true
	}
	p := c.Principal()
	switch {
	case p == nil:
		return 0, false
	case k.Principal && p.Subject() != "":
		return hashString(hashByte(absorb(hashSeed, p.Issuer()), 0), p.Subject()), true
	}
	return hashString(hashSeed, p.Consumer()), p.Consumer() != ""
}

// first returns the first value of a field.
func first(h map[string][]string, spellings [2]string) string {
	for _, name := range spellings {
		if v := h[name]; len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// cookie returns the value of the first cookie of that name (RFC 6265 §4.2.1).
func cookie(h map[string][]string, name string) string {
	for _, fields := range [2][]string{h["Cookie"], h["cookie"]} {
		for _, field := range fields {
			for field != "" {
				var pair string
				pair, field, _ = strings.Cut(field, ";")
				n, v, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
				if ok && n == name && v != "" {
					return v
				}
			}
		}
	}
	return ""
}

// parameter returns the first value of a parameter of query.
func parameter(query, name string) string {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		n, v, _ := strings.Cut(pair, "=")
		if n != name && strings.ContainsAny(n, "%+") {
			n, _ = url.QueryUnescape(n) // "" if it cannot be
		}
		if n == name && v != "" {
			if u, err := url.QueryUnescape(v); err == nil {
				return u
			}
			return v
		}
	}
	return ""
}

// FNV-1a with a finisher, as all processes have to agree on the hashes.
const (
	hashSeed  uint64 = 14695981039346656037
	hashPrime uint64 = 1099511628211
)

func hashByte(h uint64, b byte) uint64 { return (h ^ uint64(b)) * hashPrime }

func absorb(h uint64, s string) uint64 {
	for i := range len(s) {
		h = hashByte(h, s[i])
	}
	return h
}

// hashString returns the hash of what h has taken in, and s.
func hashString(h uint64, s string) uint64 { return mix(absorb(h, s)) }

// mix spreads what differs in few bits over all (MurmurHash3, fmix64).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
