package pool

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// traffic is calls at a steady pace, as a simulation in the time of synctest.
type traffic struct {
	calls int
	pace  time.Duration
	// answer says how an attempt ends, and after which time. Default: Success
	// after 2 ms.
	answer func(addr string) (time.Duration, Result)
	key    func(i int) string // in the header X-Key, or none
}

// run returns how many attempts each address got.
func (tr traffic) run(t *testing.T, p *Pool) map[string]int {
	t.Helper()
	if tr.answer == nil {
		tr.answer = func(string) (time.Duration, Result) { return 2 * time.Millisecond, Success }
	}
	var (
		mu  sync.Mutex
		got = map[string]int{}
		wg  sync.WaitGroup
	)
	for i := range tr.calls {
		var r Request
		if tr.key != nil {
			r.Header = http.Header{"X-Key": {tr.key(i)}}
		}
		wg.Go(func() {
			e := p.state.Load().chooser.Choose(context.Background(), r)
			a := e.Begin(context.Background(), time.Now())
			mu.Lock()
			got[e.Address()]++
			mu.Unlock()
			took, result := tr.answer(e.Address())
			time.Sleep(took)
			a.Done(time.Now(), result)
		})
		time.Sleep(tr.pace)
	}
	wg.Wait()
	return got
}

// balancers is every Balancer, with what it needs.
var balancers = map[string]func(*Config){
	"p2c":           func(*Config) {},
	"round robin":   func(c *Config) { c.Balancer = RoundRobin },
	"least request": func(c *Config) { c.Balancer = LeastRequest },
	"random":        func(c *Config) { c.Balancer = Random },
	"ring hash":     func(c *Config) { c.Balancer, c.HashKey.Header = RingHash, "x-key" },
}

func forBalancers(t *testing.T, do func(t *testing.T, name string, balancer func(*Config))) {
	for name, b := range balancers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { do(t, name, b) })
		})
	}
}

func anyKey(i int) string { return "key-" + strconv.Itoa(i) }

func zoned(zones map[string]int) (targets []Target) {
	for zone, n := range zones {
		for i := range n {
			targets = append(targets, Target{Address: fmt.Sprintf("%s-%d:80", zone, i), Zone: zone})
		}
	}
	return targets
}

// byZone adds up what the endpoints of zoned got, and finds the most.
func byZone(got map[string]int) (sums map[string]int, most int) {
	sums = map[string]int{}
	for addr, n := range got {
		sums[addr[:1]] += n
		most = max(most, n)
	}
	return sums, most
}

// Equal endpoints get equal shares from every balancer.
func TestShares(t *testing.T) {
	t.Parallel()
	forBalancers(t, func(t *testing.T, name string, balancer func(*Config)) {
		p := newPool(t, Static(numbered(5)...), balancer)
		got := traffic{calls: 10_000, pace: time.Millisecond, key: anyKey}.run(t, p)
		require.Len(t, got, 5)
		for addr, n := range got {
			switch name {
			case "round robin":
				assert.Equal(t, 2_000, n, addr)
			case "ring hash":
				assert.InDelta(t, 2_000, n, 500, "%s: %v", addr, got)
			default:
				assert.InDelta(t, 2_000, n, 250, "%s: %v", addr, got)
			}
		}
	})
}

// Endpoints of different weights get shares by their weights, while they are
// equally loaded.
func TestWeights(t *testing.T) {
	t.Parallel()
	forBalancers(t, func(t *testing.T, name string, balancer func(*Config)) {
		p := newPool(t, StaticTargets(
			Target{Address: "a:1"}, Target{Address: "b:1", Weight: 1}, Target{Address: "c:1", Weight: 2}, Target{Address: "d:1", Weight: 4},
		), balancer)
		got := traffic{
			calls: 16_000, pace: 10 * time.Millisecond, key: anyKey,
			answer: func(string) (time.Duration, Result) { return time.Millisecond, Success },
		}.run(t, p)
		for addr, want := range map[string]float64{"a:1": 2_000, "b:1": 2_000, "c:1": 4_000, "d:1": 8_000} {
			within := want / 4
			if name == "round robin" {
				within = 2
			}
			if name == "p2c" {
				// The second draw is another endpoint, so that the great one is
				// drawn less than twice.
				within = want / 2
			}
			assert.InDelta(t, want, got[addr], within, "%s: %v", addr, got)
		}
		assert.Greater(t, got["d:1"], got["c:1"])
		assert.Greater(t, got["c:1"], got["a:1"])
	})
}

// One endpoint of five is ten times slower. With P2C at most 2 % of the requests
// reach it, and with LeastRequest little; the others do not measure.
func TestSlowEndpoint(t *testing.T) {
	t.Parallel()
	forBalancers(t, func(t *testing.T, name string, balancer func(*Config)) {
		p := newPool(t, Static("a:1", "b:1", "c:1", "d:1", "slow:1"), balancer)
		const calls = 20_000
		got := traffic{calls: calls, pace: time.Millisecond, key: anyKey, answer: func(addr string) (time.Duration, Result) {
			if addr == "slow:1" {
				return 20 * time.Millisecond, Success
			}
			return 2 * time.Millisecond, Success
		}}.run(t, p)
		switch name {
		case "p2c":
			assert.LessOrEqual(t, got["slow:1"], calls*2/100, "%v", got)
			assert.Positive(t, got["slow:1"], "never starved")
		case "least request":
			assert.Less(t, got["slow:1"], calls*12/100, "%v", got)
		default:
			assert.InDelta(t, calls/5, got["slow:1"], calls/20, "%v", got)
		}
	})
}

// The same with a hundred endpoints, of which one in five is slow and some fail:
// ejection must not drive the load onto the slow ones.
func TestSlowAmongMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, Static(numbered(100)...))
		const calls = 20_000
		slow, bad := map[string]bool{}, map[string]bool{}
		for i, e := range p.Endpoints() {
			slow[e.Address], bad[e.Address] = i%5 == 0, i%10 == 1
		}
		got := traffic{calls: calls, pace: 500 * time.Microsecond, answer: func(addr string) (time.Duration, Result) {
			switch {
			case slow[addr]:
				return 20 * time.Millisecond, Success
			case bad[addr]:
				return time.Millisecond, Failure
			}
			return 2 * time.Millisecond, Success
		}}.run(t, p)
		slowGot, badGot := 0, 0
		for addr, n := range got {
			if slow[addr] {
				slowGot += n
			}
			if bad[addr] {
				badGot += n
			}
		}
		// Two slow ones are drawn together in 4 % of the cases.
		assert.Less(t, slowGot, calls*7/100)
		assert.Less(t, badGot, calls*3/100)
	})
}

// An endpoint that dies gets an attempt each time it is tried again, and the
// others get equally more.
func TestDeadEndpoint(t *testing.T) {
	t.Parallel()
	forBalancers(t, func(t *testing.T, name string, balancer func(*Config)) {
		p := newPool(t, Static(numbered(5)...), balancer)
		dead := p.Endpoints()[2].Address
		got := traffic{calls: 8_000, pace: time.Millisecond, key: anyKey, answer: func(addr string) (time.Duration, Result) {
			if addr == dead {
				return 0, Unreachable
			}
			return 2 * time.Millisecond, Success
		}}.run(t, p)
		assert.LessOrEqual(t, got[dead], 4, "8 s are two ejections")
		most, least := 0, math.MaxInt
		for addr, n := range got {
			if addr != dead {
				most, least = max(most, n), min(least, n)
			}
		}
		switch name {
		case "round robin":
			assert.LessOrEqual(t, most-least, 4, "nobody gets the share of the dead one: %v", got)
		case "ring hash":
			assert.Less(t, most, 3_200, "%v", got)
		default:
			assert.Less(t, most-least, 500, "%v", got)
		}
	})
}

// Calls stay in our zone while it is whole, go out as it shrinks, and all of them
// when it is lost.
func TestZoneLoss(t *testing.T) {
	t.Parallel()
	forBalancers(t, func(t *testing.T, name string, balancer func(*Config)) {
		var gone sync.Map
		p := newPool(t, StaticTargets(zoned(map[string]int{"a": 3, "b": 3, "c": 3})...), balancer, func(c *Config) { c.Zone = "a" })
		drive := func() (map[string]int, int) {
			return byZone(traffic{calls: 3_000, pace: time.Millisecond, key: anyKey, answer: func(addr string) (time.Duration, Result) {
				if _, ok := gone.Load(addr); ok {
					return 0, Unreachable
				}
				return 2 * time.Millisecond, Success
			}}.run(t, p))
		}
		sums, most := drive()
		assert.Equal(t, map[string]int{"a": 3_000}, sums)
		assert.Less(t, most, 1_500, "in its zone it is spread")

		gone.Store("a-0:80", true)
		gone.Store("a-1:80", true)
		drive() // they are out from here on for 5 s
		sums, most = drive()
		// 140 % of one in seven, times three zones, is 60 %.
		assert.InDelta(t, 1_800, sums["a"], 250, "%v", sums)
		assert.InDelta(t, sums["b"], sums["c"], 300, "%v", sums)
		assert.Less(t, most, 2_100)

		gone.Store("a-2:80", true)
		drive()
		sums, most = drive()
		assert.Less(t, sums["a"], 10, "%v", sums)
		assert.InDelta(t, sums["b"], sums["c"], 600, "%v", sums)
		assert.Less(t, most, 1_100, "nobody gets more than twice of a sixth")
	})
}

// A zone with few endpoints does not get all calls of its clients.
func TestSmallZone(t *testing.T) {
	t.Parallel()
	forBalancers(t, func(t *testing.T, _ string, balancer func(*Config)) {
		p := newPool(t, StaticTargets(zoned(map[string]int{"a": 1, "b": 9})...), balancer, func(c *Config) { c.Zone = "a" })
		sums, _ := byZone(traffic{calls: 10_000, pace: time.Millisecond, key: anyKey}.run(t, p))
		assert.InDelta(t, 2_800, sums["a"], 400, "140 %% of a tenth, times two zones: %v", sums)
	})
}

// A client in a zone without endpoints, or that nobody speaks of, uses them all.
func TestUnknownZone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, StaticTargets(zoned(map[string]int{"a": 2, "b": 2})...), func(c *Config) { c.Zone = "x" })
		got := traffic{calls: 1_000, pace: time.Millisecond}.run(t, p)
		assert.Len(t, got, 4)
	})
}

// The share of a new endpoint grows during its slow start, deterministically.
func TestWarmup(t *testing.T) {
	t.Parallel()
	forBalancers(t, func(t *testing.T, name string, balancer func(*Config)) {
		b := &book{addrs: []string{"a:1", "b:1", "c:1"}}
		p := newPool(t, b, balancer, func(c *Config) { c.Warmup.Duration = 100 * time.Second })
		require.NoError(t, p.WaitReady(t.Context()))
		first := traffic{calls: 1_000, pace: 10 * time.Millisecond, key: anyKey}.run(t, p)
		assert.Len(t, first, 3)
		for _, s := range p.Endpoints() {
			assert.Equal(t, In, s.State, "the first ones have no slow start")
		}
		b.set("a:1", "b:1", "c:1", "new:1")
		time.Sleep(2 * time.Second) // one lookup
		assert.Equal(t, Warming, statusOf(t, p, "new:1").State)
		var shares []int
		for range 10 { // 10 s each
			shares = append(shares, traffic{calls: 1_000, pace: 10 * time.Millisecond, key: anyKey}.run(t, p)["new:1"])
		}
		whole := traffic{calls: 10_000, pace: 10 * time.Millisecond, key: anyKey}.run(t, p)["new:1"] / 10
		assert.Equal(t, In, statusOf(t, p, "new:1").State)
		if name == "ring hash" {
			assert.InDelta(t, whole, shares[0], 50, "a key has its place at once")
			return
		}
		assert.InDelta(t, 250, whole, 40)
		assert.Less(t, shares[0], 80, "%v", shares)
		assert.Greater(t, shares[0], 5, "%v", shares)
		assert.Less(t, shares[2], shares[5], "%v", shares)
		assert.Less(t, shares[5], shares[9]+15, "%v", shares)
		if name == "round robin" {
			// w/(3+w) of 1,000 calls, with w around 0.55 in the sixth 10 s.
			assert.InDelta(t, 155, shares[5], 15, "%v", shares)
		}
	})
}

// When one of n endpoints comes or goes, about 1/n of the keys move, and none
// between those that stay.
func TestRingMovesLittle(t *testing.T) {
	t.Parallel()
	place := func(addrs []string) map[string]string {
		p := newPool(t, Static(addrs...), balancers["ring hash"])
		got := map[string]string{}
		for i := range 5_000 {
			got[anyKey(i)] = p.state.Load().chooser.Choose(t.Context(), Request{Header: http.Header{"X-Key": {anyKey(i)}}}).Address()
		}
		return got
	}
	all := numbered(10)
	before, after := place(all), place(all[:9])
	require.Equal(t, before, place(all), "every process agrees")
	moved := 0
	for key, addr := range before {
		if addr != after[key] {
			moved++
			assert.Equal(t, all[9], addr, "only its own keys")
		}
	}
	assert.InDelta(t, 500, moved, 150)
	counts := map[string]int{}
	for addr := range maps.Values(before) {
		counts[addr]++
	}
	for addr, n := range counts {
		assert.InDelta(t, 500, n, 150, addr)
	}
}
