package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// ipset is a set of addresses as sorted ranges that do not overlap, so that a
// list of thousands of blocks costs a binary search.
type ipset []ipRange

type ipRange struct{ first, last netip.Addr }

func newIPSet(blocks []netip.Prefix) ipset {
	ranges := make([]ipRange, len(blocks))
	for i, b := range blocks {
		ranges[i] = ipRange{b.Addr(), lastAddr(b)}
	}
	slices.SortFunc(ranges, func(a, b ipRange) int {
		return cmp.Or(a.first.Compare(b.first), b.last.Compare(a.last))
	})
	set := ranges[:0]
	for _, r := range ranges {
		// Prefixes nest or stand apart. With the widest first among those that
		// start alike, one that starts inside its predecessor is a part of it.
		if n := len(set); n > 0 && r.first.Compare(set[n-1].last) <= 0 {
			continue
		}
		set = append(set, r)
	}
	return slices.Clip(set)
}

func (s ipset) contains(a netip.Addr) bool {
	i, found := slices.BinarySearchFunc(s, a, func(r ipRange, a netip.Addr) int { return r.first.Compare(a) })
	return found || i > 0 && a.Compare(s[i-1].last) <= 0
}

// lastAddr returns the last address of the masked prefix p.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
