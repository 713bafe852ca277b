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

// AfterInside has otelhttp inside of chain and outbound, for code that cannot
// be had otherwise. It must do without our trace layers, each of which would
// start a span of its own. What it costs: a refusal is in no trace, our own
// lines have no trace_id, and each attempt of a call is a span.
func AfterInside(ctx context.Context, l net.Listener, w io.Writer, next string) error {
	var lines slog.Handler = slog.NewJSONHandler(w, nil)
	var transport http.RoundTripper = &http.Transport{MaxIdleConnsPerHost: 20}
	// gatemesh: begin
	lines = gatemesh.LogHandler(trace.LogHandler(lines))
	ours := gatemesh.SlogObserver(slog.New(lines))
	// gatemesh: end
	s := &service{next: next, log: slog.New(lines), client: &http.Client{Transport: otelhttp.NewTransport(transport)}}
	handler := s.routes()
	// gatemesh: begin
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{"127.0.0.1": {Service: "payment-service"}}),
		Layers: []gatemesh.Layer{gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{})).Layer()},
	}))
	s.client.Transport = out.Transport(s.client.Transport)
	limit := gatemesh.Must(ratelimit.New(ratelimit.Config{Name: "client", Key: ratelimit.ByClient(0), Limit: ratelimit.Limit{Requests: 5, Per: time.Minute}}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Observer: ours}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, limit.Layer()))
	return serve(ctx, l, chain.Handler(otelhttp.NewHandler(handler, "orders")))
	// gatemesh: end
	// gatemesh: instead of
	// return serve(ctx, l, otelhttp.NewHandler(handler, "orders"))
}
