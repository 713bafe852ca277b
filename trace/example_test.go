package trace_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"

	"go.opentelemetry.io/otel/baggage"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

// A service takes a call and makes one. What its caller, whom nobody has
// verified, says about traces and sampling is not believed.
func ExampleTracer() {
	exported := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exported)) // a batcher, outside of examples
	tracer := gatemesh.Must(trace.New(trace.Config{TracerProvider: provider}))

	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("backend: traceparent sent:", r.Header.Get("Traceparent") != "", "baggage:", r.Header.Get("Baggage"))
	}))
	defer backend.Close()
	outbound := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{
			"127.0.0.1": {Service: "payment", Namespace: "production"},
		}),
		Layers: []gatemesh.Layer{tracer.Span(), tracer.Inject()},
	}))
	client := &http.Client{Transport: outbound.Transport(nil)}

	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, tracer.Layer()))
	handler := chain.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx := baggage.ContextWithBaggage(r.Context(), gatemesh.Must(baggage.Parse("tenant=acme")))
		out, err := http.NewRequestWithContext(ctx, http.MethodPost, backend.URL, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp, err := client.Do(out)
		if err != nil {
			fmt.Println(err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}))

	r := httptest.NewRequest(http.MethodGet, "/orders/7", nil)
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
	handler.ServeHTTP(httptest.NewRecorder(), r)

	spans := exported.GetSpans()
	for _, s := range spans {
		fmt.Println(s.SpanKind, s.Name, "parent:", s.Parent.IsValid(), "links:", len(s.Links))
	}
	fmt.Println("one trace:", spans[0].SpanContext.TraceID() == spans[1].SpanContext.TraceID())
	// Output:
	// backend: traceparent sent: true baggage: tenant=acme
	// client POST parent: true links: 0
	// server GET parent: false links: 1
	// one trace: true
}

// The application's own lines carry the ids of the span they belong to, at the
// top of the line.
func ExampleLogHandler() {
	handler := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	logger := slog.New(trace.LogHandler(handler)).WithGroup("order").With("id", 7)

	ctx := oteltrace.ContextWithSpanContext(context.Background(), oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: oteltrace.TraceID{1}, SpanID: oteltrace.SpanID{2},
	}))
	logger.InfoContext(ctx, "paid", "cents", 999)
	// Output:
	// level=INFO msg=paid trace_id=01000000000000000000000000000000 span_id=0200000000000000 order.id=7 order.cents=999
}
