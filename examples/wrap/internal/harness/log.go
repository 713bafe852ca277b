package harness

import (
	"bytes"
	"encoding/json"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Log holds JSON lines that a test can read while services write them.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// Lines returns the lines that were written since the last time.
func (l *Log) Lines(t *testing.T) (all []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range bytes.Split(bytes.TrimSpace(l.buf.Bytes()), []byte("\n")) {
		if len(line) > 0 {
			var fields map[string]any
			require.NoError(t, json.Unmarshal(line, &fields))
			all = append(all, fields)
		}
	}
	l.buf.Reset()
	return all
}
