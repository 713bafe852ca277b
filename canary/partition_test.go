package canary

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPartition: one of three replicas does not reach the store. Its share never
// rises meanwhile, and comes down by itself when what it sees is bad; the others
// go on, and all agree when it is back.
func TestPartition(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name             string
		failures         uint32 // of 20 calls, that the one alone sees
		alone, after     uint32
		others, together uint32
	}{
		{"all is well", 0, 500, 5000, 5000, 5000},
		{"it sees failures", 8, 0, 0, 5000, 0},
		{"the others are done", 8, 0, whole, whole, whole},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				common := NewMemoryStore()
				cfg := threeSteps(common)
				a, b := start(t, cfg), start(t, cfg)
				away := &shaky{Store: common}
				cfg.Store = away
				c := start(t, cfg)
				time.Sleep(2 * time.Second)
				require.Equal(t, []uint32{500, 500, 500}, shares(a, b, c))
				away.down.Store(true)
				highest := uint32(0)
				seconds := 22
				if tt.others == whole {
					seconds = 35
				}
				for range seconds {
					a.serve(20, 0)
					b.serve(20, 0)
					c.serve(20, tt.failures)
					time.Sleep(time.Second)
					highest = max(highest, c.share.Load())
				}
				assert.Equal(t, uint32(500), highest, "it takes no step alone")
				assert.Equal(t, []uint32{tt.others, tt.others, tt.alone}, shares(a, b, c))
				away.down.Store(false)
				time.Sleep(2100 * time.Millisecond)
				assert.Equal(t, []uint32{tt.together, tt.together, tt.after}, shares(a, b, c))
			})
		})
	}
}

// TestRollbackIsAlwaysPossible, whatever is known of the store, and what was
// rolled back stays so when it is there.
func TestRollbackIsAlwaysPossible(t *testing.T) {
	t.Parallel()
	bad := func(r *Rollout) {
		for range 6 {
			r.serve(20, 8)
			time.Sleep(time.Second)
		}
	}
	abort := func(t *testing.T, r *Rollout) { require.EqualError(t, r.Abort(t.Context()), "down") }
	next := func(t *testing.T, r *Rollout, cfg RolloutConfig) {
		cfg.ID = "next"
		require.NoError(t, r.Update(cfg))
	}
	for _, tt := range []struct {
		name  string
		early bool // the store is away from the start
		do    func(t *testing.T, r *Rollout, cfg RolloutConfig)
		after uint32 // the share, when the store is back
		id    string
	}{
		{"by hand, before anything is known", true, func(t *testing.T, r *Rollout, _ RolloutConfig) { abort(t, r) }, 0, "v2"},
		{"by hand", false, func(t *testing.T, r *Rollout, _ RolloutConfig) { abort(t, r) }, 0, "v2"},
		{"by hand, of one that has not begun", false, func(t *testing.T, r *Rollout, cfg RolloutConfig) { next(t, r, cfg); abort(t, r) }, 0, "next"},
		{"by itself, of one that has not begun", false, func(t *testing.T, r *Rollout, cfg RolloutConfig) { next(t, r, cfg); bad(r) }, 0, "next"},
		{"and then comes the next", false, func(t *testing.T, r *Rollout, cfg RolloutConfig) { bad(r); next(t, r, cfg) }, 500, "next"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				away := &shaky{Store: NewMemoryStore()}
				cfg := threeSteps(away)
				away.down.Store(tt.early)
				r := start(t, cfg)
				away.down.Store(true)
				tt.do(t, r, cfg)
				assert.Zero(t, r.share.Load())
				time.Sleep(3 * time.Second)
				assert.Zero(t, r.share.Load(), "and it stays so")
				away.down.Store(false)
				time.Sleep(2100 * time.Millisecond)
				assert.Equal(t, tt.after, r.share.Load())
				s := r.Status().State
				assert.Equal(t, tt.id, s.ID)
				assert.Equal(t, tt.after == 0, s.Phase == RolledBack, s.Phase)
			})
		})
	}
}

// TestOldConfiguration: a process that has the ID of before follows the others,
// writes nothing of its own over theirs, and comes down alone all the same.
func TestOldConfiguration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		common := NewMemoryStore()
		away := &shaky{Store: common}
		cfg := threeSteps(away)
		old := start(t, cfg)
		cfg.Store, cfg.ID, cfg.Steps = common, "next", []Step{{Percent: 10, Pause: true}}
		young := start(t, cfg)
		time.Sleep(1100 * time.Millisecond)
		require.Equal(t, []uint32{1000, 1000}, shares(old, young), "whoever has a new ID begins it")
		away.down.Store(true)
		for range 6 {
			old.serve(20, 8)
			time.Sleep(time.Second)
		}
		require.Equal(t, []uint32{0, 1000}, shares(old, young))
		away.down.Store(false)
		time.Sleep(2 * time.Second)
		assert.Equal(t, []uint32{1000, 1000}, shares(old, young), "what the others do is theirs to judge")
		assert.Equal(t, Paused, young.Status().State.Phase)
	})
	// Other subsets under the same service: neither takes the other's share.
	synctest.Test(t, func(t *testing.T) {
		store := NewMemoryStore()
		cfg := threeSteps(store)
		cfg.Steps[0].Pause = true
		first := start(t, cfg)
		cfg.Stable, cfg.Canary = "v2", "v3"
		second := start(t, cfg)
		for range 5 {
			time.Sleep(time.Second)
			require.Equal(t, uint32(500), second.share.Load())
			require.Equal(t, "v3", second.Status().State.ID)
		}
		assert.Equal(t, uint32(500), first.share.Load(), "it knows nothing of v3, and stays")
		require.NoError(t, second.Abort(t.Context()))
		time.Sleep(2 * time.Second)
		assert.Equal(t, []uint32{500, 0}, shares(first, second))
	})
}

// TestFolderThatCannotBeWritten counts as a store that is away.
func TestFolderThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "rollouts")
	s, err := NewFileStore(dir)
	require.NoError(t, err)
	defer func() { assert.NoError(t, s.Close()) }()
	require.NoError(t, os.RemoveAll(dir)) // as root, permissions would stop nobody
	r := start(t, threeSteps(s))
	assert.True(t, r.Status().StoreAway)
	assert.Zero(t, r.share.Load())
	err = r.Abort(t.Context())
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrEnded)
	assert.Equal(t, RolledBack, r.Status().State.Phase)

	// A folder that is away when the process starts is a fault of the start.
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = NewFileStore(file)
	require.Error(t, err)
	require.False(t, errors.Is(err, ErrConflict))
}

// TestClockGoesBack: a step neither ends early nor stays for the time that the
// clock was ahead, and windows go on.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := threeSteps(NewMemoryStore())
		cfg.Interval = time.Minute // its own goroutine stays out of this
		r := start(t, cfg)
		tick := func(at time.Duration) {
			r.serve(20, 0)
			r.tick(t.Context(), time.Now().Round(0).Add(at)) // without a monotonic reading, as after a suspend
		}
		tick(5 * time.Second)
		tick(-time.Hour)
		require.Equal(t, uint32(500), r.share.Load())
		for i := range 60 {
			tick(-time.Hour + time.Duration(i)*time.Second)
			if i < 4 {
				require.Equal(t, uint32(500), r.share.Load(), i)
			}
		}
		assert.Greater(t, r.share.Load(), uint32(500))
		assert.LessOrEqual(t, len(r.window), parts)
	})
}
