package ratelimit

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	shards = 64 // so that cores rarely wait for one another
	sample = 8  // slots looked at to make room for a key
	// grace is how long an idle key stays while there is room, so that keys
	// which come back now and then need not be made anew each time.
	grace = time.Minute
)

// table holds the counters of a bounded number of keys. It is safe for
// concurrent use.
type table struct {
	seed   maphash.Seed // unknown outside, so that nobody can aim at one shard
	base   time.Time
	shards [shards]shard
}

type shard struct {
	mu    sync.Mutex
	clock time.Duration // since base; never goes backwards
	index map[string]uint32
	slots []slot
	hand  int // the slot to look at next
	max   int

	admitted, refused, forgotten uint64 // calls, and keys with calls

	_ [64]byte // keeps neighbours off each other's cache lines
}

type slot struct {
	key     string
	counter counter
	plan    *plan
	spent   int           // when it was last charged
	idleAt  time.Duration // from then on nothing is charged
}

func newTable(maxKeys int, now time.Time) *table {
	t := &table{seed: maphash.MakeSeed(), base: now}
	for i := range t.shards {
		t.shards[i].index = map[string]uint32{}
	}
	t.resize(maxKeys)
	return t
}

// take charges one call at now to key, which it copies if it is new. A now
// that lies before an earlier one counts as that one.
func (t *table) take(key []byte, now time.Time, p *plan) verdict {
	s := &t.shards[maphash.Bytes(t.seed, key)%shards]
	elapsed := now.Sub(t.base)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = max(s.clock, elapsed)
	i, found := s.index[string(key)]
	lossy := false
	if !found {
		i, lossy = s.insert(string(key), p)
	}
	e := &s.slots[i]
	if e.plan.seq < p.seq { // a call that began before an Update is counted by the newer plan
		e.counter, e.plan = e.counter.adopt(s.clock, e.plan, p), p
	}
	v := e.counter.take(s.clock, e.plan)
	if v.ok {
		e.spent, e.idleAt = v.spent, v.idleAt
		s.admitted++
	} else {
		s.refused++
	}
	if v.lossy = lossy; lossy {
		s.forgotten++
	}
	return v
}

// insert finds a slot for a new key, and reports whether it had to forget
// calls of another key for it.
func (s *shard) insert(key string, p *plan) (index uint32, lossy bool) {
	e := slot{key: key, counter: newCounter(p), plan: p}
	full := len(s.slots) >= s.max
	idleSince := s.clock
	if !full {
		idleSince -= grace
	}
	i, idle := s.candidate(idleSince)
	if idle || full {
		delete(s.index, s.slots[i].key)
		s.slots[i] = e
		lossy = !idle
	} else {
		i = len(s.slots)
		s.slots = append(s.slots, e)
	}
	s.index[key] = uint32(i)
	return uint32(i), lossy
}

// candidate returns the slot that can best be given away among the next few,
// and whether it is idle since then: giving that one away loses nothing.
// Otherwise the fewest calls are lost, so that an exhausted key is the last to
// go.
func (s *shard) candidate(idleSince time.Duration) (best int, idle bool) {
	best = -1
	for range min(sample, len(s.slots)) {
		if s.hand >= len(s.slots) {
			s.hand = 0
		}
		i := s.hand
		s.hand++
		e := &s.slots[i]
		if e.idleAt <= idleSince {
			return i, true
		}
		if best < 0 || e.spent < s.slots[best].spent || e.spent == s.slots[best].spent && e.idleAt < s.slots[best].idleAt {
			best = i
		}
	}
	return best, false
}

// resize bounds the table to maxKeys, which is at least [minKeys]. Keys beyond
// a lower bound are forgotten.
func (t *table) resize(maxKeys int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		s.max = maxKeys / shards
		for n := len(s.slots); n > s.max; n-- {
			delete(s.index, s.slots[n-1].key)
			s.slots[n-1] = slot{}
			s.slots = s.slots[:n-1]
		}
		s.mu.Unlock()
	}
}

// len returns how many keys the table holds.
func (t *table) len() (n int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.slots)
		s.mu.Unlock()
	}
	return n
}
