package canary

import (
	"flag"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

// rollouts is how many rollouts TestHowFastAndHowSure makes of each kind. Of
// 10,000, 5 % were found after 54 s (median; 95 % of them after 110 s, all after
// 328) with 10 calls a second of each version, after 6 (9, 14) with 100, and after
// 2 (2, 3) with 1,000:
//
//	go test -run HowFast -v -timeout 0 ./canary -canary.rollouts 10000
var rollouts = flag.Int("canary.rollouts", 5, "rollouts of each kind that are simulated")

// course is a rollout of a day's traffic, as its Analysis sees it every second.
type course struct {
	rand   *rand.Rand
	window [parts]samples
	sum    samples
	alarm  alarm
	second int
}

// next adds a second with so many calls of each version, which fail at those
// rates, and reports whether the canary is rolled back.
func (c *course) next(a *Analysis, calls, rates [2]float64) bool {
	part := &c.window[c.second/5%parts]
	if c.second%5 == 0 { // a part of the window goes
		c.sum = *c.sum.minus(part)
		*part = samples{}
	}
	c.second++
	var now samples
	for v := range now {
		for g := range vouched {
			failed := poisson(c.rand, calls[v]*rates[v]/vouched)
			now[v].Groups[g] = seen{nFailed: failed, nCalls: failed + poisson(c.rand, calls[v]*(1-rates[v])/vouched)}
		}
	}
	part.add(&now)
	c.sum.add(&now)
	return c.alarm.judge(a, &c.sum, nil, names, 1).quality == bad
}

// poisson draws from the distribution with that mean.
func poisson(r *rand.Rand, mean float64) (n uint32) {
	for left := r.ExpFloat64(); left < mean; left += r.ExpFloat64() {
		n++
	}
	return n
}

// TestHowFastAndHowSure prints how soon 5 % of failures beside 0.1 % are found,
// and how many of the rollouts of a version as good as the stable one are rolled
// back when they are looked at every second for ten minutes.
//
// No rule could be much faster. To take (0.05, 0.001) for a difference of more
// than 0.01, and to be wrong in one of a hundred rollouts, takes ln 100 nats of
// evidence (Wald), and a call of each version gives no more than
//
//	min over p of KL(0.05 | p) + KL(0.001 | p - 0.01) = 0.0213
//
// which makes 216 calls of each: 2.2 s of 100 a second. To leave out the group
// that looks worst costs a fifth of the failures or more, and that a burst of one
// moment is no proof another look and what it takes to see five failures in it.
// So four to five seconds are the least with what the Analysis promises besides,
// and it takes six.
func TestHowFastAndHowSure(t *testing.T) {
	t.Parallel()
	a := defaults(t)
	n := *rollouts
	for _, tt := range []struct {
		calls [2]float64 // a second, of the stable version and the canary
		most  int        // s, of the median
	}{
		{[2]float64{10, 10}, 75},
		{[2]float64{90, 10}, 50},
		{[2]float64{100, 100}, 8},
		{[2]float64{1_000, 1_000}, 3},
	} {
		var took []int
		for seed := range n {
			c := course{rand: rand.New(rand.NewPCG(uint64(seed), 1))}
			for !c.next(&a, tt.calls, [2]float64{0.001, 0.05}) && c.second < 600 {
			}
			took = append(took, c.second)
		}
		slices.Sort(took)
		t.Logf("%4g and %4g calls a second: 5 %% are found after %3d s (median), %3d (95 %%), %3d (all of %d)",
			tt.calls[stable], tt.calls[canary], took[n/2], took[int(math.Ceil(0.95*float64(n)))-1], took[n-1], n)
		assert.LessOrEqual(t, took[n/2], tt.most, "%v", tt.calls)
	}
	for _, calls := range [][2]float64{{10, 10}, {100, 10}, {100, 100}} {
		for _, rate := range []float64{0.001, 0.01, 0.05} {
			wrong := 0
			for seed := range n {
				c := course{rand: rand.New(rand.NewPCG(uint64(seed), 2))}
				for c.second < 600 {
					if c.next(&a, calls, [2]float64{rate, rate}) {
						wrong++
						break
					}
				}
			}
			t.Logf("%4g and %4g calls a second that fail at %4g %%: %d of %d rollouts of ten minutes rolled back", calls[stable], calls[canary], 100*rate, wrong, n)
			assert.LessOrEqual(t, wrong, max(1, n/100), "%v at %v", calls, rate)
		}
	}
}
