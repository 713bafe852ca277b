package match_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/gatemesh-go/gatemesh/internal/match"
)

func TestWork(t *testing.T) {
	t.Parallel()
	w := match.NewWork(10)
	assert.True(t, w.Afford(match.Path, 6))
	assert.True(t, w.Afford(match.Path, 4))
	assert.Zero(t, w.Over())
	assert.False(t, w.Afford(match.Query, 1))
	assert.Equal(t, match.Query, w.Over())
	assert.False(t, w.Afford(match.Field, 0), "nothing more, so that nothing holds")
	assert.Equal(t, match.Query, w.Over(), "the part that was too much")
}

// TestF10_Cost: what is counted, so that what can be afforded is known.
func TestF10_Cost(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]int{"/abc": 1, "/.*/x7": 5, "/abc.*/x7": 5, "a{100}b*": 102, "(": match.MaxProgram} {
		assert.Equal(t, want, match.Cost(pattern, false), pattern)
	}
	assert.Equal(t, 6, match.Cost("/.*/x7", true), "the text is folded")
	for _, tt := range []struct {
		kind  match.Kind
		text  string
		raw   string
		steps int // for "." and the one of the parameter's value
	}{
		{match.Exact, "x", "a=x", 2 * 3},
		{match.Regex, ".*", "a=" + strings.Repeat("x", 10), 2*12 + 2*10},
		{match.Regex, ".*", "a=%61" + strings.Repeat("x", 10), 2*15 + 16*13 + 2*11},
	} {
		p := match.Parameter{Name: "a", Value: value(t, tt.kind, tt.text)}
		enough, less := match.NewWork(tt.steps), match.NewWork(tt.steps-1)
		assert.True(t, p.Holds(tt.raw, &enough), tt.raw)
		assert.False(t, p.Holds(tt.raw, &less), tt.raw)
		assert.Equal(t, match.Query, less.Over(), tt.raw)
	}
}
