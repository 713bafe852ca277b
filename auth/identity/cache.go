package identity

import (
	"hash/maphash"
	"sync/atomic"
)

// ways is how many places of a cache an entry can be in.
const ways = 8

// cache is a bounded table without locks. A key belongs to one set of eight
// places; when they are taken, the entry that ends first gives way. An entry is
// found by a seeded hash and confirmed by comparing the whole key.
type cache[K comparable, V any] struct {
	seed  maphash.Seed
	mask  uint64
	slots []atomic.Pointer[cached[K, V]]
}

// cached is an entry. It is immutable.
type cached[K comparable, V any] struct {
	hash  uint64
	key   K
	ends  int64 // Unix ns; only for the choice of what gives way
	value V
}

// newCache returns a cache for at least entries entries, and less than twice
// as many if that is more than eight.
func newCache[K comparable, V any](entries int) *cache[K, V] {
	sets := 1
	for sets*ways < entries {
		sets *= 2
	}
	return &cache[K, V]{
		seed: maphash.MakeSeed(), mask: uint64(sets - 1),
		slots: make([]atomic.Pointer[cached[K, V]], sets*ways),
	}
}

func (c *cache[K, V]) set(hash uint64) []atomic.Pointer[cached[K, V]] {
	i := (hash & c.mask) * ways
	return c.slots[i : i+ways]
}

// get returns what was put for key, or nil. Whether it is still good is for the
// caller to say.
func (c *cache[K, V]) get(key K) *V {
	hash := maphash.Comparable(c.seed, key)
	set := c.set(hash)
	for i := range set {
		// An unequal hash ends it before bytes are compared: how long that
		// takes says nothing about cached keys to who does not know the seed.
		if e := set[i].Load(); e != nil && e.hash == hash && e.key == key {
			return &e.value
		}
	}
	return nil
}

// put stores value and returns where it is.
func (c *cache[K, V]) put(key K, ends int64, value V) *V {
	e := &cached[K, V]{hash: maphash.Comparable(c.seed, key), key: key, ends: ends, value: value}
	set := c.set(e.hash)
	victim, first := 0, int64(0)
	for i := range set {
		old := set[i].Load()
		if old == nil || old.hash == e.hash && old.key == key {
			victim = i
			break
		}
		if i == 0 || old.ends < first {
			victim, first = i, old.ends
		}
	}
	set[victim].Store(e)
	return &e.value
}
