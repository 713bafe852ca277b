package trace

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
)

// LogHandler returns a slog.Handler that adds the attributes trace_id and
// span_id to lines whose context holds a span, and passes every line to next;
// see [gatemesh.ContextAttrs].
func LogHandler(next slog.Handler) slog.Handler {
	return gatemesh.ContextAttrs(next, func(ctx context.Context) []slog.Attr {
		sc := trace.SpanContextFromContext(ctx)
		if !sc.IsValid() {
			return nil
		}
		return []slog.Attr{slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String())}
	})
}
