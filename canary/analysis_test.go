package canary

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func defaults(t testing.TB) Analysis {
	t.Helper()
	return Analysis{}.complete(func(format string, args ...any) { t.Errorf(format, args...) })
}

var names = [2]string{"v1", "v2"}

// traffic adds n calls from random clients, which fail at the rate.
func (t *tally) traffic(r *rand.Rand, n int, rate float64) {
	for range n {
		g := &t.Groups[r.IntN(vouched)]
		g[nCalls]++
		if r.Float64() < rate {
			g[nFailed]++
		}
	}
}

// TestFivePercentAreSeenWithinSeconds: 100 requests a second for each version,
// 5 % failures beside 0.1 %. It prints how long it took.
func TestFivePercentAreSeenWithinSeconds(t *testing.T) {
	t.Parallel()
	a := defaults(t)
	var took []int
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s samples
		var confirmed alarm
		for second := 1; ; second++ {
			require.Less(t, second, 20, "seed %d", seed)
			s[stable].traffic(r, 100, 0.001)
			s[canary].traffic(r, 100, 0.05)
			if confirmed.judge(&a, &s, nil, names, 1).quality == bad {
				took = append(took, second)
				break
			}
		}
	}
	sum := 0
	for _, s := range took {
		sum += s
	}
	t.Logf("seen after %.1f s on average", float64(sum)/float64(len(took)))
	assert.Less(t, float64(sum)/float64(len(took)), 8.)
}

// noisy is how many rollouts of each kind TestNoiseDoesNotRollBack makes. Of 400
// each, none was rolled back.
const noisy = 8

// TestNoiseDoesNotRollBack looks every second, for ten minutes, at two versions
// that fail equally, 100 calls a second of the one and 10 of the other, in a
// window of a minute, and counts how many such rollouts are rolled back.
func TestNoiseDoesNotRollBack(t *testing.T) {
	t.Parallel()
	a := defaults(t)
	for _, rate := range []float64{0.001, 0.01, 0.05} {
		wrong := 0
		for seed := range uint64(noisy) {
			r := rand.New(rand.NewPCG(seed, uint64(rate*1e6)))
			var window []samples
			var confirmed alarm
		rollout:
			for second := range 600 {
				if second%5 == 0 { // as parts of a window
					window = append(window, samples{})
					window = window[max(0, len(window)-parts):]
				}
				now := &window[len(window)-1]
				now[stable].traffic(r, 100, rate)
				now[canary].traffic(r, 10, rate)
				var s samples
				for i := range window {
					s.add(&window[i])
				}
				if confirmed.judge(&a, &s, nil, names, 1).quality == bad {
					wrong++
					break rollout
				}
			}
		}
		t.Logf("failing at %v: %d of %d rollouts of 10 min rolled back", rate, wrong, noisy)
		assert.LessOrEqual(t, wrong, 1, "failing at %v", rate)
	}
}

// TestBurstsDoNotRollBack: two versions with two nodes each, of which every one
// is down for a second every 1,000 s. Of 200 such rollouts of ten minutes a burst
// would have rolled back 24, and 1 was when verdicts had to be confirmed.
func TestBurstsDoNotRollBack(t *testing.T) {
	t.Parallel()
	a := defaults(t)
	alone, wrong := 0, 0
	for seed := range uint64(noisy) {
		r := rand.New(rand.NewPCG(seed, 5))
		var window []samples
		var confirmed alarm
		found, back := false, false
		for second := range 600 {
			if second%5 == 0 {
				window = append(window, samples{})
				window = window[max(0, len(window)-parts):]
			}
			var s samples
			for v := range s {
				for range 2 {
					rate := 0.001
					if r.Float64() < 0.001 {
						rate = 1
					}
					window[len(window)-1][v].traffic(r, 50, rate)
				}
			}
			for i := range window {
				s.add(&window[i])
			}
			found = found || a.find(&s, nil, names).quality == bad
			back = back || confirmed.judge(&a, &s, nil, names, 1).quality == bad
		}
		if found {
			alone++
		}
		if back {
			wrong++
		}
	}
	t.Logf("found bad: %d of %d rollouts of 10 min, confirmed: %d", alone, noisy, wrong)
	assert.Positive(t, alone, "a burst is found")
	assert.Zero(t, wrong)
}

// TestAlarm: what is found bad is bad if it goes on.
func TestAlarm(t *testing.T) {
	t.Parallel()
	a := defaults(t)
	judge := func(r *alarm, s samples, since uint64) quality { return r.judge(&a, &s, nil, names, since).quality }
	burst := samples{spread(100, 0), spread(100, 10)}
	after := func(calls, failed uint32) samples {
		s := burst
		add := samples{spread(calls, 0), spread(calls, failed)}
		s.add(&add)
		return s
	}
	var r alarm
	require.Equal(t, doubtful, judge(&r, burst, 1))
	require.Equal(t, doubtful, judge(&r, burst, 1), "nothing has come since")
	require.Equal(t, doubtful, judge(&r, after(10, 0), 1), "nothing bad has")
	require.Equal(t, bad, judge(&r, after(10, 1), 1))
	require.Equal(t, doubtful, judge(&r, after(10, 1), 2), "at another share it begins anew")
	require.Equal(t, bad, judge(&r, after(20, 2), 2))
	require.Equal(t, good, judge(&r, samples{spread(100, 0), spread(100, 0)}, 2))
	require.Equal(t, doubtful, judge(&r, after(30, 3), 2), "it is over, and begins anew")

	// Parts of the window go, and what comes is counted from there.
	var gone alarm
	require.Equal(t, doubtful, judge(&gone, after(100, 20), 1))
	require.Equal(t, doubtful, judge(&gone, burst, 1))
	require.Equal(t, bad, judge(&gone, after(10, 1), 1))
	// One client goes on, and does not confirm it.
	var one alarm
	require.Equal(t, doubtful, judge(&one, burst, 1))
	mallory := burst
	mallory[canary].Groups[3][nCalls] += 1000
	mallory[canary].Groups[3][nFailed] += 1000
	require.Equal(t, doubtful, judge(&one, mallory, 1))
}

func spread(calls, failed uint32) (t tally) {
	for g := range vouched {
		t.Groups[g][nCalls], t.Groups[g][nFailed] = calls, failed
	}
	return t
}

func TestOneClientDecidesNothing(t *testing.T) {
	t.Parallel()
	a := defaults(t)
	quiet := func() *samples { return &samples{spread(100, 0), spread(100, 0)} }
	tests := []struct {
		name string
		make func() *samples
		want quality
	}{
		{"as good", quiet, good},
		{"all fail", func() *samples { s := quiet(); s[canary] = spread(100, 50); return s }, bad},
		{"one client fails", func() *samples { s := quiet(); s[canary].Groups[3][nFailed] = 100; return s }, good},
		{"one client fails a lot", func() *samples {
			s := quiet()
			s[canary].Groups[3] = seen{nCalls: 1_000_000, nFailed: 1_000_000}
			return s
		}, good},
		{"one client hides failures", func() *samples {
			s := quiet()
			s[canary] = spread(100, 10)
			s[canary].Groups[3] = seen{nCalls: 1_000_000}
			return s
		}, bad},
		{"one client makes the stable version look bad", func() *samples {
			s := quiet()
			s[canary] = spread(100, 10)
			s[stable].Groups[3] = seen{nCalls: 1_000_000, nFailed: 1_000_000}
			return s
		}, bad},
		{"two clients fail", func() *samples {
			s := quiet() // the second counts as much as four in the middle
			s[canary].Groups[3], s[canary].Groups[4] = seen{1_000_000, 1_000_000}, seen{1_000_000, 999_999}
			return s
		}, bad},
		{"four failures are none", func() *samples {
			s := &samples{spread(100, 0), {}}
			for g := range 5 {
				s[canary].Groups[g] = seen{1, 1}
			}
			return s
		}, few},
		{"and five are", func() *samples {
			s := &samples{spread(100, 0), {}}
			for g := range 6 {
				s[canary].Groups[g] = seen{1, 1}
			}
			return s
		}, bad},
		{"only one client", func() *samples {
			s := &samples{}
			s[stable], s[canary] = spread(100, 0), tally{}
			s[canary].Groups[1] = seen{1000, 1000}
			return s
		}, few},
		{"nobody's calls", func() *samples {
			s := &samples{}
			s[stable].Groups[vouched], s[canary].Groups[vouched] = seen{1000}, seen{1000, 50}
			return s
		}, bad},
		{"too few of the stable one", func() *samples { return &samples{spread(1, 0), spread(100, 0)} }, few},
		{"one of few clients makes most calls", func() *samples { // of seven, it counts as four times the middle one
			s := &samples{}
			for g := range 7 {
				s[stable].Groups[g], s[canary].Groups[g] = seen{100}, seen{100, 20}
			}
			s[canary].Groups[6] = seen{1_000_000}
			return s
		}, bad},
		{"too few", func() *samples { return &samples{spread(100, 0), spread(1, 0)} }, few},
		{"too few, and all fail", func() *samples { return &samples{spread(100, 0), spread(2, 2)} }, bad},
		{"in doubt", func() *samples {
			s := &samples{spread(1000, 0), spread(20, 0)}
			for g := range 8 {
				s[canary].Groups[g][nFailed] = 1
			}
			return s
		}, doubtful},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := a.find(tt.make(), nil, names)
			assert.Equal(t, tt.want, f.quality, f.text)
		})
	}
}

func TestBoundsOfTheErrorRate(t *testing.T) {
	t.Parallel()
	a := defaults(t)
	s := &samples{spread(1000, 100), spread(1000, 100)}
	require.Equal(t, good, a.find(s, nil, names).quality, "as bad as the stable version")
	a.MaxErrorRate = 0.05
	f := a.find(s, nil, names)
	require.Equal(t, bad, f.quality)
	assert.Equal(t, "v2 failed 10 % of 15000 calls, v1 10 % of 15000; that is above 5 %", f.text)
}

func TestLatency(t *testing.T) {
	t.Parallel()
	a := defaults(t)
	answers := func(ds ...time.Duration) (t tally) {
		for _, d := range ds {
			t.Latencies[bucketOf(d)] += 1000
		}
		return t
	}
	s := &samples{answers(10*time.Millisecond, 20*time.Millisecond), {}}
	l := a.limits(s)
	require.NotNil(t, l)
	assert.InDelta(t, 20*time.Millisecond, l[0], float64(3*time.Millisecond), "10 ms more are always allowed")
	assert.InDelta(t, 33*time.Millisecond, l[1], float64(7*time.Millisecond))
	a.MaxLatency = 25 * time.Millisecond
	assert.Equal(t, a.MaxLatency, a.limits(s)[1])
	a.MaxLatency = 5 * time.Millisecond
	assert.Equal(t, [3]time.Duration{l[0], a.MaxLatency, l[2]}, *a.limits(s), "it is the 95th percentile's alone")
	a.MaxLatency = 25 * time.Millisecond
	assert.Nil(t, a.limits(&samples{}), "nothing is known")

	slow := func(v int, q int, each uint32) {
		for g := range vouched {
			s[v].Groups[g][nCalls], s[v].Groups[g][nTimed], s[v].Groups[g][nSlow+q] = 1000, 1000, each
		}
	}
	slow(stable, 1, 10)
	slow(canary, 1, 40)
	require.Equal(t, good, a.find(s, l, names).quality, "4 % above the limit of the 95th percentile")
	slow(canary, 1, 80)
	f := a.find(s, l, names)
	require.Equal(t, bad, f.quality)
	assert.Regexp(t, `its p95 is above \d+ms: 8 % of 15000 answers took longer`, f.text)
	slow(stable, 1, 80)
	require.Equal(t, good, a.find(s, l, names).quality, "both have become slow, and the limits have not followed yet")
	slow(stable, 1, 0)
	slow(canary, 1, 0)
	s[canary].Groups[2][nSlow+1] = 1000
	require.Equal(t, good, a.find(s, l, names).quality, "one client is slow")
}

func TestBuckets(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{0, 1, fastest, time.Millisecond, 17 * time.Millisecond, time.Second, 10 * time.Second} {
		i := bucketOf(d)
		assert.LessOrEqual(t, d, endOf(i), d)
		if i > 0 {
			assert.Greater(t, d, endOf(i-1), d)
		}
	}
	assert.Equal(t, buckets-1, bucketOf(math.MaxInt64))
	assert.Equal(t, 0, bucketOf(-1))
	full := samples{{Latencies: [buckets]uint32{math.MaxUint32}}}
	full.add(&samples{{Latencies: [buckets]uint32{1, 2}}})
	assert.Equal(t, samples{{Latencies: [buckets]uint32{math.MaxUint32, 2}}}, full)
}

// FuzzFind checks that no counts, which come from a store, make a verdict
// against a version without failures, or one in favour of a broken one.
func FuzzFind(f *testing.F) {
	f.Add(uint64(1), uint32(100), uint32(0))
	f.Add(uint64(2), uint32(math.MaxUint32), uint32(math.MaxUint32))
	a := defaults(f)
	f.Fuzz(func(t *testing.T, seed uint64, most, slow uint32) {
		r := rand.New(rand.NewPCG(seed, 0))
		var s samples
		for v := range s {
			for g := range s[v].Groups {
				for i := range s[v].Groups[g] {
					s[v].Groups[g][i] = uint32(r.Uint64N(uint64(most) + 1))
				}
			}
		}
		limits := [len(quantiles)]time.Duration{1, 1, 1}
		found := a.find(&s, &limits, names)
		require.NotEmpty(t, found.text)
		for g := range s[canary].Groups {
			s[canary].Groups[g][nFailed] = 0
		}
		require.NotEqual(t, bad, a.find(&s, nil, names).quality)
		s[stable], s[canary] = spread(1000, 0), spread(1000, 900)
		s[canary].Groups[int(slow%vouched)] = seen{most, 0}
		require.Equal(t, bad, a.find(&s, nil, names).quality)
	})
}
