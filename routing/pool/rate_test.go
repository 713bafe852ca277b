package pool

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestWindow(t *testing.T) {
	t.Parallel()
	const length = 10 * time.Second
	sec := int64(time.Second)
	var w window
	failed, all := w.at(0, length)
	assert.Zero(t, all+failed)
	for i := range 10 {
		w.add(int64(i)*sec, length, i%2 == 0)
	}
	failed, all = w.at(9*sec, length)
	assert.Equal(t, []int{5, 10}, []int{failed, all})
	failed, all = w.at(12*sec, length)
	assert.Equal(t, []int{2, 5}, []int{failed, all}, "those of the first half are too old")
	_, all = w.at(16*sec, length)
	assert.Zero(t, all)
	w.add(17*sec, length, true)
	failed, all = w.at(17*sec, length)
	assert.Equal(t, []int{1, 1}, []int{failed, all})
	half := halfOf(17*sec, length)
	w.halves[half%2].Store(packCounts(half, maxCount-1, maxCount-1))
	for range 10 {
		w.add(17*sec, length, true)
	}
	failed, all = w.at(17*sec, length)
	assert.Equal(t, maxCount/2+9, all, "too many to count are halved")
	assert.Equal(t, all, failed)
}

func TestIsOutlier(t *testing.T) {
	t.Parallel()
	cfg := Config{}.withDefaults().Ejection
	for _, tt := range []struct {
		failed, all, othersFailed, others int
		want                              bool
	}{
		{10, 20, 0, 20, true},
		{19, 19, 0, 1_000, false}, // too few samples
		{20, 20, 0, 19, false},    // of the others
		{9, 20, 0, 100, false},    // less than half
		{10, 20, 25, 100, true},   // twice as much
		{10, 20, 26, 100, false},
		{20, 20, 50, 100, true},
		{20, 20, 51, 100, false}, // they fail, too
	} {
		assert.Equal(t, tt.want, cfg.isOutlier(tt.failed, tt.all, tt.othersFailed, tt.others), "%v", tt)
	}
}

// An endpoint that fails two of three attempts never fails five times in a row,
// and is ejected by its rate; where all do, nobody is.
func TestEjectionByRate(t *testing.T) {
	t.Parallel()
	for name, everywhere := range map[string]bool{"one": false, "all": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{}
				p := newPool(t, Static("a:1", "b:1", "bad:1"), func(c *Config) { c.Observer = r })
				for i := range 30 {
					for _, e := range p.state.Load().endpoints {
						result := Success
						if i%3 != 0 && (everywhere || e.addr == "bad:1") {
							result = Failure
						}
						try(t, e, result)
					}
					time.Sleep(10 * time.Millisecond)
				}
				if everywhere {
					assert.Zero(t, ejected(p))
					return
				}
				s := statusOf(t, p, "bad:1")
				assert.Equal(t, Ejected, s.State)
				assert.Equal(t, "more attempts have failed than at others", s.Reason)
				assert.Equal(t, 1, s.Ejections)
				assert.Equal(t, []string{"!the endpoint bad:1 is ejected for 5s: more attempts have failed than at others"}, r.take())
				time.Sleep(5*time.Second + time.Millisecond)
				assert.Equal(t, []string{"the endpoint bad:1 is back from its ejection"}, r.take(), "told when it happens, not at the next lookup")
				assert.Equal(t, In, statusOf(t, p, "bad:1").State)
			})
		})
	}
}

// A slow start begins anew after an ejection.
func TestWarmupAfterEjection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, Static("a:1", "b:1", "c:1"), func(c *Config) {
			c.Balancer, c.Warmup.Duration = RoundRobin, time.Minute
		})
		try(t, at(t, p, "b:1"), Unreachable)
		assert.Zero(t, tries(t, p, 300)["b:1"])
		time.Sleep(5 * time.Second)
		assert.Equal(t, Warming, statusOf(t, p, "b:1").State)
		few := tries(t, p, 300)["b:1"]
		assert.InDelta(t, 14, few, 3, "a tenth of the others")
		time.Sleep(time.Minute)
		assert.InDelta(t, 100, tries(t, p, 300)["b:1"], 2)
	})
}

func TestWarmupPart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		aggression, after, want float64 // after in parts of the duration
	}{
		{1, -1, 0.1}, {1, 0, 0.1}, {1, 0.5, 0.5}, {1, 1, 1}, {1, 5, 1}, {2, 0.25, 0.5}, {0.5, 0.5, 0.25},
	} {
		w := Warmup{time.Minute, 10, tt.aggression}
		part, left := w.part(int64(tt.after * float64(time.Minute)))
		assert.InDelta(t, tt.want, part, 1e-9, "%v", tt)
		assert.Equal(t, tt.want == 1, left == 0)
	}
}

// What is told of endpoints that come and go is bounded, and how much was not.
func TestChangesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		p := newPool(t, Static(numbered(100)...), func(c *Config) {
			c.Observer, c.Ejection.MaxPercent = r, 100
			c.Ejection.Base, c.Ejection.Max = time.Hour, time.Hour
		})
		list := p.state.Load().endpoints
		for _, e := range list[:60] {
			try(t, e, Unreachable)
		}
		assert.Len(t, r.take(), maxChanges)
		time.Sleep(changesTime)
		try(t, list[60], Unreachable)
		messages := r.take()
		require.Len(t, messages, 1)
		assert.True(t, strings.HasSuffix(messages[0], "(and 40 changes of endpoints were not told)"), messages[0])
		for _, e := range r.list() {
			assert.Equal(t, gatemesh.EventFault, e.Kind)
		}
	})
}

// When so few are in that the panic threshold is passed, all are used, and the
// status says so.
func TestPanicThreshold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		minHealth, out int
		panics         bool
	}{{0, 5, false}, {0, 6, true}, {30, 7, false}, {30, 8, true}, {100, 1, true}, {1, 9, false}, {1, 10, true}} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, Static(numbered(10)...), func(c *Config) { c.MinHealthPercent, c.Balancer = tt.minHealth, RoundRobin })
				for _, e := range p.state.Load().endpoints[:tt.out] {
					e.unhealthy.Store(true)
				}
				p.changes.Add(1)
				got := tries(t, p, 1_000)
				if tt.panics {
					assert.Len(t, got, 10)
				} else {
					assert.Len(t, got, 10-tt.out)
				}
				for i, s := range p.Endpoints() {
					assert.Equal(t, tt.panics && i < tt.out, s.Ignored)
				}
			})
		})
	}
}

// Server5xx makes 500 a failure, and nothing else does.
func TestServer5xx(t *testing.T) {
	t.Parallel()
	for status, want := range map[int][2]Result{
		200: {Success, Success}, 404: {Success, Success}, 499: {Success, Success}, 500: {Success, Failure}, 501: {Success, Failure},
		502: {Failure, Failure}, 503: {Failure, Failure}, 504: {Failure, Failure}, 599: {Success, Failure},
	} {
		resp := response(status)
		assert.Equal(t, want, [2]Result{answered(resp, false), answered(resp, true)}, status)
	}
}
