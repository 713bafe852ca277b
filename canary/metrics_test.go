package canary

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/metrictest"
)

func measured(t testing.TB, r *Rollout) map[string]float64 {
	t.Helper()
	told, err := metrictest.Read(r)
	require.NoError(t, err)
	return told
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := NewMemoryStore()
		away := &shaky{Store: store}
		other := start(t, threeSteps(store))
		time.Sleep(10 * time.Millisecond) // behind it
		r := start(t, threeSteps(away))
		const v1, v2, of = "{destination=orders.production/v1}", "{destination=orders.production/v2}", "{destination=orders.production"
		assert.Equal(t, map[string]float64{
			"gatemesh.canary.share" + v1: 0.95, "gatemesh.canary.share" + v2: 0.05, "gatemesh.canary.calls" + v1: 0, "gatemesh.canary.calls" + v2: 0,
			"gatemesh.canary.failed" + v1: 0, "gatemesh.canary.failed" + v2: 0, "gatemesh.canary.store_away" + of + "}": 0,
			"gatemesh.canary.phase" + of + ", state=running}": 1, "gatemesh.canary.phase" + of + ", state=paused}": 0,
			"gatemesh.canary.phase" + of + ", state=rolled back}": 0, "gatemesh.canary.phase" + of + ", state=promoted}": 0,
			"gatemesh.canary.changes" + of + ", state=running}": 0, "gatemesh.canary.changes" + of + ", state=paused}": 0,
			"gatemesh.canary.changes" + of + ", state=rolled back}": 0, "gatemesh.canary.changes" + of + ", state=promoted}": 0,
		}, measured(t, r))

		finish := func(subset string, status int) {
			c, err := gatemesh.NewCall(gatemesh.CallInfo{Destination: gatemesh.Destination{Service: "orders", Namespace: "production", Subset: subset}})
			require.NoError(t, err)
			adm, err := r.Admit(context.Background(), c)
			require.NoError(t, err)
			adm.Finish.Finish(c, gatemesh.Outcome{Status: status, Code: gatemesh.CodeOf(status)})
		}
		finish("v1", http.StatusOK)
		finish("v2", http.StatusOK)
		finish("v2", http.StatusInternalServerError)

		// Rolled back here, while the store is away: once, whatever it says when it
		// is back.
		away.down.Store(true)
		for range 8 {
			r.serve(20, 4)
			time.Sleep(time.Second)
		}
		told := measured(t, r)
		assert.EqualValues(t, 1, told["gatemesh.canary.store_away"+of+"}"])
		assert.EqualValues(t, 1, told["gatemesh.canary.changes"+of+", state=rolled back}"])
		assert.EqualValues(t, 1, told["gatemesh.canary.phase"+of+", state=rolled back}"])
		assert.EqualValues(t, 0, told["gatemesh.canary.share"+v2])
		away.down.Store(false)
		time.Sleep(5 * time.Second)
		told = measured(t, r)
		assert.EqualValues(t, 0, told["gatemesh.canary.store_away"+of+"}"])
		assert.EqualValues(t, 1, told["gatemesh.canary.changes"+of+", state=rolled back}"])
		assert.EqualValues(t, 1, measured(t, other)["gatemesh.canary.changes"+of+", state=rolled back}"], "the other replica has learned of it")
		for name, want := range map[string]float64{"calls" + v1: 1, "calls" + v2: 2, "failed" + v1: 0, "failed" + v2: 1} {
			assert.Equal(t, want, told["gatemesh.canary."+name], "%s, though the window has begun anew", name)
		}
	})
}
