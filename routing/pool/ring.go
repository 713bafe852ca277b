package pool

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sort"
)

const (
	// points is how many places an endpoint has on a ring for each unit of its
	// weight. Shares differ by about 1/sqrt(points).
	points = 256
	// maxPoints bounds the places on a ring. Where there would be more, each
	// endpoint has half as many, and half again.
	maxPoints = 1 << 20
	// maxWalk bounds how far somebody better than who was found is looked for.
	maxWalk = 1 << 12
)

// ring is the places of endpoints on the circle of all hashes (consistent
// hashing). They hang on addresses and weights alone, so that all processes
// agree. It is immutable.
type ring struct {
	addrs  []string // in order
	hashes []uint64 // in order
	owners []int32  // by index into addrs
}

func newRing(list []*Endpoint) *ring {
	total := 0
	for _, e := range list {
		total += e.weight * points
	}
	shift := 0
	for total>>shift > maxPoints {
		shift++
	}
	type place struct {
		hash  uint64
		owner int32
	}
	r := &ring{addrs: make([]string, len(list))}
	places := make([]place, 0, total>>shift+len(list))
	for i, e := range list {
		r.addrs[i] = e.addr
		h := hashString(hashSeed, e.addr)
		for k := range max(1, e.weight*points>>shift) {
			places = append(places, place{mix(h + uint64(k)*0x9e3779b97f4a7c15), int32(i)})
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.owner, b.owner))
	})
	r.hashes, r.owners = make([]uint64, len(places)), make([]int32, len(places))
	for i, p := range places {
		r.hashes[i], r.owners[i] = p.hash, p.owner
	}
	return r
}

// walk is a ring, and who of those on it can be chosen.
type walk struct {
	ring    *ring
	key     finder
	members []walker // by index into ring.addrs
	weights float64  // of all members
}

type walker struct {
	*Endpoint // nil if it cannot be chosen
	near      bool
}

func newWalk(r *ring, key HashKey, v *view) *walk {
	w := &walk{ring: r, key: newFinder(key), members: make([]walker, len(r.addrs))}
	add := func(g group, near bool) {
		for _, m := range g {
			if i, ok := slices.BinarySearch(r.addrs, m.addr); ok {
				w.members[i] = walker{m.Endpoint, near}
				w.weights += float64(m.Endpoint.weight)
			}
		}
	}
	add(v.near, true)
	add(v.far, false)
	return w
}

// pick returns the endpoint of key: the next one on the ring in the zone that
// the key stays in. Then the conditions fall, one after the other: the zone, the
// load, and that the call in again was not tried there.
func (w *walk) pick(key uint64, nearShare float64, again context.Context) *Endpoint {
	near := float64(mix(key)>>11)/(1<<53) < nearShare
	bound := w.bound()
	start := sort.Search(len(w.ring.hashes), func(i int) bool { return w.ring.hashes[i] >= key })
	var elsewhere, loaded, last *Endpoint
	for k := range w.ring.owners {
		i := start + k
		if i >= len(w.ring.owners) {
			i -= len(w.ring.owners)
		}
		m := &w.members[w.ring.owners[i]]
		e := m.Endpoint
		if e == nil {
			continue
		}
		if k > maxWalk && (elsewhere != nil || loaded != nil || last != nil) {
			break
		}
		switch {
		case tried(again, e):
			last = or(last, e)
		case float64(e.inflight.Load()+1) > math.Ceil(bound*float64(e.weight)):
			loaded = or(loaded, e)
		case m.near != near:
			elsewhere = or(elsewhere, e)
		default:
			return e
		}
	}
	return or(or(elsewhere, loaded), last)
}

func or(a, b *Endpoint) *Endpoint {
	if a != nil {
		return a
	}
	return b
}

// bound returns how many attempts may be in flight for each unit of weight, the
// new one included.
func (w *walk) bound() float64 {
	if w.key.BoundedLoad == 0 {
		return math.Inf(1)
	}
	total := int64(1)
	for i := range w.members {
		if e := w.members[i].Endpoint; e != nil {
			total += e.inflight.Load()
		}
	}
	return float64(w.key.BoundedLoad) / 100 * float64(total) / w.weights
}
