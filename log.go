package gatemesh

import (
	"context"
	"log/slog"
	"slices"
)

// LogHandler returns a slog.Handler that adds the attribute request_id to the
// application's own lines when their context belongs to a Call, and passes
// every line to next; see [ContextAttrs].
func LogHandler(next slog.Handler) slog.Handler {
	return ContextAttrs(next, func(ctx context.Context) []slog.Attr {
		if c := FromContext(ctx); c != nil {
			return []slog.Attr{slog.String("request_id", c.requestID)}
		}
		return nil
	})
}

// ContextAttrs returns a slog.Handler that adds what attrs finds in a line's
// context, and passes every line to next. The attributes stand at the top of
// the line, where those who read logs look for them, also if the logger has an
// open group. What a line says itself, as those of [SlogObserver] do, is not
// said twice.
func ContextAttrs(next slog.Handler, attrs func(context.Context) []slog.Attr) slog.Handler {
	return &contextHandler{attrs: attrs, top: next, open: next}
}

type contextHandler struct {
	attrs func(context.Context) []slog.Attr
	top   slog.Handler // what it was before the first group
	then  []logStep    // what has come since
	open  slog.Handler // top after these steps
}

// logStep is a WithGroup or a WithAttrs.
type logStep struct {
	group string
	attrs []slog.Attr
}

func (s logStep) apply(h slog.Handler) slog.Handler {
	if s.group != "" {
		return h.WithGroup(s.group)
	}
	return h.WithAttrs(s.attrs)
}

func (h *contextHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.open.Enabled(ctx, l)
}

func (h *contextHandler) Handle(ctx context.Context, r slog.Record) error {
	found := h.attrs(ctx)
	if len(found) == 0 {
		return h.open.Handle(ctx, r)
	}
	if len(h.then) > 0 {
		// What is in the record goes into the open group, so these go in front of it.
		open := h.top.WithAttrs(found)
		for _, s := range h.then {
			open = s.apply(open)
		}
		return open.Handle(ctx, r)
	}
	r.Attrs(func(a slog.Attr) bool {
		found = slices.DeleteFunc(found, func(f slog.Attr) bool { return f.Key == a.Key })
		return len(found) > 0
	})
	r = r.Clone()
	r.AddAttrs(found...)
	return h.top.Handle(ctx, r)
}

func (h *contextHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	if len(h.then) == 0 {
		return ContextAttrs(h.top.WithAttrs(attrs), h.attrs)
	}
	return h.with(logStep{attrs: attrs})
}

func (h *contextHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(logStep{group: name})
}

func (h *contextHandler) with(s logStep) *contextHandler {
	return &contextHandler{attrs: h.attrs, top: h.top, then: append(slices.Clip(h.then), s), open: s.apply(h.open)}
}
