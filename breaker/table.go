package breaker

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/gatemesh-go/gatemesh"
)

// table holds something for every destination, up to a number. Reading takes no
// lock. Destinations are few and new ones rare.
type table[T any] struct {
	m  atomic.Pointer[map[gatemesh.Destination]*T]
	mu sync.Mutex // for writing
}

func newTable[T any]() *table[T] {
	t := &table[T]{}
	t.m.Store(&map[gatemesh.Destination]*T{})
	return t
}

func (t *table[T]) all() map[gatemesh.Destination]*T { return *t.m.Load() }

// get returns what there is for d, or makes it. In a full table, one that can
// be spared makes room; if there is none, get returns nil.
func (t *table[T]) get(d gatemesh.Destination, limit int, make func() *T, spare func(*T) bool) *T {
	if it := t.all()[d]; it != nil {
		return it
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.all()
	if it := old[d]; it != nil {
		return it
	}
	now := maps.Clone(old)
	for len(now) >= limit {
		if !evict(now, spare) {
			return nil
		}
	}
	it := make()
	now[d] = it
	t.m.Store(&now)
	return it
}

// evict removes one that can be spared. The order of a map is random; the
// second round is for those that spare gives a second chance.
func evict[T any](m map[gatemesh.Destination]*T, spare func(*T) bool) bool {
	for range 2 {
		for d, it := range m {
			if spare(it) {
				delete(m, d)
				return true
			}
		}
	}
	return false
}

// each calls f with everything there is, and with nothing that was being made
// before the call.
func (t *table[T]) each(f func(*T)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, it := range t.all() {
		f(it)
	}
}
