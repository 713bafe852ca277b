package canary

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func testPlan(t *testing.T, steps ...Step) *plan {
	t.Helper()
	p, err := newPlan(RolloutConfig{Service: "s", Stable: "v1", Canary: "v2", Steps: steps, Store: NewMemoryStore()})
	require.NoError(t, err)
	return p
}

func TestPlan(t *testing.T) {
	t.Parallel()
	p := testPlan(t, Step{Percent: 0.5, Duration: time.Minute}, Step{Percent: 10, Pause: true}, Step{Percent: 50})
	at := time.Unix(1e9, 0)
	fine, doubt, no := finding{good, "fine"}, finding{doubtful, "perhaps"}, finding{bad, "broken"}
	text := func(s State) string { return s.History[len(s.History)-1].Text }

	s := p.begin(State{}, at)
	assert.Equal(t, State{
		ID: "v2", Changes: 1, Phase: Running, Since: 1, Share: 50,
		History: []Entry{{1, at, 50, Running, "begins: v2 gets 0.5 %, step 1 of 3"}},
	}, s)
	assert.Equal(t, s, p.next(s, fine, time.Minute-1, at), "too early")

	halted := p.next(s, doubt, time.Minute, at)
	assert.Equal(t, "halted at 0.5 %: perhaps", text(halted))
	assert.Equal(t, uint64(1), halted.Since, "the share has not changed")
	assert.Equal(t, uint64(2), halted.Changes)
	again := p.next(halted, finding{few, "too few"}, time.Hour, at)
	assert.Equal(t, uint64(2), again.Changes, "it is said once")
	assert.Equal(t, "too few", again.Halt)

	second := p.next(halted, fine, time.Minute, at)
	assert.Equal(t, "fine; v2 gets 10 %, step 2 of 3", text(second))
	assert.Equal(t, Paused, second.Phase)
	assert.Empty(t, second.Halt)
	assert.Equal(t, uint64(3), second.Since)
	assert.Equal(t, second, p.next(second, fine, time.Hour, at), "until it is resumed")
	assert.Equal(t, RolledBack, p.next(second, no, 0, at).Phase, "but not when it breaks")

	third := p.goOn(second, at, "")
	assert.Equal(t, uint32(5000), third.Share)
	promoted := p.next(third, fine, 0, at)
	assert.Equal(t, Promoted, promoted.Phase)
	assert.Equal(t, uint32(whole), promoted.Share)
	assert.Equal(t, "fine; promoted, v2 gets everybody", text(promoted))
	assert.Equal(t, promoted, p.next(promoted, no, time.Hour, at), "the end")

	back := p.next(third, no, 0, at)
	assert.Equal(t, "rolled back from 50 %: broken; v1 gets everybody", text(back))
	assert.Zero(t, back.Share)
	assert.Equal(t, back, p.next(back, fine, time.Hour, at), "and it stays so")
	assert.Len(t, third.History, 4, "what came before is not changed")

	q := testPlan(t, Step{Percent: 5})
	q.ID = "v2.1"
	anew := q.begin(back, at)
	assert.Equal(t, []string{"v2"}, anew.Past)
	assert.Equal(t, uint32(500), anew.Share)
	assert.Equal(t, anew.Changes, anew.Since)
	assert.Equal(t, third, q.next(third, no, time.Hour, at), "another one's state")
	fewer := third
	fewer.ID = "v2.1"
	assert.Equal(t, Promoted, q.next(fewer, fine, time.Hour, at).Phase, "there are fewer steps than before")
}

// TestStatesAreNotShared: of two that follow one state neither is changed by the
// other, as when a try to save one has failed.
func TestStatesAreNotShared(t *testing.T) {
	t.Parallel()
	s := State{History: make([]Entry, 1, 8), ID: "v1", Past: make([]string, 1, 8)}
	p, q := testPlan(t, Step{Percent: 5}), testPlan(t, Step{Percent: 7})
	a := p.begin(s, time.Unix(0, 0))
	text := a.History[1].Text
	q.begin(State{History: s.History, ID: "v0", Past: s.Past}, time.Unix(1, 0))
	assert.Equal(t, text, a.History[1].Text)
	assert.Equal(t, []string{"", "v1"}, a.Past)
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	p, s := testPlan(t, Step{Percent: 5}), State{}
	for range 200 {
		s = p.begin(s, time.Unix(0, 0))
	}
	assert.Len(t, s.History, maxHistory)
	assert.Len(t, s.Past, maxPast)
	assert.Equal(t, uint64(200), s.History[maxHistory-1].Change)
}
