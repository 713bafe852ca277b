package trace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"testing"
	"testing/slogtest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

func inSpan(ctx context.Context) context.Context {
	t, _ := oteltrace.TraceIDFromHex(theirTrace)
	s, _ := oteltrace.SpanIDFromHex(theirSpan)
	return oteltrace.ContextWithSpanContext(ctx, oteltrace.NewSpanContext(oteltrace.SpanContextConfig{TraceID: t, SpanID: s}))
}

// TestLogHandler: the ids stand at the top of the line, whatever groups are
// open, and everything else stands where it would without them.
func TestLogHandler(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		with func(*slog.Logger) *slog.Logger
		want string // the line without time, level and ids
	}{
		{"plain", func(l *slog.Logger) *slog.Logger { return l }, `{"msg":"m","k":1}`},
		{"attrs", func(l *slog.Logger) *slog.Logger { return l.With("a", 1) }, `{"msg":"m","a":1,"k":1}`},
		{"group", func(l *slog.Logger) *slog.Logger { return l.WithGroup("g") }, `{"msg":"m","g":{"k":1}}`},
		{"attrs, group, attrs, group", func(l *slog.Logger) *slog.Logger {
			return l.With("a", 1).WithGroup("g").With("b", 2).WithGroup("h").With("c", 3)
		}, `{"msg":"m","a":1,"g":{"b":2,"h":{"c":3,"k":1}}}`},
		{"no name, no attrs", func(l *slog.Logger) *slog.Logger { return l.WithGroup("").With() }, `{"msg":"m","k":1}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			logger := tt.with(slog.New(trace.LogHandler(slog.NewJSONHandler(&log, nil))))
			for _, ctx := range []context.Context{t.Context(), inSpan(t.Context())} {
				log.Reset()
				logger.InfoContext(ctx, "m", "k", 1)
				line := map[string]any{}
				require.NoError(t, json.Unmarshal(log.Bytes(), &line), log.String())
				if ctx != t.Context() {
					assert.Equal(t, theirTrace, line["trace_id"], log.String())
					assert.Equal(t, theirSpan, line["span_id"], log.String())
				}
				for _, k := range []string{"time", "level", "trace_id", "span_id"} {
					delete(line, k)
				}
				got, err := json.Marshal(line)
				require.NoError(t, err)
				assert.JSONEq(t, tt.want, string(got))
				assert.NotContains(t, string(got), "_id")
			}
			log.Reset()
			logger.DebugContext(inSpan(t.Context()), "below the level")
			assert.Empty(t, log.String())
		})
	}
}

// TestLogHandlerSiblings: loggers made of one another share nothing they write.
func TestLogHandlerSiblings(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	g := slog.New(trace.LogHandler(slog.NewTextHandler(&log, nil))).WithGroup("g").With("x", 0).With("y", 0)
	a, b := g.With("a", 1), g.With("b", 2)
	a.InfoContext(inSpan(t.Context()), "m")
	assert.Contains(t, log.String(), "msg=m trace_id="+theirTrace+" span_id="+theirSpan+" g.x=0 g.y=0 g.a=1\n")
	log.Reset()
	b.InfoContext(inSpan(t.Context()), "m")
	assert.Contains(t, log.String(), " g.x=0 g.y=0 g.b=2\n")
}

// TestLogHandlerRecord: the record belongs to others, too, as of a handler that
// passes each line to several.
func TestLogHandlerRecord(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := trace.LogHandler(slog.NewTextHandler(&log, nil))
	var r slog.Record
	for range 10 { // more than a record holds in itself, with room left behind them
		r.AddAttrs(slog.Int("k", 1))
	}
	require.NoError(t, h.Handle(inSpan(t.Context()), r))
	require.NoError(t, h.Handle(inSpan(t.Context()), r))
	assert.NotContains(t, log.String(), "BUG")
	assert.Equal(t, 10, r.NumAttrs())
}

// TestLogHandlerContract runs the standard library's own test of handlers, once
// with a span in every context.
func TestLogHandlerContract(t *testing.T) {
	t.Parallel()
	for _, wrap := range []func(slog.Handler) slog.Handler{trace.LogHandler, func(h slog.Handler) slog.Handler { return spanned{trace.LogHandler(h)} }} {
		var log bytes.Buffer
		require.NoError(t, slogtest.TestHandler(wrap(slog.NewJSONHandler(&log, nil)), func() (lines []map[string]any) {
			for _, l := range bytes.Split(bytes.TrimSpace(log.Bytes()), []byte("\n")) {
				m := map[string]any{}
				require.NoError(t, json.Unmarshal(l, &m))
				lines = append(lines, m)
			}
			return lines
		}))
	}
}

// spanned passes lines on with a span in their context.
type spanned struct{ slog.Handler }

func (a spanned) Handle(ctx context.Context, r slog.Record) error {
	return a.Handler.Handle(inSpan(ctx), r)
}
func (a spanned) WithAttrs(as []slog.Attr) slog.Handler { return spanned{a.Handler.WithAttrs(as)} }
func (a spanned) WithGroup(g string) slog.Handler       { return spanned{a.Handler.WithGroup(g)} }

// TestLogHandlersCompose: with gatemesh.LogHandler, in either order.
func TestLogHandlersCompose(t *testing.T) {
	t.Parallel()
	for _, wrap := range []func(slog.Handler) slog.Handler{
		func(h slog.Handler) slog.Handler { return trace.LogHandler(gatemesh.LogHandler(h)) },
		func(h slog.Handler) slog.Handler { return gatemesh.LogHandler(trace.LogHandler(h)) },
	} {
		var log bytes.Buffer
		logger := slog.New(wrap(slog.NewJSONHandler(&log, nil))).With("a", 1)
		s := newSpans()
		handle(t, tracer(t, trace.Config{TracerProvider: s}), request(), func(_ http.ResponseWriter, r *http.Request) {
			logger.InfoContext(r.Context(), "m")
		})
		line := map[string]any{}
		require.NoError(t, json.Unmarshal(log.Bytes(), &line))
		got := s.one(t)
		assert.Equal(t, got.SpanContext.TraceID().String(), line["trace_id"])
		assert.Equal(t, got.SpanContext.SpanID().String(), line["span_id"])
		assert.Equal(t, attrs(got)["gatemesh.request_id"], line["request_id"])
	}
}
