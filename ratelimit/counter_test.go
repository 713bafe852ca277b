package ratelimit

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/internal/race"
)

// arrivals returns random times of calls under l: lulls, steady traffic and
// bursts, with many calls at the same instant.
func arrivals(r *rand.Rand, l Limit, n int) []time.Duration {
	ts := make([]time.Duration, n)
	now, mean := time.Duration(r.Int64N(int64(l.Per))), int64(1)
	for i := range ts {
		if i%50 == 0 {
			mean = max(1, int64(float64(l.Per)/float64(l.Requests)*[]float64{0.01, 0.3, 0.9, 1, 1.1, 3}[r.IntN(6)]))
		}
		switch r.IntN(20) {
		case 0:
			now += time.Duration(r.Int64N(int64(l.Per)))
		case 1, 2, 3, 4:
		default:
			now += time.Duration(r.Int64N(2 * mean))
		}
		ts[i] = now
	}
	return ts
}

// within returns how many of log, which is sorted, lie in (to-d, to].
func within(log []time.Duration, to, d time.Duration) (n int) {
	for i := len(log) - 1; i >= 0 && log[i] > to-d; i-- {
		n++
	}
	return n
}

// TestWindowOracle compares the sliding window with a log of all calls.
func TestWindowOracle(t *testing.T) {
	t.Parallel()
	for seed := range uint64(race.Fewer(150)) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := newPlan(Limit{Requests: 1 + r.IntN(1<<r.IntN(8)), Per: time.Duration(1e6 + r.Int64N(1e9))}, 0)
		var w window
		var log []time.Duration
		for _, now := range arrivals(r, p.limit, 1500) {
			v := w.take(now, p)
			if v.ok {
				log = append(log, now)
				require.LessOrEqual(t, within(log, now, p.limit.Per), p.limit.Requests, "seed %d: more than the quota in a window", seed)
				require.Equal(t, now+p.limit.Per, v.idleAt)
			} else {
				require.GreaterOrEqual(t, within(log, now, p.limit.Per+p.slice), p.limit.Requests, "seed %d: refused without need", seed)
			}
			require.LessOrEqual(t, int(w.n), windowSlices+1)
			require.Positive(t, v.wait)
			require.LessOrEqual(t, v.wait, p.limit.Per)

			// What is said about the future is exact.
			for range v.left {
				ahead := w
				require.True(t, ahead.take(now, p).ok)
				break
			}
			ahead := w
			before := ahead.take(now+v.wait-1, p)
			require.Equal(t, v.left > 0, before.ok, "seed %d: more calls sooner than said", seed)
			ahead = w
			after := ahead.take(now+v.wait, p)
			require.True(t, after.ok)
			require.GreaterOrEqual(t, after.left, v.left)
		}
	}
}

// TestWindowUpdates changes the plan while calls come: those since the last
// change are never too many.
func TestWindowUpdates(t *testing.T) {
	t.Parallel()
	for seed := range uint64(race.Fewer(100)) {
		r := rand.New(rand.NewPCG(seed, 2))
		var w window
		var log []time.Duration
		now := time.Duration(0)
		for range 30 {
			p := newPlan(Limit{Requests: 1 + r.IntN(40), Per: time.Duration(1e6 + r.Int64N(1e9))}, 0)
			log = log[:0]
			start := now
			for _, d := range arrivals(r, p.limit, 100) {
				now = start + d
				if v := w.take(now, p); v.ok {
					log = append(log, now)
				} else {
					require.Positive(t, v.wait)
					require.LessOrEqual(t, v.wait, p.limit.Per)
					ahead := w
					require.False(t, ahead.take(now+v.wait-1, p).ok)
					ahead = w
					require.True(t, ahead.take(now+v.wait, p).ok, "seed %d: told to wait too short", seed)
				}
				require.LessOrEqual(t, within(log, now, p.limit.Per), p.limit.Requests, "seed %d", seed)
				sum := uint32(0)
				for k := range w.n {
					sum += w.count[w.index(k)]
				}
				require.Equal(t, w.total, sum)
			}
		}
	}
}

// TestWindowFoldsOldSlices: after the period was raised, there are more slices
// than fit, and none of their calls may be forgotten.
func TestWindowFoldsOldSlices(t *testing.T) {
	t.Parallel()
	short, long := newPlan(Limit{Requests: 100, Per: time.Second}, 0), newPlan(Limit{Requests: 100, Per: time.Hour}, 1)
	var w window
	now := time.Duration(0)
	for range 10 { // ten slices of two calls
		w.take(now, short)
		w.take(now, short)
		now += 100 * time.Millisecond
	}
	now -= 100 * time.Millisecond
	for i := range 5 {
		now += long.slice
		v := w.take(now, long)
		require.True(t, v.ok)
		require.Equal(t, 21+i, v.spent)
		require.LessOrEqual(t, int(w.n), windowSlices+1)
	}
	require.Equal(t, 10, int(w.count[w.head]), "the oldest five of fifteen slices are one")
	ahead := w
	require.Equal(t, 26, ahead.take(time.Hour+400*time.Millisecond-1, long).spent)
	require.Equal(t, 16, w.take(time.Hour+400*time.Millisecond, long).spent, "they go when the youngest of them is an hour old")
}

// TestBucketOracle compares the token bucket with one in integers.
func TestBucketOracle(t *testing.T) {
	t.Parallel()
	for seed := range uint64(race.Fewer(150)) {
		r := rand.New(rand.NewPCG(seed, 3))
		l := Limit{Requests: 1 + r.IntN(1<<r.IntN(8)), Per: time.Duration(1e6 + r.Int64N(1e9)), Burst: 1 + r.IntN(1<<r.IntN(8))}
		p := newPlan(l, 0)
		b := newBucket(p)
		requests, per := int64(l.Requests), int64(l.Per) // a call costs per, a nanosecond brings requests
		capacity := int64(l.Burst) * per
		level, last := capacity, time.Duration(0)
		unsure := 1000 * requests // a microsecond's worth, for rounding
		for _, now := range arrivals(r, l, 1500) {
			level = min(capacity, level+min(int64(now-last), capacity/requests+1)*requests)
			last = now
			v := b.take(now, p)
			switch {
			case level >= per+unsure:
				require.True(t, v.ok, "seed %d: refused with a token left", seed)
			case level < per-unsure:
				require.False(t, v.ok, "seed %d: admitted without a token", seed)
			}
			if v.ok {
				level -= per
			}
			require.InDelta(t, level/per, v.left, 1)
			require.InDelta(t, float64(capacity-level)/float64(requests), float64(v.idleAt-now), 2000)
			require.Positive(t, v.wait)
			require.LessOrEqual(t, int64(v.wait), per/requests+2)
			if !v.ok {
				require.InDelta(t, float64(per-level)/float64(requests), float64(v.wait), 2000)
			}
		}
	}
}

func TestAdoptKeepsWhatWasUsed(t *testing.T) {
	t.Parallel()
	take := func(c counter, p *plan, n int) (ok int) {
		for range n {
			if c.take(time.Second, p).ok {
				ok++
			}
		}
		return ok
	}
	quota := func(n int) *plan { return newPlan(Limit{Requests: n, Per: time.Minute}, 0) }
	bucket := func(burst int) *plan { return newPlan(Limit{Requests: 1, Per: time.Hour, Burst: burst}, 0) }
	tests := []struct {
		name     string
		old, new *plan
		used     int
		want     int // calls that still pass
	}{
		{"quota raised", quota(5), quota(8), 5, 3},
		{"quota lowered", quota(8), quota(5), 6, 0},
		{"bucket grown stays as empty", bucket(5), bucket(8), 5, 0},
		{"bucket shrunk", bucket(8), bucket(3), 1, 3},
		{"exhausted quota to bucket", quota(10), bucket(5), 10, 0},
		{"half-used quota to bucket", quota(10), bucket(8), 5, 3},
		{"exhausted bucket to quota", bucket(5), quota(10), 5, 5},
		{"exhausted bucket to smaller quota", bucket(5), quota(3), 5, 0},
		{"unused bucket to quota", bucket(5), quota(3), 0, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(tt.old)
			require.Equal(t, tt.used, take(c, tt.old, tt.used))
			assert.Equal(t, tt.want, take(c.adopt(time.Second, tt.old, tt.new), tt.new, 100))
		})
	}
}
