package gatemesh

import (
	"math/rand/v2"
	"net/netip"
	"strings"
)

func (s *entryState) trusts(a netip.Addr) bool {
	for _, p := range s.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// believe reads what a trusted caller says about the client.
func (s *entryState) believe(c *Call) {
	if proto, ok := c.header.Only("X-Forwarded-Proto"); ok && (proto == "https" || proto == "http") {
		c.scheme = proto
	}
	// Right to left over all lines: every trusted hop appended the address it
	// saw. The first one that is no proxy of ours is the client; whatever
	// stands left of it, or of an element we cannot read, may be invented.
	lines := c.header.values("X-Forwarded-For")
	for i := len(lines) - 1; i >= 0; i-- {
		for line := lines[i]; ; {
			comma := strings.LastIndexByte(line, ',')
			addr, ok := forwardedAddr(line[comma+1:])
			if !ok {
				return
			}
			c.client = addr
			if !s.trusts(addr) {
				return
			}
			if comma < 0 {
				break
			}
			line = line[:comma]
		}
	}
}

// forwardedAddr reads an element of X-Forwarded-For: an address, with or
// without port and brackets.
func forwardedAddr(s string) (netip.Addr, bool) {
	s = strings.Trim(s, " \t")
	if a, err := netip.ParseAddr(s); err == nil {
		return a.WithZone("").Unmap(), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().WithZone("").Unmap(), true
	}
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		if a, err := netip.ParseAddr(s[1 : len(s)-1]); err == nil {
			return a.WithZone("").Unmap(), true
		}
	}
	return netip.Addr{}, false
}

func validRequestID(id string) bool {
	return len(id) >= 1 && len(id) <= 128 &&
		strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// newRequestID returns 128 random bits. The generator is ChaCha8 seeded by the
// system: ids do not collide or follow from one another, but are no secrets.
func newRequestID() string {
	const digits = "0123456789abcdef"
	var b [32]byte
	for half := range 2 {
		n := rand.Uint64()
		for i := range 16 {
			b[half*16+i] = digits[n&15]
			n >>= 4
		}
	}
	return string(b[:])
}

// nat64 is the well-known prefix of RFC 6052 §2.1.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// ClientNetwork returns what to take for one client where addresses are
// counted: IPv4 addresses are one each, also in their IPv6 forms (mapped, and
// behind NAT64); of IPv6 it is the network of ipv6PrefixBits, as one line
// usually has a /64. Zones are ignored. It is the zero Prefix for an invalid
// address.
func ClientNetwork(a netip.Addr, ipv6PrefixBits int) netip.Prefix {
	a = a.Unmap()
	bits := 32
	switch {
	case nat64.Contains(a):
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	case a.Is6():
		bits = ipv6PrefixBits
	}
	n, _ := a.Prefix(bits) // zero, if a is
	return n
}
