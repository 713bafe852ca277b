package trace_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

// TestTR02_Traceparent: what is no valid traceparent begins a new trace, also
// if a trusted caller sent it, and its tracestate goes with it.
func TestTR02_Traceparent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		sent  []string
		valid bool
	}{
		{"valid", []string{traceparent}, true},
		{"not sampled", []string{"00-" + theirTrace + "-" + theirSpan + "-00"}, true},
		{"later version with more", []string{"01-" + theirTrace + "-" + theirSpan + "-01-more"}, true},
		{"none", nil, false},
		{"empty", []string{""}, false},
		{"zero trace id", []string{"00-00000000000000000000000000000000-" + theirSpan + "-01"}, false},
		{"zero span id", []string{"00-" + theirTrace + "-0000000000000000-01"}, false},
		{"version ff", []string{"ff-" + theirTrace + "-" + theirSpan + "-01"}, false},
		{"upper case", []string{strings.ToUpper(traceparent)}, false},
		{"version 00 with more", []string{traceparent + "-more"}, false},
		{"short", []string{traceparent[:54]}, false},
		{"long", []string{traceparent + "0"}, false},
		{"1 MiB", []string{strings.Repeat("0", 1<<20)}, false},
		{"not hexadecimal", []string{"00-" + theirTrace[:31] + "g-" + theirSpan + "-01"}, false},
		{"two fields", []string{traceparent, traceparent}, false},
		{"two in one", []string{traceparent + "," + traceparent}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, trusted := range []bool{true, false} {
				s := newSpans()
				r := request("Tracestate", "vendor=1")
				r.Header["Traceparent"] = tt.sent
				who := never
				if trusted {
					who = always
				}
				var inside oteltrace.SpanContext
				handle(t, tracer(t, trace.Config{TracerProvider: s, Trusted: who}), r, func(_ http.ResponseWriter, r *http.Request) {
					inside = oteltrace.SpanContextFromContext(r.Context())
				})
				if trusted && tt.name == "not sampled" {
					assert.Empty(t, s.all(), "the decision of a trusted caller holds")
					assert.Equal(t, theirTrace, inside.TraceID().String())
					continue
				}
				got := s.one(t)
				assert.Equal(t, inside, got.SpanContext)
				if trusted && tt.valid {
					assert.Equal(t, theirTrace, got.SpanContext.TraceID().String())
					assert.Equal(t, theirSpan, got.Parent.SpanID().String())
					assert.True(t, got.Parent.IsRemote())
					assert.Equal(t, "vendor=1", got.SpanContext.TraceState().String())
					assert.Empty(t, got.Links)
					continue
				}
				assert.False(t, got.Parent.IsValid())
				assert.NotEqual(t, theirTrace, got.SpanContext.TraceID().String())
				assert.Empty(t, got.SpanContext.TraceState().String())
				if trusted || !tt.valid {
					assert.Empty(t, got.Links)
					continue
				}
				require.Len(t, got.Links, 1)
				link := got.Links[0].SpanContext
				assert.Equal(t, theirTrace, link.TraceID().String())
				assert.Equal(t, theirSpan, link.SpanID().String())
				assert.Zero(t, link.TraceFlags())
				assert.Empty(t, link.TraceState().String())
			}
		})
	}
}

// TestTR02_SamplingFlag: an untrusted caller neither gets a span recorded nor
// keeps it from being recorded.
func TestTR02_SamplingFlag(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"00", "01"} {
		for root, want := range map[sdktrace.Sampler]int{sdktrace.AlwaysSample(): 1, sdktrace.NeverSample(): 0} {
			s := newSpans(sdktrace.WithSampler(sdktrace.ParentBased(root)))
			handle(t, tracer(t, trace.Config{TracerProvider: s}), request("Traceparent", traceparent[:53]+flag), noContent)
			assert.Len(t, s.all(), want, "%s %s", flag, root.Description())

			s = newSpans(sdktrace.WithSampler(sdktrace.ParentBased(root)))
			handle(t, tracer(t, trace.Config{TracerProvider: s, Trusted: always}), request("Traceparent", traceparent[:53]+flag), noContent)
			assert.Len(t, s.all(), int(flag[1]-'0'), "trusted: %s %s", flag, root.Description())
		}
	}
}

func TestUntrustedBehindExtractor(t *testing.T) {
	t.Parallel()
	s := newSpans()
	tr := tracer(t, trace.Config{TracerProvider: s, DisableLinks: true})
	r := request("Traceparent", traceparent)
	r = r.WithContext(propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header)))
	handle(t, tr, r, noContent)
	assert.False(t, s.one(t).Parent.IsValid())
	assert.NotEqual(t, theirTrace, s.one(t).SpanContext.TraceID().String())
	assert.Empty(t, s.one(t).Links, "DisableLinks")
}

// TestTrusted: by default, proxies and verified workloads are trusted.
func TestTrusted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		call gatemesh.CallInfo
		want bool
	}{
		{"anybody", gatemesh.CallInfo{}, false},
		{"user", gatemesh.CallInfo{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: "alice"})}, false},
		{"workload", gatemesh.CallInfo{Peer: gatemesh.Must(gatemesh.NewPeer("td", "/ns/prod/sa/orders", nil))}, true},
	} {
		s := newSpans()
		tr := tracer(t, trace.Config{TracerProvider: s})
		tt.call.Header = http.Header{"Traceparent": {traceparent}}
		c := gatemesh.Must(gatemesh.NewCall(tt.call))
		adm, err := tr.Admit(t.Context(), c)
		require.NoError(t, err)
		adm.Finish.Finish(c, gatemesh.Outcome{})
		assert.Equal(t, tt.want, s.one(t).SpanContext.TraceID().String() == theirTrace, tt.name)
	}
	s := newSpans()
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{TrustedProxies: prefixes("192.0.2.0/24")}))
	h := entry.Handler(tracer(t, trace.Config{TracerProvider: s}).Handler(noContent))
	h.ServeHTTP(httptest.NewRecorder(), request("Traceparent", traceparent))
	assert.Equal(t, theirTrace, s.one(t).SpanContext.TraceID().String())
}

// TestTR02_Baggage: of a trusted caller's baggage, 64 members and 8192 bytes
// are kept; of anybody else's nothing.
func TestTR02_Baggage(t *testing.T) {
	t.Parallel()
	members := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, ",k%d=v", i)
		}
		return b.String()[1:]
	}
	eight := func(i int) string { return fmt.Sprintf("k%d=%s", i, strings.Repeat("v", 8<<10-8)) }
	var hundred []string
	for i := range 100 {
		hundred = append(hundred, eight(i))
	}
	for _, tt := range []struct {
		name  string
		sent  []string
		want  int // members
		event bool
	}{
		{"none", nil, 0, false},
		{"one", []string{"a=1"}, 1, false},
		{"64 members", []string{members(64)}, 64, false},
		{"65 members", []string{members(65)}, 64, true},
		{"two fields of 40", []string{members(40), strings.ReplaceAll(members(40), "k", "j")}, 64, true},
		{"10000 members", []string{members(10000)}, 64, true},
		{"8192 bytes", []string{"a=" + strings.Repeat("v", 8190)}, 1, false},
		{"8193 bytes", []string{"a=" + strings.Repeat("v", 8191)}, 0, true},
		{"100 fields of 8 KB", hundred, 1, true},
		{"malformed members", []string{"a=1,=,b,\x00=1,c=2"}, 2, false},
		{"nothing but commas", []string{strings.Repeat(",", 1<<20)}, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, trusted := range []bool{true, false} {
				var o observer
				cfg := trace.Config{TracerProvider: newSpans(), Observer: &o, Trusted: never}
				if trusted {
					cfg.Trusted = always
				}
				tr := tracer(t, cfg)
				for range 3 {
					r := request()
					r.Header["Baggage"] = tt.sent
					handle(t, tr, r, func(_ http.ResponseWriter, r *http.Request) {
						b := baggage.FromContext(r.Context())
						if !trusted {
							assert.Zero(t, b.Len())
							return
						}
						assert.Equal(t, tt.want, b.Len())
						assert.LessOrEqual(t, len(b.String()), 8192)
					})
				}
				events := 0
				if tt.event && trusted {
					events = 1
				}
				require.Len(t, o.events, events, "one line in a minute")
			}
		})
	}
}

// TestTR02_Allocation: hostile fields are not multiplied (F-10).
func TestTR02_Allocation(t *testing.T) {
	tr := tracer(t, trace.Config{TracerProvider: newSpans(sdktrace.WithSampler(sdktrace.NeverSample())), Trusted: always})
	for _, tt := range []struct{ name, field, value string }{
		{"baggage commas", "Baggage", strings.Repeat(",", 1<<20)},
		{"baggage members", "Baggage", strings.Repeat("a=1,", 1<<18)},
		{"baggage properties", "Baggage", "a=1" + strings.Repeat(";p", 4000)},
		{"tracestate", "Tracestate", strings.Repeat("a=1,", 1<<18)},
		{"traceparent", "Traceparent", strings.Repeat("-", 1<<20)},
	} {
		c := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Header: http.Header{"Traceparent": {traceparent}, tt.field: {tt.value}}}))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10 {
			_, err := tr.Admit(t.Context(), c)
			require.NoError(t, err)
		}
		runtime.ReadMemStats(&after)
		bytes := (after.TotalAlloc - before.TotalAlloc) / 10
		assert.LessOrEqual(t, bytes, uint64(len(tt.value)*16+64<<10), tt.name)
	}
}
