package trace

import (
	"context"
	"net/http"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
)

const layerName = "trace"

var _ gatemesh.CachedGate = (*Tracer)(nil)

// Layer returns the tracer as a layer of a [gatemesh.Chain], for inbound calls.
// It stands behind the route match, whose name the span then has, and before
// everything else.
func (t *Tracer) Layer() gatemesh.Layer {
	return t.layer(gatemesh.Layer{
		Name: layerName, Gate: t,
		Gives: []gatemesh.Fact{gatemesh.FactSpan},
		After: []gatemesh.Fact{gatemesh.FactRoute},
	})
}

// Handler returns next behind the tracer, for use without a Chain, behind
// [gatemesh.Entry.Handler].
func (t *Tracer) Handler(next http.Handler) http.Handler {
	var o gatemesh.Observer
	if s := t.state.Latest(); s != nil {
		o = s.Observer
	}
	return gatemesh.GateHandler(t.Layer(), o)(next)
}

// Admit starts the server span of c, which ends with the call, and puts it into
// the context. If that holds a span of this process already, as of
// otelhttp.NewHandler around the chain, Admit starts none and adds what
// gatemesh knows to that one.
//
// The span of a trusted caller continues the trace that the caller named, with
// its sampling decision, trace state and baggage. That of any other caller is
// the root of a new trace, with a link to the span that the caller named.
func (t *Tracer) Admit(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	s := t.state.For(c)
	if s == nil {
		return gatemesh.Admission{}, errUnset
	}
	tracer := t.tracer(s)
	if tracer == nil {
		return gatemesh.Admission{}, nil
	}
	if outer := trace.SpanFromContext(ctx); local(outer.SpanContext()) {
		return gatemesh.Admission{Finish: &ender{t: t, span: outer, borrowed: true}}, nil
	}
	ctx, opts := t.parent(ctx, s, c, startOptions(c))
	return t.start(ctx, tracer, c, opts), nil
}

// AdmitCached is Admit, and ok is always true.
func (t *Tracer) AdmitCached(ctx context.Context, c *gatemesh.Call) (adm gatemesh.Admission, ok bool, err error) {
	adm, err = t.Admit(ctx, c)
	return adm, true, err
}

// parent makes of what the caller sent the parent of its span, or a link.
func (t *Tracer) parent(ctx context.Context, s *state, c *gatemesh.Call, opts []trace.SpanStartOption) (context.Context, []trace.SpanStartOption) {
	p := t.propagator(s)
	sent := p.sent(c.Header())
	if s.Trusted(c) {
		if !sent {
			return ctx, opts
		}
		in := &received{Header: c.Header()}
		ctx = p.Extract(ctx, in)
		if in.cut {
			t.reportCut(ctx, s, c)
		}
		return ctx, opts
	}
	if trace.SpanContextFromContext(ctx).IsValid() { // somebody before us has believed the caller
		opts = append(slices.Clip(opts), trace.WithNewRoot())
	}
	if sent && !s.DisableLinks {
		// Extracted aside, so that nothing of it gets into the call's context.
		claimed := trace.SpanContextFromContext(p.Extract(context.Background(), &received{Header: c.Header(), idsOnly: true}))
		if claimed.IsValid() {
			opts = append(slices.Clip(opts), trace.WithLinks(trace.Link{SpanContext: trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: claimed.TraceID(), SpanID: claimed.SpanID(), Remote: true, // no flags: samplers look at them
			})}))
		}
	}
	return ctx, opts
}
