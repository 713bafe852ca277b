package trace_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

var (
	unsetProvider   = otel.GetTracerProvider()
	unsetPropagator = otel.GetTextMapPropagator()
)

func unset() {
	if otel.GetTracerProvider() != unsetProvider {
		otel.SetTracerProvider(unsetProvider)
	}
	if otel.GetTextMapPropagator() != unsetPropagator {
		otel.SetTextMapPropagator(unsetPropagator)
	}
}

// watched is a provider by value, which == cannot compare.
type watched struct {
	oteltrace.TracerProvider
	_ []int
}

// none is a propagator of nothing, set on purpose.
var none = propagation.NewCompositeTextMapPropagator()

// TestGlobals: what is set with otel.Set… works whenever it is set, and nothing
// happens before. Not parallel: it sets what other tests rely on being unset.
func TestGlobals(t *testing.T) {
	t.Cleanup(unset)
	for _, cfg := range []trace.Config{{}, {TracerProvider: unsetProvider, Propagator: unsetPropagator}} {
		cfg.Trusted = always
		tr := tracer(t, cfg)
		out := outbound(t, tr.Span(), tr.Inject())
		// pass returns the trace id inside and the one that goes on.
		pass := func() (inside, sent string) {
			rt := &roundTrips{}
			handle(t, tr, request("Traceparent", traceparent), func(_ http.ResponseWriter, r *http.Request) {
				if sc := oteltrace.SpanContextFromContext(r.Context()); sc.IsValid() {
					inside = sc.TraceID().String()
				}
				send(t, r.Context(), out.Transport(rt))
			})
			if tp := rt.headers[0].Get("Traceparent"); tp != "" {
				sent = tp[3:35]
			}
			return inside, sent
		}
		unset()
		inside, sent := pass()
		assert.Empty(t, inside, "no provider is set")
		assert.Empty(t, sent)

		for range 2 { // set, and set again
			s := newSpans()
			otel.SetTracerProvider(s)
			inside, sent = pass()
			assert.Len(t, s.all(), 2)
			assert.Equal(t, theirTrace, inside, "W3C as long as no propagator is set")
			assert.Equal(t, theirTrace, sent)
		}
		for range 2 {
			s := newSpans()
			otel.SetTracerProvider(watched{TracerProvider: s})
			_, sent = pass()
			assert.Equal(t, theirTrace, sent)
			assert.Len(t, s.all(), 2)
		}

		otel.SetTextMapPropagator(b3{})
		inside, sent = pass()
		assert.NotEqual(t, theirTrace, inside)
		assert.Empty(t, sent)

		otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(b3{}, propagation.TraceContext{}))
		inside, _ = pass()
		assert.Equal(t, theirTrace, inside)

		otel.SetTextMapPropagator(none)
		inside, sent = pass()
		assert.NotEqual(t, theirTrace, inside)
		assert.Empty(t, sent)

		otel.SetTracerProvider(noop.NewTracerProvider())
		otel.SetTextMapPropagator(propagation.TraceContext{})
		inside, sent = pass()
		assert.Equal(t, theirTrace, inside, "a provider of nothing passes on what it was given")
		assert.Equal(t, theirTrace, sent)
	}
}

// admissions are the inbound gate and both outbound layers at work on a call
// with what a browser and a proxy send.
func admissions(t testing.TB, tr *trace.Tracer, fields ...string) map[string]func() {
	h := http.Header{"Accept": {"*/*"}, "Authorization": {"Bearer x"}}
	for i := 0; i < len(fields); i += 2 {
		h.Set(fields[i], fields[i+1])
	}
	ctx := context.Background()
	in := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Header: h, Path: "/v1/users/7", Route: &gatemesh.Route{Name: "users"}}))
	out := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Parent: in, Path: "/pay", Host: "payment"}))
	end := func(c *gatemesh.Call, adm gatemesh.Admission, err error) context.Context {
		if err != nil {
			t.Fatal(err)
		}
		if adm.Finish != nil {
			adm.Finish.Finish(c, gatemesh.Outcome{Status: 200})
		}
		if adm.Context != nil {
			return adm.Context
		}
		return ctx
	}
	span, inject := tr.Span(), tr.Inject()
	adm, err := span.Gate.Admit(ctx, out)
	within := end(out, adm, err)
	return map[string]func(){
		"inbound":  func() { adm, err := tr.Admit(ctx, in); end(in, adm, err) },
		"outbound": func() { adm, err := span.Gate.Admit(ctx, out); end(out, adm, err) },
		"inject":   func() { adm, err := inject.Gate.Admit(within, out); end(out, adm, err) },
	}
}

// TestAllocations: as long as no provider is set, there are none, and while
// nothing is sampled few beyond those of the provider, which makes a span and a
// context.
func TestAllocations(t *testing.T) {
	for name, f := range admissions(t, tracer(t, trace.Config{}), "Traceparent", traceparent) {
		assert.Zero(t, testing.AllocsPerRun(200, f), name)
	}
	never := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	limits := map[string]float64{"inbound": 6, "outbound": 5, "inject": 3}
	for name, f := range admissions(t, tracer(t, trace.Config{TracerProvider: never})) {
		assert.LessOrEqual(t, testing.AllocsPerRun(200, f), limits[name], name)
	}
}

// BenchmarkAdmit measures what a call costs, from its admission to its end.
func BenchmarkAdmit(b *testing.B) {
	for _, bm := range []struct {
		name string
		cfg  trace.Config
	}{
		{"unset", trace.Config{}},
		{"noop", trace.Config{TracerProvider: noop.NewTracerProvider()}},
		{"unsampled", trace.Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))}},
		{"unsampled trusted", trace.Config{Trusted: always, TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))}},
		{"sampled", trace.Config{TracerProvider: sdktrace.NewTracerProvider()}},
		{"sampled trusted", trace.Config{Trusted: always, TracerProvider: sdktrace.NewTracerProvider()}},
	} {
		for _, sent := range []string{"", "/traceparent"} {
			var fields []string
			if sent != "" {
				fields = []string{"Traceparent", traceparent}
			}
			for name, f := range admissions(b, tracer(b, bm.cfg), fields...) {
				if name != "inbound" && sent != "" {
					continue
				}
				b.Run(bm.name+"/"+name+sent, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						f()
					}
				})
			}
		}
	}
}
