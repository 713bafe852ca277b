package ratelimit

import (
	"encoding/binary"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/internal/race"
)

func numbered(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

func TestRL03_BoundedTable(t *testing.T) { // not parallel: it measures the heap
	const maxKeys = 100_000
	keys := race.Fewer(1_000_000)
	for _, l := range []Limit{{Requests: 10, Per: time.Hour}, {Requests: 10, Per: time.Hour, Burst: 10}} {
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before, goroutines := heap(), runtime.NumGoroutine()
		p, start := newPlan(l, 0), time.Now()
		tab := newTable(maxKeys, start)
		took := make([]time.Duration, 0, keys/100)
		for i := range keys {
			key := numbered(i)
			began := time.Now()
			v := tab.take(key, start.Add(time.Duration(i)), p)
			if i%100 == 0 {
				took = append(took, time.Since(began))
			}
			if !v.ok {
				require.FailNow(t, "a new key was refused", "key %d", i)
			}
		}
		slices.Sort(took)
		t.Logf("%s: p99 of a decision about a new key: %s", l, took[len(took)*99/100])
		took = nil

		assert.LessOrEqual(t, tab.len(), maxKeys)
		assert.Greater(t, tab.len(), maxKeys*9/10)
		grown := int64(heap()) - int64(before)
		t.Logf("%s: heap growth %d KiB, %d bytes a key", l, grown>>10, grown/maxKeys)
		assert.LessOrEqual(t, grown, int64(64<<20))
		assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
		assert.True(t, tab.take([]byte("late customer"), start.Add(time.Duration(keys)), p).ok)
		runtime.KeepAlive(tab)
	}
}

func TestRL03_FloodDoesNotResetExhaustedKeys(t *testing.T) {
	t.Parallel()
	for _, l := range []Limit{{Requests: 10, Per: time.Hour}, {Requests: 10, Per: time.Hour, Burst: 10}} {
		p, start := newPlan(l, 0), time.Now()
		tab := newTable(minKeys, start)
		for range 10 {
			require.True(t, tab.take([]byte("mine"), start, p).ok)
		}
		for i := range 50 * minKeys {
			require.True(t, tab.take(numbered(i), start.Add(time.Duration(i)), p).ok)
		}
		assert.LessOrEqual(t, tab.len(), minKeys)
		assert.False(t, tab.take([]byte("mine"), start.Add(time.Second), p).ok, "%s", l)
	}
}

func TestIdleKeysAreReusedFirst(t *testing.T) {
	t.Parallel()
	for _, l := range []Limit{{Requests: 10, Per: time.Minute}, {Requests: 1, Per: time.Minute, Burst: 10}} {
		p, start := newPlan(l, 0), time.Now()
		tab := newTable(100*minKeys, start)
		for i := range 5000 {
			require.False(t, tab.take(numbered(i), start, p).lossy)
		}
		require.Equal(t, 5000, tab.len())
		require.True(t, tab.take([]byte("early"), start.Add(time.Minute+grace-1), p).ok)
		require.Equal(t, 5001, tab.len(), "there is room, and idle keys may come back")
		for i := range 500 {
			require.False(t, tab.take(numbered(10_000+i), start.Add(time.Minute+grace), p).lossy)
		}
		assert.Equal(t, 5001, tab.len(), "the table does not grow while it has idle keys")
	}
}

func TestFullTableReusesIdleKeysAtOnce(t *testing.T) {
	t.Parallel()
	p, start := newPlan(Limit{Requests: 2, Per: time.Second}, 0), time.Now()
	tab := newTable(minKeys, start)
	for i := range 20 * minKeys {
		tab.take(numbered(i), start, p)
	}
	for i := range 3 * shards { // a few for each shard, whose slots are all idle
		require.False(t, tab.take(numbered(100_000+i), start.Add(time.Second), p).lossy)
	}
}

func TestClockGoingBackwards(t *testing.T) {
	t.Parallel()
	for _, l := range []Limit{{Requests: 5, Per: time.Minute}, {Requests: 5, Per: time.Minute, Burst: 5}} {
		p, start := newPlan(l, 0), time.Now()
		tab := newTable(minKeys, start)
		ok := 0
		for i := range 100 { // forth and back, by a half of what would admit one
			for _, now := range []time.Duration{time.Hour, time.Hour - 6*time.Second, -time.Hour} {
				if v := tab.take([]byte("k"), start.Add(now), p); v.ok {
					ok++
				} else {
					require.Positive(t, v.wait)
					require.LessOrEqual(t, v.wait, l.Per, "%d", i)
				}
			}
		}
		assert.Equal(t, 5, ok, "%s", l)
		assert.True(t, tab.take([]byte("k"), start.Add(time.Hour+time.Minute), p).ok)
	}
}

func TestResize(t *testing.T) {
	t.Parallel()
	p, start := newPlan(Limit{Requests: 1, Per: time.Hour}, 0), time.Now()
	tab := newTable(10*minKeys, start)
	for i := range 5 * minKeys {
		tab.take(numbered(i), start, p)
	}
	require.Equal(t, 5*minKeys, tab.len())
	tab.resize(2 * minKeys)
	assert.LessOrEqual(t, tab.len(), 2*minKeys)
	kept := 0
	for i := range 5 * minKeys {
		s := 0
		for j := range tab.shards {
			if at, ok := tab.shards[j].index[string(numbered(i))]; ok {
				assert.Equal(t, string(numbered(i)), tab.shards[j].slots[at].key)
				s++
			}
		}
		kept += s
	}
	assert.Equal(t, tab.len(), kept)
	tab.resize(10 * minKeys)
	for i := range 5 * minKeys {
		tab.take(numbered(100_000+i), start, p)
	}
	assert.Greater(t, tab.len(), 5*minKeys)
}

// TestOldPlanDoesNotComeBack: calls that began before an Update are judged by
// what came after.
func TestOldPlanDoesNotComeBack(t *testing.T) {
	t.Parallel()
	start := time.Now()
	old, later := newPlan(Limit{Requests: 10, Per: time.Hour}, 0), newPlan(Limit{Requests: 2, Per: time.Hour, Burst: 3}, 1)
	tab := newTable(minKeys, start)
	for range 10 {
		require.True(t, tab.take([]byte("k"), start, old).ok)
	}
	for range 5 {
		assert.False(t, tab.take([]byte("k"), start, later).ok)
		assert.False(t, tab.take([]byte("k"), start, old).ok)
	}
}
