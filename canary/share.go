package canary

import (
	"math/bits"
	"net/netip"

	"github.com/gatemesh-go/gatemesh"
)

// hash is FNV-1a, 64 bits. It is written out here because its values are part
// of what this package promises: they must be the same on every replica,
// platform and release.
type hash uint64

const (
	fnvOffset hash = 0xcbf29ce484222325
	fnvPrime  hash = 0x100000001b3
)

// add hashes s and a byte that ends it, which no UTF-8 text contains, so that
// ("ab", "c") and ("a", "bc") differ.
func (h hash) add(s string) hash {
	for i := 0; i < len(s); i++ {
		h = (h ^ hash(s[i])) * fnvPrime
	}
	return (h ^ 0xff) * fnvPrime
}

// point spreads the hash evenly over all 64-bit numbers: the last characters of
// a key reach the high bits of FNV-1a too weakly to compare them with a share.
// This is the finalizer of SplitMix64.
func (h hash) point() uint64 {
	x := uint64(h)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// user hashes who makes the call: the subject with its issuer, else the
// consumer, else the client's address. For an outbound call that is who made
// the call that it is made for.
// Addresses of IPv6 count by /64, which one host has to itself.
func (h hash) user(c *gatemesh.Call) hash { return h.caller(c, 64/8) }

// caller is user with so many bytes of an address of IPv6.
func (h hash) caller(c *gatemesh.Call, bytes int) hash {
	if p := c.Parent(); p != nil && c.Principal() == nil {
		c = p
	}
	if h, ok := h.known(c); ok {
		return h
	}
	if a := c.Client(); a.IsValid() {
		return h.add("address").addr(a, bytes)
	}
	return h.add("request").add(c.RequestID()) // a Unix socket: nobody to stick to
}

// known hashes who makes the call, or reports false if that is not known.
func (h hash) known(c *gatemesh.Call) (hash, bool) {
	if p := c.Principal(); p != nil {
		switch {
		case p.Subject() != "":
			return h.add("subject").add(p.Issuer()).add(p.Subject()), true
		case p.Consumer() != "":
			return h.add("consumer").add(p.Consumer()), true
		}
	}
	return h, false
}

// request hashes who makes the call, or the call itself if that is not known.
func (h hash) request(c *gatemesh.Call) hash {
	if h, ok := h.known(c); ok {
		return h
	}
	return h.add("request").add(c.RequestID())
}

// addr hashes an address, of IPv6 so many bytes of it.
func (h hash) addr(a netip.Addr, bytes int) hash {
	raw := a.As16() // IPv4 in its mapped form
	n := len(raw)
	if !a.Unmap().Is4() {
		n = bytes
	}
	for _, b := range raw[:n] {
		h = (h ^ hash(b)) * fnvPrime
	}
	return h
}

// choose returns which of n shares the point falls on, where weight(i) is the
// size of share i, and how far into it, or -1 if all are 0. The sum of the
// weights must be below 1<<64.
//
// The shares lie side by side in a fixed order: those with odd numbers from the
// lower end inwards, those with even numbers from the upper end inwards, and
// share 0 between them. So a share that grows at the cost of share 0 keeps the
// users it has and takes new ones from share 0 alone, if n is at most 3; with
// more, its inner neighbours move as far as it has grown.
func choose(point uint64, n int, weight func(int) uint64) (i int, into uint64) {
	var total uint64
	for i := range n {
		total += weight(i)
	}
	if total == 0 {
		return -1, 0
	}
	at, _ := bits.Mul64(point, total) // point/2^64 of total
	for i := 1; i < n; i += 2 {
		w := weight(i)
		if at < w {
			return i, at
		}
		at -= w
	}
	w := weight(0)
	if at < w {
		return 0, at
	}
	at -= w
	for i := (n - 1) &^ 1; i > 0; i -= 2 {
		w := weight(i)
		if at < w {
			return i, at
		}
		at -= w
	}
	return -1, 0 // not reached: at was below the total
}
