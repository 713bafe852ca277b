package trace

import (
	"context"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
)

// Span returns the layer of a [gatemesh.Outbound] that starts the client span
// of a call. It stands before a Retry: the attempts of a call share one span.
//
// It starts none if the request names the current span of its context as its
// parent, because a transport around the Outbound, such as
// otelhttp.NewTransport, has started and written that one.
func (t *Tracer) Span() gatemesh.Layer {
	return t.layer(gatemesh.Layer{
		Name: "trace span", Gate: gatemesh.GateFunc(t.admitCall),
		Gives: []gatemesh.Fact{gatemesh.FactSpan},
	})
}

func (t *Tracer) admitCall(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	s := t.state.For(c)
	if s == nil {
		return gatemesh.Admission{}, errUnset
	}
	tracer := t.tracer(s)
	if tracer == nil || t.propagator(s).names(c.Header(), trace.SpanContextFromContext(ctx)) {
		return gatemesh.Admission{}, nil
	}
	return t.start(ctx, tracer, c, startOptions(c)), nil
}

// names reports whether the fields of a request name the local span sc.
func (p *propagator) names(h gatemesh.Header, sc trace.SpanContext) bool {
	if !local(sc) || !p.sent(h) {
		return false
	}
	named := trace.SpanContextFromContext(p.Extract(context.Background(), &received{Header: h, idsOnly: true}))
	return named.SpanID() == sc.SpanID() && named.TraceID() == sc.TraceID()
}

// Inject returns the layer of a [gatemesh.Outbound] that writes the span of the
// call onto the request. It stands behind [Tracer.Span] and a Retry.
//
// What it does not write, it takes off: of the propagator's fields and those of
// W3C, the request leaves with ours or with none. Baggage that the application
// wants to send belongs into the context. Only if there is neither a provider
// nor a span, fields pass as they are, except those that came with the inbound
// call of an untrusted caller: whoever trusts us would believe them. Baggage is
// cut to 64 members and 8192 bytes even then, and trace state of more than 32
// members or 8192 bytes is taken off, so that what comes from a trusted caller
// does not make the request too large for the callee.
func (t *Tracer) Inject() gatemesh.Layer {
	return t.layer(gatemesh.Layer{
		Name: "trace inject", Gate: gatemesh.GateFunc(t.admitAttempt),
		Needs: []gatemesh.Fact{gatemesh.FactSpan},
		After: []gatemesh.Fact{gatemesh.FactAttempt, gatemesh.FactBreaker, gatemesh.FactIdentity},
	})
}

func (t *Tracer) admitAttempt(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	s := t.state.For(c)
	if s == nil {
		return gatemesh.Admission{}, errUnset
	}
	p := t.propagator(s)
	if t.tracer(s) == nil && !trace.SpanContextFromContext(ctx).IsValid() {
		off := p.untrusted(s, c)
		fields, cut := bounded(c.Header(), off)
		if cut {
			t.reportCut(ctx, s, c)
		}
		return gatemesh.Admission{Header: fields}, nil
	}
	out := &written{lower: c.Protocol() == gatemesh.GRPC}
	out.fields = out.buf[:0]
	p.TextMapPropagator.Inject(ctx, out)
	for _, name := range p.fields {
		if c.Header().Count(name) > 0 && out.Get(name) == "" {
			out.fields = append(out.fields, gatemesh.Field{Name: name})
		}
	}
	if out.cut {
		t.reportCut(ctx, s, c)
	}
	return gatemesh.Admission{Header: out.fields}, nil
}

// untrusted returns fields that take off what an untrusted caller of ours has
// sent, if the request carries it.
func (p *propagator) untrusted(s *state, c *gatemesh.Call) (off []gatemesh.Field) {
	if !p.sent(c.Header()) {
		return nil
	}
	for in := c.Parent(); in != nil; in = in.Parent() {
		if in.Outbound() || s.Trusted(in) {
			continue
		}
		for _, name := range p.fields {
			received := in.Header().Values(name)
			if slices.ContainsFunc(c.Header().Values(name), func(v string) bool { return slices.Contains(received, v) }) {
				off = append(off, gatemesh.Field{Name: name})
			}
		}
	}
	return off
}

// bounded adds to off what brings the list fields that pass as they are within
// their limits, and reports whether baggage was cut.
func bounded(h gatemesh.Header, off []gatemesh.Field) (fields []gatemesh.Field, cut bool) {
	passes := func(name string) bool {
		return h.Count(name) > 0 && !slices.ContainsFunc(off, func(f gatemesh.Field) bool { return f.Name == name })
	}
	fields = off
	if passes(fieldBaggage) {
		in := received{Header: h}
		if kept := in.Values(fieldBaggage); in.cut {
			cut = true
			fields = append(fields, gatemesh.Field{Name: fieldBaggage, Value: strings.TrimRight(strings.Join(kept, ","), ",")})
		}
	}
	if passes(fieldState) && !stateFits(h.Values(fieldState)) {
		fields = append(fields, gatemesh.Field{Name: fieldState})
	}
	return fields, cut
}

// stateFits reports whether trace state in several fields is one list within
// its limits. W3C Trace Context §3.3.1 has all of a longer one discarded.
func stateFits(values []string) bool {
	members, size := 0, -1
	for _, v := range values {
		members += 1 + strings.Count(v, ",")
		size += 1 + len(v)
	}
	return members <= maxStates && size <= maxBytes
}
