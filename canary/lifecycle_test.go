package canary_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
)

// TestLC01_Lifecycle does not run in parallel: it counts what is left. A
// Splitter needs no closing.
func TestLC01_Lifecycle(t *testing.T) {
	c := call(t)
	require.NoError(t, leaktest.Check(1000, func() {
		s := newSplitter(t, "", weighted(1, 0))
		require.Equal(t, "v1", version(t, s, c))
		require.NoError(t, s.Update(canary.Config{Services: weighted(0, 1)}))
		require.Equal(t, "v2", version(t, s, c))
	}))
}

func TestLC01_Rollout(t *testing.T) {
	require.NoError(t, leaktest.Check(200, func() {
		cfg := canary.RolloutConfig{Service: "s", Stable: "v1", Canary: "v2", Steps: []canary.Step{{Percent: 5}}, Store: canary.NewMemoryStore()}
		r, err := canary.NewRollout(cfg)
		require.NoError(t, err)
		cfg.ID = "next"
		require.NoError(t, r.Update(cfg))
		require.NoError(t, r.Pause(t.Context()))
		require.NoError(t, r.Close())
		require.NoError(t, r.Close())
		require.NotPanics(t, func() { _ = r.Status() })
	}))
}
