package identity

import (
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	for entries, slots := range map[int]int{1: 8, 8: 8, 9: 16, 1000: 1024, 1 << 20: 1 << 20} {
		assert.Len(t, newCache[string, int](entries).slots, slots)
	}
	c := newCache[int, int](64)
	for i := range 10_000 {
		c.put(i, int64(i), i)
		got := c.get(i)
		if assert.NotNil(t, got, "what was stored is stored") {
			assert.Equal(t, i, *got)
		}
	}
	held := 0
	for i := range 10_000 {
		if v := c.get(i); v != nil {
			assert.Equal(t, i, *v)
			held++
		}
	}
	assert.Equal(t, 64, held)
}

func TestCacheReplaces(t *testing.T) {
	t.Parallel()
	c := newCache[int, string](8)
	for i := range 8 {
		c.put(i, int64(100+(i+5)%8), strconv.Itoa(i)) // 3 ends first
	}
	c.put(4, 200, "new 4")
	assert.Equal(t, "new 4", *c.get(4), "in place")
	c.put(8, 300, "8")
	assert.Nil(t, c.get(3), "the entry that ends first gives way")
	for _, i := range []int{0, 1, 2, 4, 5, 6, 7, 8} {
		assert.NotNil(t, c.get(i), i)
	}
}

func TestCacheConfirmsTheWholeKey(t *testing.T) {
	t.Parallel()
	c := newCache[string, int](8)
	c.put("alice", 1, 1)
	for i := range c.slots { // as if the hashes of all keys were equal
		if e := c.slots[i].Load(); e != nil {
			twin := *e
			twin.key = "mallory"
			c.slots[i].Store(&twin)
		}
	}
	assert.Nil(t, c.get("alice"))
}

func TestCacheConcurrent(t *testing.T) {
	t.Parallel()
	c := newCache[int, int](32)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 5000 {
				k := (i*7 + g) % 100
				if v := c.get(k); v != nil && *v != k {
					t.Errorf("key %d has the value %d", k, *v)
				}
				c.put(k, int64(i), k)
			}
		})
	}
	wg.Wait()
}
