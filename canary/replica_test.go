package canary

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// shaky is a Store that can be away, or never answer.
type shaky struct {
	Store
	down, hangs atomic.Bool
	release     chan struct{}
}

func (s *shaky) Load(ctx context.Context, key string) ([]byte, string, error) {
	if s.hangs.Load() {
		<-s.release // as a disk does, which knows no context
	}
	if s.down.Load() {
		return nil, "", errors.New("down")
	}
	return s.Store.Load(ctx, key)
}

// lines collects events.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Observe(_ context.Context, e gatemesh.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kind := ""
	if e.Kind == gatemesh.EventFault {
		kind = "FAULT "
	}
	l.all = append(l.all, kind+e.Message)
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

func threeSteps(store Store) RolloutConfig {
	return RolloutConfig{
		Service: "orders", Namespace: "production", Stable: "v1", Canary: "v2", Store: store,
		Steps: []Step{{Percent: 5, Duration: 10 * time.Second}, {Percent: 25, Duration: 10 * time.Second}, {Percent: 50, Duration: 10 * time.Second}},
	}
}

func start(t *testing.T, cfg RolloutConfig) *Rollout {
	t.Helper()
	r, err := NewRollout(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

// serve counts calls of a second, of which v2 fails that many.
func (r *Rollout) serve(calls, failures uint32) {
	c := &r.counts.Load().versions
	for v := range c {
		for g := range vouched {
			c[v].groups[g].calls.Add(calls)
		}
	}
	for g := range vouched {
		c[canary].groups[g].failed.Add(failures)
	}
}

func shares(rs ...*Rollout) (all []uint32) {
	for _, r := range rs {
		all = append(all, r.share.Load())
	}
	return all
}

func TestReplicasAgree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := NewMemoryStore()
		log := &lines{}
		cfg := threeSteps(store)
		cfg.Observer = log
		var rs []*Rollout
		for i := range 3 {
			cfg.Replica = fmt.Sprint("r", i)
			rs = append(rs, start(t, cfg))
			time.Sleep(300 * time.Millisecond)
			cfg.Observer = nil
		}
		assert.Equal(t, []uint32{500, 500, 500}, shares(rs...))
		var seen []uint32
		agreed := time.Now()
		for range 400 {
			for _, r := range rs {
				r.serve(1, 0)
			}
			time.Sleep(100 * time.Millisecond)
			if all := shares(rs...); all[0] == all[1] && all[1] == all[2] {
				agreed = time.Now()
				if len(seen) == 0 || seen[len(seen)-1] != all[0] {
					seen = append(seen, all[0])
				}
			}
			require.Less(t, time.Since(agreed), 2*time.Second, "they agree within two intervals")
		}
		assert.Equal(t, []uint32{500, 2500, 5000, whole}, seen)
		for _, r := range rs {
			assert.Equal(t, Promoted, r.Status().State.Phase)
			assert.Equal(t, 3, r.Status().Replicas)
		}
		all := log.take()
		require.Len(t, all, 4, "each change is told once")
		assert.Equal(t, "orders.production: begins: v2 gets 5 %, step 1 of 3", all[0])
		assert.Regexp(t, `^orders.production: v2 failed 0 % of \d+ calls, v1 0 % of \d+; v2 gets 25 %, step 2 of 3$`, all[1])

		late := start(t, cfg)
		assert.Equal(t, []uint32{whole}, shares(late), "one that comes late takes the state")
	})
}

// TestSum: none of three sees enough by itself.
func TestReplicasDecideOnTheSum(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := threeSteps(NewMemoryStore())
		cfg.Analysis.MinSamples = 400
		one := start(t, cfg)
		for range 20 {
			one.serve(1, 0)
			time.Sleep(time.Second)
		}
		require.Equal(t, uint32(500), one.share.Load())
		assert.Contains(t, one.Status().State.Halt, "are too few, 400 are needed")
		two := start(t, cfg)
		for range 15 {
			one.serve(1, 0)
			two.serve(1, 0)
			time.Sleep(time.Second)
		}
		assert.Equal(t, []uint32{2500, 2500}, shares(one, two))

		// One goes away, and what it has seen with it.
		require.NoError(t, one.Close())
		for range 30 {
			two.serve(1, 0)
			time.Sleep(time.Second)
		}
		assert.Equal(t, 1, two.Status().Replicas)
	})
}

func TestRollsBackAndStaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := NewMemoryStore()
		cfg := threeSteps(store)
		log := &lines{}
		cfg.Observer = log
		a, b := start(t, cfg), start(t, cfg)
		for range 5 {
			a.serve(20, 1)
			b.serve(20, 1)
			time.Sleep(time.Second)
		}
		assert.Equal(t, []uint32{0, 0}, shares(a, b), "within five seconds, as a verdict is confirmed")
		told := strings.Join(log.take(), "\n")
		assert.Regexp(t, `FAULT orders.production: rolled back from 5 %: v2 failed 5 % of \d+ calls, v1 0 % of \d+; that is more than the 1 % that it may exceed it by; v1 gets everybody`, told)
		again := start(t, cfg)
		require.Equal(t, uint32(0), again.share.Load(), "a restart forgets nothing")
		require.ErrorIs(t, again.Resume(t.Context()), ErrEnded)
		require.ErrorIs(t, again.Promote(t.Context()), ErrEnded)

		cfg.ID = "v2.0.1"
		require.NoError(t, again.Update(cfg))
		time.Sleep(2100 * time.Millisecond)
		assert.Equal(t, []uint32{500, 500, 500}, shares(a, b, again), "those that have the old ID follow")
		old := cfg
		old.ID = ""
		restarted := start(t, old)
		time.Sleep(2 * time.Second)
		assert.Equal(t, []uint32{500, 500}, shares(again, restarted), "and one that starts with it does not begin it again")
		assert.Equal(t, "v2.0.1", restarted.Status().State.ID)
	})
}

// TestOutage: without the store the share goes down, and never up.
func TestOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		common := NewMemoryStore()
		away := &shaky{Store: common}
		cfg := threeSteps(common)
		b := start(t, cfg)
		log := &lines{}
		cfg.Store, cfg.Observer = away, log
		a := start(t, cfg)
		log.take()
		away.down.Store(true)
		for range 60 {
			a.serve(20, 0)
			time.Sleep(time.Second)
		}
		require.Equal(t, uint32(500), a.share.Load(), "it takes no step alone")
		assert.True(t, a.Status().StoreAway)
		assert.Equal(t, []string{"FAULT orders.production: the store is away; the share stays, or goes down"}, log.take())
		for range 5 {
			a.serve(20, 8)
			time.Sleep(time.Second)
		}
		require.Equal(t, uint32(0), a.share.Load(), "but back")
		require.Equal(t, uint32(500), b.share.Load())
		require.Len(t, log.take(), 1)
		away.down.Store(false)
		time.Sleep(2100 * time.Millisecond)
		assert.Equal(t, []uint32{0, 0}, shares(a, b), "the others are told")
		assert.Equal(t, []string{"orders.production: the store is back"}, log.take())
	})
}

// TestStoreThatHangs: a disk that knows no context keeps nothing up.
func TestStoreThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		away := &shaky{Store: NewMemoryStore(), release: make(chan struct{})}
		r := start(t, threeSteps(away))
		away.hangs.Store(true)
		for range 8 {
			r.serve(20, 4)
			time.Sleep(time.Second)
		}
		assert.Zero(t, r.share.Load())
		away.hangs.Store(false)
		close(away.release)
		time.Sleep(4 * time.Second)
		assert.False(t, r.Status().StoreAway)
		assert.Equal(t, RolledBack, r.Status().State.Phase)
	})
}

func TestNoStoreFromTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		away := &shaky{Store: NewMemoryStore()}
		away.down.Store(true)
		r := start(t, threeSteps(away))
		time.Sleep(time.Minute)
		require.Zero(t, r.share.Load(), "nothing is known, and nobody is given to the canary")
		away.down.Store(false)
		time.Sleep(1100 * time.Millisecond)
		assert.Equal(t, uint32(500), r.share.Load())
	})
}

func TestActions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		away := &shaky{Store: NewMemoryStore()}
		cfg := threeSteps(away)
		cfg.Steps[1].Pause = true
		a, b := start(t, cfg), start(t, cfg)
		require.NoError(t, a.Pause(ctx))
		require.NoError(t, a.Pause(ctx), "twice is once")
		for range 30 {
			a.serve(20, 0)
			time.Sleep(time.Second)
		}
		assert.Equal(t, []uint32{500, 500}, shares(a, b))
		assert.Equal(t, Paused, b.Status().State.Phase)
		time.Sleep(50 * time.Millisecond) // no tick falls between the two
		require.NoError(t, b.Resume(ctx))
		require.NoError(t, b.Resume(ctx), "twice is once here, too")
		time.Sleep(2 * time.Second)
		assert.Equal(t, []uint32{2500, 2500}, shares(a, b), "the step has lasted long enough meanwhile")
		assert.Equal(t, Paused, a.Status().State.Phase, "as the step says")
		require.NoError(t, a.Resume(ctx))
		assert.Equal(t, uint32(5000), a.share.Load(), "at once")

		away.down.Store(true)
		require.EqualError(t, a.Abort(ctx), "down")
		assert.Zero(t, a.share.Load(), "here at least")
		require.Error(t, b.Promote(ctx))
		assert.Equal(t, uint32(2500), b.share.Load(), "nothing goes up without the store")
		away.down.Store(false)
		time.Sleep(3 * time.Second)
		assert.Equal(t, []uint32{0, 0}, shares(a, b))

		cfg.ID = "next"
		require.NoError(t, a.Update(cfg))
		time.Sleep(2 * time.Second)
		require.NoError(t, a.Promote(ctx))
		time.Sleep(2 * time.Second)
		assert.Equal(t, []uint32{whole, whole}, shares(a, b))
	})
}

// TestClocks: no clock is compared with another one's. Each replica's tick gets
// the time of a clock of its own.
func TestClocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := threeSteps(NewMemoryStore())
		cfg.Interval = time.Minute // its own goroutine stays out of this
		a, b := start(t, cfg), start(t, cfg)
		skew := map[*Rollout]time.Duration{a: -time.Hour, b: 24 * time.Hour}
		for r := range skew {
			require.NoError(t, r.wait(t.Context()))
			r.entered, r.rotated = r.entered.Add(skew[r]), r.rotated.Add(skew[r])
			r.pass()
		}
		for second := range 9 {
			for r, by := range skew {
				r.serve(20, 0)
				r.tick(t.Context(), time.Now().Add(by))
			}
			require.Equal(t, []uint32{500, 500}, shares(a, b), second)
			time.Sleep(time.Second)
		}
		for range 3 {
			for r, by := range skew {
				r.tick(t.Context(), time.Now().Add(by))
			}
			time.Sleep(time.Second)
		}
		require.Equal(t, []uint32{2500, 2500}, shares(a, b))
	})
}

// TestForeignContents: what is no state of a rollout counts as no store, so that
// the canary gets nobody. None of it makes a process panic.
func TestForeignContents(t *testing.T) {
	t.Parallel()
	state := func(format string, args ...any) string {
		return `{"stable":"v1","canary":"v2","state":{"id":"v2","phase":"running",` + fmt.Sprintf(format, args...) + `}}`
	}
	tests := []struct {
		name, content string
		share         uint32
		away          bool
	}{
		{"nothing", `null`, 500, false},
		{"no replica", `{"replicas":{"x":null}}`, 500, false},
		{"no JSON", `{`, 0, true},
		{"a list", `[]`, 0, true},
		{"sound", state(`"share":700,"step":1`), 700, false},
		{"more steps than there are", state(`"share":700,"step":1000000`), 700, false},
		{"share above all", state(`"share":10001`), 0, true},
		{"negative share", state(`"share":-1`), 0, true},
		{"share that is no number", state(`"share":NaN`), 0, true},
		{"negative step", state(`"share":700,"step":-1`), 0, true},
		{"negative time", state(`"share":700,"elapsed":-1`), 0, true},
		{"longest time", state(`"share":700,"elapsed":9223372036854775807`), 700, false},
		{"unknown phase", `{"stable":"v1","canary":"v2","state":{"id":"v2","phase":"fine","share":700}}`, 0, true},
		{"no phase", `{"stable":"v1","canary":"v2","state":{"id":"v2","share":700}}`, 0, true},
		{"a share without a rollout", `{"state":{"phase":"running","share":700}}`, 0, true},
		{"other subsets under the same ID", strings.Replace(state(`"share":700`), `"v1"`, `"v0"`, 1), 0, true},
		{"another canary under the same ID", strings.Replace(state(`"share":700`), `"canary":"v2"`, `"canary":"v3"`, 1), 0, true},
		{"two lines in a text", state(`"share":700,"history":[{"text":"a\nFAULT b"}]`), 0, true},
		{"long text", state(`"share":700,"halt":%q`, strings.Repeat("x", maxText+1)), 0, true},
		{"long text of an entry", state(`"share":700,"history":[{"text":%q}]`, strings.Repeat("x", maxText+1)), 0, true},
		{"long history", state(`"share":700,"history":[%s{}]`, strings.Repeat("{},", maxHistory)), 0, true},
		{"long past", state(`"share":700,"past":[%s""]`, strings.Repeat(`"",`, maxPast)), 0, true},
		{"long seed", `{"stable":"v1","canary":"v2","seed":"` + strings.Repeat("x", maxText+1) + `","state":{"id":"v2","phase":"running","share":700}}`, 0, true},
		{"time in the future", state(`"share":700,"history":[{"at":"9999-12-31T23:59:59Z"}]`), 700, false},
		{"last change", state(`"share":700,"changes":18446744073709551615,"since":18446744073709551615`), 700, false},
		{"too large", state(`"share":700`) + strings.Repeat(" ", maxValue), 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := NewMemoryStore()
				_, err := store.Save(t.Context(), "orders.production", []byte(tt.content), "")
				require.NoError(t, err)
				r := start(t, threeSteps(store))
				assert.Equal(t, tt.share, r.share.Load())
				assert.Equal(t, tt.away, r.Status().StoreAway)
				w := httptest.NewRecorder()
				NewPage(PageConfig{Rollouts: []*Rollout{r}, Actions: true}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				assert.Equal(t, 200, w.Code)
				time.Sleep(3 * time.Second)
				assert.Equal(t, tt.away, r.Status().StoreAway)
			})
		})
	}
}

// TestOneClientOnAllReplicas: a client that every replica sees is one client in
// the sum, too, and so is one who has all the networks of a site.
func TestOneClientOnAllReplicas(t *testing.T) {
	t.Parallel()
	client := func(t *testing.T, i int, addr string) *gatemesh.Call {
		parent, err := gatemesh.NewCall(gatemesh.CallInfo{RemoteAddr: netip.AddrPortFrom(netip.MustParseAddr(addr), 1)})
		require.NoError(t, err)
		c, err := gatemesh.NewCall(gatemesh.CallInfo{Parent: parent, Destination: gatemesh.Destination{
			Service: "orders", Namespace: "production", Subset: [2]string{"v1", "v2"}[i%2],
		}})
		require.NoError(t, err)
		return c
	}
	for name, mallory := range map[string]func(i int) string{
		"one address":        func(int) string { return "203.0.113.7" },
		"networks of a site": func(i int) string { return fmt.Sprintf("2001:db8:7:%x::%x", i*977%65536, i+1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := NewMemoryStore()
				var rs []*Rollout
				for range 5 {
					rs = append(rs, start(t, threeSteps(store)))
				}
				time.Sleep(2 * time.Second)
				for second := range 10 {
					for n, r := range rs {
						for i := range 200 {
							(*listener)(r).Finish(client(t, i, fmt.Sprintf("198.51.%d.%d", n, i)), gatemesh.Outcome{Status: 200, Reached: true})
						}
						for i := range 60 {
							(*listener)(r).Finish(client(t, 1, mallory(second*300+n*60+i)), gatemesh.Outcome{Status: 500, Reached: true})
						}
					}
					time.Sleep(time.Second)
					require.NotContains(t, shares(rs...), uint32(0), second)
				}
			})
		})
	}
}
