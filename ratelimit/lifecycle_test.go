package ratelimit

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/internal/leaktest"
)

// TestLC01_Lifecycle does not run in parallel: it counts what is left. A
// Limiter needs no closing.
func TestLC01_Lifecycle(t *testing.T) {
	c := from(t, "192.0.2.1")
	for _, limit := range []string{"2/1h", "1/744h,burst=2"} {
		require.NoError(t, leaktest.Check(1000, func() {
			l := newLimiter(t, limit, func(c *Config) { c.MaxKeys = minKeys })
			require.True(t, admit(t, l, c))
			cfg := l.state.Latest().Config
			cfg.DisableFields = true
			require.NoError(t, l.Update(cfg))
			require.True(t, admit(t, l, c))
			require.False(t, admit(t, l, c))
		}))
	}
}
