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

	keys atomic.Pointer[Keys] // the newest set that key was seen in
	used atomic.Bool          // since the clock hand passed

	cleared atomic.Uint64 // Revocations.changes when it was found not revoked

	hash uint64
	slot int                      // in the ring of its shard
	next atomic.Pointer[verified] // in its chain, and still there when it has left it
}

// cache remembers verified tokens. A token is found by a hash that nobody
// outside can compute, and confirmed by comparing all of it.
//
// It is not ristretto: that one stores asynchronously, may drop what it was
// given, and admits new keys by frequency, so an outage of an issuer would find
// tokens missing that were accepted a moment ago. Here, what put was given is
// there until the shard is full; then it evicts by CLOCK. Readers take no lock
// and write nothing but a mark, so any number of cores may look up one token.
type cache struct {
	seed   maphash.Seed
	shards []shard
	shift  uint
}

type shard struct {
	table atomic.Pointer[table]
	moves atomic.Uint64 // odd while entries move to another table
	mu    sync.Mutex    // of writers
	ring  []*verified
	limit int
	hand  int
	_     [64]byte // keeps neighbours in cache lines of their own
}

// table is a hash table of chains, which hang together by verified.next. Its
// length is a power of two; when it gets too small, another one takes its place.
type table []atomic.Pointer[verified]

const (
	maxShards   = 64
	minPerShard = 256 // the fewer, the more uneven the shards fill
	minTable    = 16
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
		t := make(table, minTable)
		s.table.Store(&t)
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

// chain returns where the entries of hash hang.
func (t table) chain(hash uint64) *atomic.Pointer[verified] { return &t[hash&uint64(len(t)-1)] }

func (t table) find(hash uint64) *verified {
	v := t.chain(hash).Load()
	for v != nil && v.hash != hash {
		v = v.next.Load()
	}
	return v
}

// hang puts v at the head of its chain.
func (t table) hang(v *verified) {
	head := t.chain(v.hash)
	v.next.Store(head.Load())
	head.Store(v)
}

// place returns what points to v in its chain.
func (t table) place(v *verified) *atomic.Pointer[verified] {
	at := t.chain(v.hash)
	for at.Load() != v {
		at = &at.Load().next
	}
	return at
}

// unhang takes v out of its chain. A reader who stands on it goes on from there.
func (t table) unhang(v *verified) { t.place(v).Store(v.next.Load()) }

// replace puts v where old is, which has the same hash: a reader who has passed
// the head of the chain finds one of the two.
func (t table) replace(old, v *verified) {
	v.next.Store(old.next.Load())
	t.place(old).Store(v)
}

// get returns the entry of raw, or nil. Whether it still holds is the caller's
// question.
func (c *cache) get(raw string) *verified {
	s, h := c.find(raw)
	moves := s.moves.Load()
	v := s.table.Load().find(h)
	if v == nil && (moves%2 == 1 || s.moves.Load() != moves) {
		s.mu.Lock() // it may have moved past us
		v = s.table.Load().find(h)
		s.mu.Unlock()
	}
	if v == nil || v.raw != raw {
		return nil
	}
	if !v.used.Load() { // a write would take the line from other cores
		v.used.Store(true)
	}
	return v
}

// put stores v, which is in no cache yet, at now, in Unix ns, in place of an
// entry for the same token if there is one.
func (c *cache) put(v *verified, now int64) {
	s, h := c.find(v.raw)
	v.hash = h
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.table.Load().find(h); old != nil {
		v.slot = old.slot
		s.ring[v.slot] = v
		s.table.Load().replace(old, v)
		return
	}
	if len(s.ring) < s.limit {
		v.slot = len(s.ring)
		s.ring = append(s.ring, v)
		if len(s.ring) > len(*s.table.Load()) {
			s.grow() // which hangs v, too
			return
		}
	} else {
		v.slot = s.victim(now)
		s.table.Load().unhang(s.ring[v.slot])
		s.ring[v.slot] = v
	}
	s.table.Load().hang(v)
}

// grow makes the table twice as long.
func (s *shard) grow() {
	t := make(table, 2*len(*s.table.Load()))
	s.moves.Add(1)
	for _, v := range s.ring {
		t.hang(v)
	}
	s.table.Store(&t)
	s.moves.Add(1)
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
