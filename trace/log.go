package trace

import (
	"context"
	"log/slog"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// LogHandler returns a slog.Handler that adds the attributes trace_id and
// span_id to lines whose context holds a span, and passes every line to next.
// They stand at the top of the line, where those who read logs look for them,
// also if the logger has an open group.
func LogHandler(next slog.Handler) slog.Handler { return &logHandler{top: next, open: next} }

type logHandler struct {
	top  slog.Handler // what it was before the first group
	then []step       // what has come since
	open slog.Handler // top after these steps
}

// step is a WithGroup or a WithAttrs.
type step struct {
	group string
	attrs []slog.Attr
}

func (s step) apply(h slog.Handler) slog.Handler {
	if s.group != "" {
		return h.WithGroup(s.group)
	}
	return h.WithAttrs(s.attrs)
}

func (h *logHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.open.Enabled(ctx, l) }

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return h.open.Handle(ctx, r)
	}
	ids := [...]slog.Attr{slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String())}
	if len(h.then) == 0 {
		r = r.Clone()
		r.AddAttrs(ids[:]...)
		return h.top.Handle(ctx, r)
	}
	// What is in the record goes into the open group, so the ids go in front of it.
	open := h.top.WithAttrs(ids[:])
	for _, s := range h.then {
		open = s.apply(open)
	}
	return open.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	if len(h.then) == 0 {
		return LogHandler(h.top.WithAttrs(attrs))
	}
	return h.with(step{attrs: attrs})
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(step{group: name})
}

func (h *logHandler) with(s step) *logHandler {
	return &logHandler{top: h.top, then: append(slices.Clip(h.then), s), open: s.apply(h.open)}
}
