package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Every figure holds in the small size, and misses a count without its guard.
func TestFigures(t *testing.T) {
	for _, f := range figures {
		t.Run(f.id, func(t *testing.T) {
			r := &report{}
			require.NoError(t, f.run(t.Context(), size{once: true}, r))
			var table bytes.Buffer
			r.print(&table)
			t.Log("\n" + table.String())
			assert.NotEmpty(t, r.rows)
			assert.Zero(t, r.failed())
		})
		t.Run(f.id+" broken", func(t *testing.T) {
			r := &report{}
			require.NoError(t, f.run(t.Context(), size{once: true, broken: true}, r))
			assert.Positive(t, r.failed())
		})
	}
}
