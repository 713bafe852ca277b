package otel

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// Before is the service as it was: a span for each request that it gets and
// each that it makes, and a log without their ids.
func Before(ctx context.Context, l net.Listener, w io.Writer, next string) error {
	var lines slog.Handler = slog.NewJSONHandler(w, nil)
	var transport http.RoundTripper = &http.Transport{MaxIdleConnsPerHost: 20}
	s := &service{next: next, log: slog.New(lines), client: &http.Client{Transport: otelhttp.NewTransport(transport)}}
	handler := s.routes()
	return serve(ctx, l, otelhttp.NewHandler(handler, "orders"))
}
