package gatemesh_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/slogtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// One logger is enough for the application and for us: nobody says the request
// id twice, and it stands at the top whatever group is open.
func TestLogHandler_Once(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(gatemesh.LogHandler(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	h := chain(gatemesh.EntryConfig{Observer: gatemesh.SlogObserver(log)}, admits("a", gatemesh.Admission{})).
		Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			log.InfoContext(r.Context(), "plain")
			log.With("a", 1).WithGroup("g").InfoContext(r.Context(), "grouped", "b", 2)
		}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request("/"))
	id := w.Header().Get("X-Request-Id")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 4)
	for _, line := range lines {
		assert.Equal(t, 1, strings.Count(line, "request_id"), line)
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &m))
		assert.Equal(t, id, m["request_id"], line)
	}
}

func TestContextAttrs_IsAHandler(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	h := gatemesh.ContextAttrs(slog.NewJSONHandler(&out, nil), func(context.Context) []slog.Attr { return []slog.Attr{slog.Int("found", 1)} })
	require.NoError(t, slogtest.TestHandler(h, func() (all []map[string]any) {
		for line := range strings.Lines(out.String()) {
			var m map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &m))
			assert.EqualValues(t, 1, m["found"])
			all = append(all, m)
		}
		return all
	}))
}
