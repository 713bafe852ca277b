package gatemesh

import (
	"context"
	"errors"
	"log/slog"
)

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of events.
const (
	// EventDenied: Layer refused Call with Denial, whose cause says why.
	EventDenied EventKind = iota + 1
	// EventFinished: Call ended with Outcome.
	EventFinished
	// EventPanic: a gate or the handler panicked; Err holds value and stack.
	EventPanic
	// EventNotice: something an operator should know, in Message and Err.
	EventNotice
	// EventFault: something is wrong and a component goes on without it, in Message and Err.
	EventFault
	// EventAdmitted: Layer admitted Call. There is one for each gate.
	EventAdmitted
	// EventRetried: an attempt of the outbound Call ended with Outcome, and
	// another one follows.
	EventRetried
	// EventHedged: another attempt, Call, began while one is under way.
	EventHedged
)

// Event is something that happened. Which fields are set depends on its Kind.
type Event struct {
	Kind    EventKind
	Layer   string // name of the layer or component
	Call    *Call
	Denial  *Denial
	Outcome Outcome
	Message string
	Err     error // may quote configuration and input, but never a secret
}

// Observer receives events for logs and metrics, on the goroutine of the call,
// or on one of a component's own: it must be fast, safe for concurrent use, and
// not panic. Everywhere an Observer can be
// set, nil is off and free.
type Observer interface {
	Observe(ctx context.Context, e Event)
}

// ObserverFunc makes an Observer of a function.
type ObserverFunc func(ctx context.Context, e Event)

// Observe calls f.
func (f ObserverFunc) Observe(ctx context.Context, e Event) { f(ctx, e) }

// Observers returns an Observer that passes every event to each of os in turn.
func Observers(os ...Observer) Observer { return observers(os) }

type observers []Observer

func (os observers) Observe(ctx context.Context, e Event) {
	for _, o := range os {
		o.Observe(ctx, e)
	}
}

func observe(ctx context.Context, o Observer, e Event) {
	if o != nil {
		o.Observe(ctx, e)
	}
}

// SlogObserver returns an Observer that writes one line an event to l: what
// each gate admitted at Debug, ended calls at Info, retries and refusals at Warn,
// those with their cause, faults at Error. Paths
// and ids are quoted by the slog handler and cut when they are long; no header,
// query or claim is logged.
func SlogObserver(l *slog.Logger) Observer { return slogObserver{l} }

type slogObserver struct{ l *slog.Logger }

func (o slogObserver) Observe(ctx context.Context, e Event) {
	level, msg := slog.LevelInfo, "call"
	if e.Call != nil && e.Call.outbound {
		msg = "outbound call"
	}
	switch e.Kind {
	case EventDenied:
		level, msg = slog.LevelWarn, "denied"
	case EventAdmitted:
		level, msg = slog.LevelDebug, "admitted"
	case EventRetried:
		level, msg = slog.LevelWarn, "retried"
	case EventHedged:
		level, msg = slog.LevelInfo, "hedged"
	case EventPanic:
		level, msg = slog.LevelError, "panic"
	case EventNotice:
		level, msg = slog.LevelInfo, e.Message
	case EventFault:
		level, msg = slog.LevelError, e.Message
	}
	if !o.l.Enabled(ctx, level) {
		return
	}
	var buf [20]slog.Attr
	attrs := buf[:0]
	if e.Layer != "" {
		attrs = append(attrs, slog.String("layer", e.Layer))
	}
	if c := e.Call; c != nil {
		attrs = append(attrs, slog.String("request_id", c.requestID), slog.String("method", c.method),
			slog.String("host", c.host), slog.String("path", cut(c.path, maxLogged)))
		if c.client.IsValid() {
			attrs = append(attrs, slog.String("client", c.client.String()))
		}
		if c.peer != nil {
			attrs = append(attrs, slog.String("peer", c.peer.ID()))
		}
		if p := c.principal; p != nil {
			attrs = append(attrs, slog.String("subject", cut(p.info.Subject, maxLogged)), slog.String("consumer", cut(p.info.Consumer, maxLogged)))
		}
		if c.route != nil {
			attrs = append(attrs, slog.String("route", c.route.Name))
		}
		if c.destination.Service != "" {
			attrs = append(attrs, slog.String("destination", c.destination.String()))
		}
	}
	if d := e.Denial; d != nil {
		attrs = append(attrs, slog.String("code", d.Code.String()), slog.Int("status", d.HTTPStatus()), slog.String("reason", d.Reason))
		var p *errPanic
		switch {
		case errors.As(d.cause, &p): // its stack is in the line of EventPanic
			attrs = append(attrs, slog.String("cause", "panic"))
		case d.cause != nil:
			attrs = append(attrs, slog.String("cause", cut(d.cause.Error(), maxLogged)))
		}
	}
	if e.Kind == EventFinished || e.Kind == EventRetried {
		attrs = append(attrs, slog.String("code", e.Outcome.Code.String()), slog.Int("status", e.Outcome.Status),
			slog.Duration("duration", e.Outcome.Duration), slog.Int64("bytes", e.Outcome.Bytes))
		if e.Outcome.Attempts > 1 {
			attrs = append(attrs, slog.Int("attempts", e.Outcome.Attempts))
		}
		if e.Outcome.Endpoint != "" {
			attrs = append(attrs, slog.String("endpoint", e.Outcome.Endpoint))
		}
		if e.Outcome.Canceled {
			attrs = append(attrs, slog.Bool("canceled", true))
		}
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("error", cut(e.Err.Error(), maxStack)))
	}
	o.l.LogAttrs(ctx, level, msg, attrs...)
}

// What a caller controls must not fill a log.
const (
	maxLogged = 1 << 10
	maxStack  = 16 << 10
)

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
