package trace_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

// TestInjectWithoutProvider: fields pass as they are, except what an untrusted
// caller sent; who trusts us would believe it.
func TestInjectWithoutProvider(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		provider oteltrace.TracerProvider
		trusted  func(*gatemesh.Call) bool
		own      string // the application's own baggage instead of the caller's
		want     []string
	}{
		{"unset/untrusted", nil, never, "", nil},
		{"unset/trusted", nil, always, "", []string{"Traceparent", "Tracestate", "Baggage"}},
		{"unset/untrusted/own", nil, never, "mine=1", []string{"Baggage"}},
		{"noop/untrusted", noop.NewTracerProvider(), never, "", nil},
		{"noop/trusted", noop.NewTracerProvider(), always, "", []string{"Traceparent", "Tracestate", "Baggage"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tr := tracer(t, trace.Config{TracerProvider: tt.provider, Trusted: tt.trusted})
			rt := &roundTrips{}
			out := outbound(t, tr.Span(), retry(2), tr.Inject()).Transport(rt)
			handle(t, tr, request("Traceparent", traceparent, "Tracestate", "a=1", "Baggage", "b=2"), func(_ http.ResponseWriter, r *http.Request) {
				b := r.Header.Get("Baggage")
				if tt.own != "" {
					b = tt.own
				}
				send(t, r.Context(), out, "Traceparent", r.Header.Get("Traceparent"), "Tracestate", r.Header.Get("Tracestate"), "Baggage", b)
			})
			for _, name := range []string{"Traceparent", "Tracestate", "Baggage"} {
				if want := tt.want; contains(want, name) {
					assert.Len(t, rt.headers[0][name], 1, name)
				} else {
					assert.NotContains(t, rt.headers[0], name)
				}
			}
		})
	}
}

// TestPassedFieldsAreBounded: without a provider, what a trusted caller sent
// passes, and no more of it than a callee has to take.
func TestPassedFieldsAreBounded(t *testing.T) {
	t.Parallel()
	members := func(n int) string { return strings.TrimSuffix(strings.Repeat("k=v,", n), ",") }
	long := "k=" + strings.Repeat("v", 8190)
	for _, tt := range []struct {
		name, field string
		values      []string
		want        []string
		cut         bool
	}{
		{"baggage that fits", "Baggage", []string{members(63), "last=1"}, []string{members(63), "last=1"}, false},
		{"many members", "Baggage", []string{members(10_000)}, []string{members(64)}, true},
		{"many fields", "Baggage", slices.Repeat([]string{"k=v"}, 10_000), []string{members(64)}, true},
		{"long baggage", "Baggage", []string{"a=1", long}, []string{"a=1"}, true},
		{"one long member", "Baggage", []string{long + "v"}, nil, true},
		{"just as long", "Baggage", []string{long}, []string{long}, false},
		{"state that fits", "Tracestate", []string{members(31), "a=1"}, []string{members(31), "a=1"}, false},
		{"many states", "Tracestate", []string{members(33)}, nil, false},
		{"many state fields", "Tracestate", slices.Repeat([]string{"k=v"}, 33), nil, false},
		{"long state", "Tracestate", []string{long, "a=1"}, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var reports atomic.Int32
			tr := tracer(t, trace.Config{Trusted: always, Observer: gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
				if strings.Contains(e.Message, "baggage was cut") {
					reports.Add(1)
				}
			})})
			rt := &roundTrips{}
			out := outbound(t, tr.Span(), tr.Inject()).Transport(rt)
			var fields []string
			for _, v := range tt.values {
				fields = append(fields, tt.field, v)
			}
			handle(t, tr, request(fields...), func(_ http.ResponseWriter, r *http.Request) {
				send(t, r.Context(), out, fields...)
			})
			assert.Equal(t, tt.want, rt.headers[0][tt.field])
			assert.Equal(t, tt.cut, reports.Load() == 1)
		})
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// TestOwnSpanWithoutProvider: a span that the application started with a
// provider of its own goes along.
func TestOwnSpanWithoutProvider(t *testing.T) {
	t.Parallel()
	tr := tracer(t, trace.Config{})
	rt := &roundTrips{}
	ctx, span := sdktrace.NewTracerProvider().Tracer("").Start(t.Context(), "mine")
	defer span.End()
	send(t, ctx, outbound(t, tr.Span(), tr.Inject()).Transport(rt))
	assert.Contains(t, rt.headers[0].Get("Traceparent"), span.SpanContext().SpanID().String())
}

// b3 is a propagator of other fields.
type b3 struct{}

func (b3) Inject(ctx context.Context, c propagation.TextMapCarrier) {
	if sc := oteltrace.SpanContextFromContext(ctx); sc.IsValid() {
		c.Set("b3", sc.TraceID().String()+"-"+sc.SpanID().String())
	}
}
func (b3) Extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	ids := strings.Split(c.Get("b3"), "-")
	if len(ids) != 2 {
		return ctx
	}
	t, _ := oteltrace.TraceIDFromHex(ids[0])
	s, _ := oteltrace.SpanIDFromHex(ids[1])
	return oteltrace.ContextWithRemoteSpanContext(ctx, oteltrace.NewSpanContext(oteltrace.SpanContextConfig{TraceID: t, SpanID: s}))
}
func (b3) Fields() []string { return []string{"b3", "x-b3-flags"} }

func TestOtherPropagator(t *testing.T) {
	t.Parallel()
	s := newSpans()
	tr := tracer(t, trace.Config{TracerProvider: s, Propagator: b3{}})
	rt := &roundTrips{}
	send(t, t.Context(), outbound(t, tr.Span(), tr.Inject()).Transport(rt), "B3", "x", "X-B3-Flags", "1", "Traceparent", traceparent)
	sc := s.one(t).SpanContext
	assert.Equal(t, sc.TraceID().String()+"-"+sc.SpanID().String(), rt.headers[0].Get("B3"))
	assert.NotContains(t, rt.headers[0], "Traceparent")
	assert.NotContains(t, rt.headers[0], "X-B3-Flags")
	handle(t, tr, request("B3", theirTrace+"-"+theirSpan), noContent)
	require.Len(t, s.all()[1].Links, 1)
	assert.Equal(t, theirTrace, s.all()[1].Links[0].SpanContext.TraceID().String())
}

// TestBaggageOut: what leaves is within the limits, whatever is in the context.
func TestBaggageOut(t *testing.T) {
	t.Parallel()
	var members []baggage.Member
	for i := range 100 {
		members = append(members, gatemesh.Must(baggage.NewMemberRaw("k"+strings.Repeat("x", i), strings.Repeat("\u20ac", 10))))
	}
	b := gatemesh.Must(baggage.New(members[:64]...))
	for _, m := range members[64:] {
		b = gatemesh.Must(b.SetMember(m))
	}
	var o observer
	tr := tracer(t, trace.Config{TracerProvider: newSpans(), Observer: &o})
	rt := &roundTrips{}
	send(t, baggage.ContextWithBaggage(t.Context(), b), outbound(t, tr.Span(), tr.Inject()).Transport(rt))
	got := rt.headers[0].Get("Baggage")
	assert.LessOrEqual(t, len(got), 8192)
	assert.NotEmpty(t, got)
	assert.LessOrEqual(t, strings.Count(got, ",")+1, 64)
	assert.Len(t, o.events, 1)
}
