package ratelimit

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/internal/metrictest"
)

// Whoever invents addresses makes keys, and no series.
func TestMetrics(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, "2/1h", func(c *Config) { c.MaxKeys = minKeys })
	told := func() map[string]float64 {
		told, err := metrictest.Read(l)
		require.NoError(t, err)
		return told
	}
	assert.Equal(t, 2, admitted(t, l, from(t, "192.0.2.1"), 5))
	want := map[string]float64{
		"gatemesh.ratelimit.admitted{name=client}": 2, "gatemesh.ratelimit.refused{name=client}": 3, "gatemesh.ratelimit.keys{name=client}": 1,
		"gatemesh.ratelimit.keys.limit{name=client}": minKeys, "gatemesh.ratelimit.keys.forgotten{name=client}": 0,
	}
	assert.Equal(t, want, told())
	const n = 3 * minKeys
	for i := range n {
		admit(t, l, from(t, fmt.Sprintf("10.%d.%d.1", i>>8, i&255)))
	}
	at := told()
	assert.Len(t, at, len(want))
	assert.EqualValues(t, n+2, at["gatemesh.ratelimit.admitted{name=client}"])
	keys, forgotten := at["gatemesh.ratelimit.keys{name=client}"], at["gatemesh.ratelimit.keys.forgotten{name=client}"]
	assert.EqualValues(t, n+1, keys+forgotten)
	assert.LessOrEqual(t, keys, float64(minKeys))

	cfg := l.state.Latest().Config
	cfg.MaxKeys = 2 * minKeys
	require.NoError(t, l.Update(cfg))
	at["gatemesh.ratelimit.keys.limit{name=client}"] = 2 * minKeys
	assert.Equal(t, at, told())

	none, err := metrictest.Read(&Limiter{})
	require.NoError(t, err)
	assert.Empty(t, none)
}
