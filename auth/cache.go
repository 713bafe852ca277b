package auth

import (
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// verified is a token that was found good. It is shared by all calls that
// carry the token, and immutable but for what is atomic.
type verified struct {
	raw       string
	principal *gatemesh.Principal
	issuer    *issuer // the configuration it was judged by
	kid, alg  string
	key       *key  // that signed it
	at        int64 // when it was judged, in Unix ns
	expires   int64 // its exp
	issued    int64 // its iat, 0 if it has none
	until     time.Time
	slot      int // in its shard

	keys atomic.Pointer[Keys] // the newest set that key was seen in
	used atomic.Bool          // since the clock hand passed

	cleared atomic.Uint64 // Revocations.changes when it was found not revoked
}

// cache remembers verified tokens. A token is found by a hash that nobody
// outside can compute, and confirmed by comparing all of it.
//
// It is not ristretto: that one stores asynchronously, may drop what it was
// given, and admits new keys by frequency, so an outage of an issuer would find
// tokens missing that were accepted a moment ago. Here, what put was given is
// there until the shard is full; then it evicts by CLOCK, which needs no lock
// for a hit but the reader's.
type cache struct {
	seed   maphash.Seed
	shards []shard
	shift  uint
}

type shard struct {
	mu     sync.RWMutex
	byHash map[uint64]*verified
	ring   []*verified
	limit  int
	hand   int
	_      [64]byte // keeps neighbouring locks in cache lines of their own
}

const (
	maxShards   = 64
	minPerShard = 256 // the fewer, the more uneven the shards fill
	// maxSweep bounds how long an insertion holds the lock to find a victim.
	maxSweep = 64
)

// newCache returns a cache for at most entries tokens. The shards have equal
// parts, so eviction may begin some per cent below that.
func newCache(entries int) *cache {
	n := 1
	for n < maxShards && entries/(2*n) >= minPerShard {
		n *= 2
	}
	c := &cache{seed: maphash.MakeSeed(), shards: make([]shard, n), shift: uint(64 - bits.TrailingZeros(uint(n)))}
	for i := range c.shards {
		s := &c.shards[i]
		s.byHash = map[uint64]*verified{}
		if s.limit = entries / n; i < entries%n {
			s.limit++
		}
	}
	return c
}

func (c *cache) find(raw string) (*shard, uint64) {
	h := maphash.String(c.seed, raw)
	return &c.shards[h>>c.shift], h // shift 64 is 0
}

// get returns the entry of raw, or nil. Whether it still holds is the caller's
// question.
func (c *cache) get(raw string) *verified {
	s, h := c.find(raw)
	s.mu.RLock()
	v := s.byHash[h]
	s.mu.RUnlock()
	if v == nil || v.raw != raw {
		return nil
	}
	if !v.used.Load() { // a write would take the line from other cores
		v.used.Store(true)
	}
	return v
}

// put stores v at now, in Unix ns, in place of an entry for the same token if
// there is one.
func (c *cache) put(v *verified, now int64) {
	s, h := c.find(v.raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch old := s.byHash[h]; {
	case old != nil:
		v.slot = old.slot
		s.ring[v.slot] = v
	case len(s.ring) < s.limit:
		v.slot = len(s.ring)
		s.ring = append(s.ring, v)
	default:
		v.slot = s.victim(now)
		_, gone := c.find(s.ring[v.slot].raw)
		delete(s.byHash, gone)
		s.ring[v.slot] = v
	}
	s.byHash[h] = v
}

// victim returns the slot of an entry that has expired or was not used for a
// round of the hand.
func (s *shard) victim(now int64) int {
	for range maxSweep {
		i := s.hand
		s.hand = (s.hand + 1) % len(s.ring)
		if v := s.ring[i]; v.expires <= now || !v.used.Swap(false) {
			return i
		}
	}
	i := s.hand
	s.hand = (s.hand + 1) % len(s.ring)
	return i
}
