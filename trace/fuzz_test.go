package trace_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

var validParent = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]$`)

// FuzzPropagation: whatever arrives, from whomever, what a proxy sends on is
// exactly one valid traceparent, of our span, and trace state and baggage
// within the limits; of an untrusted caller nothing goes on.
func FuzzPropagation(f *testing.F) {
	f.Add(traceparent, "", "a=1", "b=2", "", true)
	f.Add(traceparent, traceparent, "a=1,b=2", "b=2;p=1,c", "d=%FF%FF", false)
	f.Add("ff-"+theirTrace+"-"+theirSpan+"-01", "", strings.Repeat("a=1,", 40), strings.Repeat("%FF", 2000), "k=", true)
	f.Add("cc-"+theirTrace+"-"+theirSpan+"-ff-more", "", "x", "k="+strings.Repeat("%FF", 2700), strings.Repeat(",", 9000), true)
	tp := sdktrace.NewTracerProvider()
	f.Fuzz(func(t *testing.T, parent, parent2, state, baggage, baggage2 string, trusted bool) {
		tr := tracer(t, trace.Config{TracerProvider: tp, Trusted: func(*gatemesh.Call) bool { return trusted }})
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for name, values := range map[string][]string{"Traceparent": {parent, parent2}, "Tracestate": {state}, "Baggage": {baggage, baggage2}} {
			for _, v := range values {
				if v != "" {
					r.Header[name] = append(r.Header[name], v)
				}
			}
		}
		rt := &roundTrips{}
		out := outbound(t, tr.Span(), tr.Inject()).Transport(rt)
		var inside oteltrace.SpanContext
		chain(t, tr.Layer()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			inside = oteltrace.SpanContextFromContext(r.Context())
			o, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://payment/", nil)
			require.NoError(t, err)
			o.Header = r.Header.Clone()
			resp, err := out.RoundTrip(o)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		})).ServeHTTP(httptest.NewRecorder(), r)

		h := rt.headers[0]
		require.Len(t, h["Traceparent"], 1)
		sent := h.Get("Traceparent")
		require.Regexp(t, validParent, sent)
		assert.Equal(t, inside.TraceID().String(), sent[3:35])
		assert.NotEqual(t, inside.SpanID().String(), sent[36:52], "the client span's")
		assert.LessOrEqual(t, len(h["Tracestate"]), 1)
		assert.LessOrEqual(t, strings.Count(h.Get("Tracestate"), ","), 31)
		assert.LessOrEqual(t, len(h["Baggage"]), 1)
		assert.LessOrEqual(t, len(h.Get("Baggage")), 8192)
		assert.LessOrEqual(t, strings.Count(h.Get("Baggage"), ","), 63)
		ours := !trusted || parent == "" || parent2 != ""
		if parent2 != "" && parent == "" {
			ours = !trusted // one field after all
		}
		if ours {
			assert.NotContains(t, parent+parent2, sent[3:35], "the trace is ours")
			assert.NotContains(t, h, "Tracestate")
		}
		if !trusted {
			assert.NotContains(t, h, "Baggage")
		}
	})
}

// FuzzOwnFields: what an application puts into the context and onto the request
// by hand leaves as one valid set of fields, over gRPC, too.
func FuzzOwnFields(f *testing.F) {
	f.Add(traceparent, "a=1", "b=2")
	f.Add("", "", strings.Repeat("k=1,", 100))
	tp := sdktrace.NewTracerProvider()
	f.Fuzz(func(t *testing.T, parent, state, baggage string) {
		tr := tracer(t, trace.Config{TracerProvider: tp})
		out := outbound(t, tr.Span(), tr.Inject())
		x, d := out.Start(context.Background(), gatemesh.OutboundRequest{
			Protocol: gatemesh.GRPC, Method: "POST", Path: "/a.B/C", Authority: "payment", LowerCase: true,
			Header: map[string][]string{"traceparent": {parent, parent}, "tracestate": {state}, "baggage": {baggage}},
		})
		require.Nil(t, d)
		a, d := x.Attempt()
		require.Nil(t, d)
		h := a.OutgoingHeader()
		a.Finish(gatemesh.Outcome{})
		x.Finish(gatemesh.Outcome{})
		require.Len(t, h["traceparent"], 1)
		require.Regexp(t, validParent, h["traceparent"][0])
		for name := range h {
			assert.Contains(t, []string{"traceparent", "x-request-id"}, name)
		}
	})
}
