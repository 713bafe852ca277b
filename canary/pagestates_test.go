package canary

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPageBeforeAnythingIsKnown shows that nobody gets the canary, and has one
// button, which takes it back for good.
func TestPageBeforeAnythingIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		away := &shaky{Store: NewMemoryStore()}
		away.down.Store(true)
		r := start(t, threeSteps(away))
		h := NewPage(PageConfig{Rollouts: []*Rollout{r}, Actions: true})
		get := func() string {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			return w.Body.String()
		}
		page := get()
		assert.Contains(t, page, "v2 gets nobody until the store has been read")
		assert.Contains(t, page, "The store is away.")
		assert.NotContains(t, page, "ended")
		assert.NotContains(t, page, "<polyline")
		assert.Equal(t, 1, strings.Count(page, "<button"))

		post := httptest.NewRequest("POST", "/", strings.NewReader(url.Values{"service": {"orders"}, "namespace": {"production"}, "action": {"abort"}}.Encode()))
		post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, post)
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		assert.Contains(t, get(), "v2 · ended")
		away.down.Store(false)
		time.Sleep(2 * time.Second)
		assert.Equal(t, RolledBack, r.Status().State.Phase)
		assert.Zero(t, r.share.Load())
	})
}

// TestViewOfAState: the latest change stands first, a rate below 99 % is marked,
// and times of other clocks stay on the chart.
func TestViewOfAState(t *testing.T) {
	t.Parallel()
	at := time.Unix(1e9, 0)
	s := Status{
		Service: "orders", At: at, Steps: []Step{{Percent: 5}},
		State: State{ID: "v2", Phase: Running, Share: 500, History: []Entry{
			{1, at, 100, Running, "one"}, {2, at.Add(-time.Hour), 300, Running, "two"}, {3, at.Add(time.Hour), 500, Running, "three"},
		}},
		Versions: []Version{
			{Subset: "v1", Calls: 1000, Failed: 10, Buckets: []int{0}}, {Subset: "v2", Calls: 1000, Failed: 11, Buckets: []int{0}},
		},
	}
	v := viewOf(s)
	assert.Equal(t, []string{"three", "two", "one"}, []string{v.History[0].Text, v.History[1].Text, v.History[2].Text})
	assert.False(t, v.Versions[0].Poor)
	assert.True(t, v.Versions[1].Poor)
	for _, p := range strings.Fields(v.Line) {
		x, _, _ := strings.Cut(p, ",")
		assert.Contains(t, []string{"0.0", "1000.0"}, x)
	}
}

// TestActionsOfAnotherID are refused while the store is there: the others'
// rollout is not ours to end.
func TestActionsOfAnotherID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := threeSteps(NewMemoryStore())
		old := start(t, cfg)
		cfg.ID = "next"
		young := start(t, cfg)
		time.Sleep(1100 * time.Millisecond)
		require.ErrorIs(t, old.Abort(t.Context()), ErrEnded)
		require.ErrorIs(t, old.Pause(t.Context()), ErrEnded)
		require.ErrorIs(t, old.Promote(t.Context()), ErrEnded)
		assert.Equal(t, []uint32{500, 500}, shares(old, young))
		assert.Equal(t, Running, young.Status().State.Phase)
	})
}

// TestALateStartTellsNoOldNews: what was in the store before us.
func TestALateStartTellsNoOldNews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := threeSteps(NewMemoryStore())
		first := start(t, cfg)
		require.NoError(t, first.Pause(t.Context()))
		log := &lines{}
		cfg.Observer = log
		second := start(t, cfg)
		time.Sleep(3 * time.Second)
		assert.Empty(t, log.take())
		require.NoError(t, first.Promote(t.Context()))
		time.Sleep(1100 * time.Millisecond)
		assert.Len(t, log.take(), 1)
		assert.Equal(t, uint32(whole), second.share.Load())
	})
}
