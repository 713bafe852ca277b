package otel

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	// gatemesh: begin
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/trace"
	// gatemesh: end
)

// After has chain and outbound inside of otelhttp: their trace layers adopt its
// spans and add what they know. This is the order to use: a refusal is in the
// trace, and all attempts of a call are one span.
func After(ctx context.Context, l net.Listener, w io.Writer, next string) error {
	var lines slog.Handler = slog.NewJSONHandler(w, nil)
	var transport http.RoundTripper = &http.Transport{MaxIdleConnsPerHost: 20}
	// gatemesh: begin
	lines = gatemesh.LogHandler(trace.LogHandler(lines))
	ours := gatemesh.SlogObserver(slog.New(lines))
	tracer := gatemesh.Must(trace.New(trace.Config{}))
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{"127.0.0.1": {Service: "payment-service"}}),
		Layers: []gatemesh.Layer{tracer.Span(), gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{})).Layer(), tracer.Inject()},
	}))
	transport = out.Transport(transport)
	// gatemesh: end
	s := &service{next: next, log: slog.New(lines), client: &http.Client{Transport: otelhttp.NewTransport(transport)}}
	handler := s.routes()
	// gatemesh: begin
	limit := gatemesh.Must(ratelimit.New(ratelimit.Config{Name: "client", Key: ratelimit.ByClient(0), Limit: ratelimit.Limit{Requests: 5, Per: time.Minute}}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Observer: ours}))
	handler = gatemesh.Must(gatemesh.NewChain(entry, tracer.Layer(), limit.Layer())).Handler(handler)
	// gatemesh: end
	return serve(ctx, l, otelhttp.NewHandler(handler, "orders"))
}
