package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/examples/gateway/edge"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing/pool"
	"github.com/gatemesh-go/gatemesh/trace"
)

// newMetrics returns the metrics of the process, and what answers /metrics on the
// health port, in the format of Prometheus. With another exporter, such as that
// of OTLP, it is the provider that changes.
func newMetrics(self gatemesh.Workload, log *slog.Logger) (*trace.Metrics, http.Handler, error) {
	registry := prometheus.NewRegistry()
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, nil, fmt.Errorf("metrics: %w", err)
	}
	metrics, err := trace.NewMetrics(trace.MetricsConfig{
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)), Workload: self, Observer: gatemesh.SlogObserver(log),
	})
	if err != nil {
		return nil, nil, err
	}
	return metrics, promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: 4, Timeout: 10 * time.Second, // whoever reaches the port may ask
	}), nil
}

// components are all that tell metrics. Those that the manifests name come and go
// with them.
type components struct {
	b *built
	g *edge.Gateway
}

var _ gatemesh.Measurable = components{}

// Metrics implements [gatemesh.Measurable].
func (components) Metrics() (all []*gatemesh.Metric) {
	for _, kind := range []gatemesh.Measurable{
		(*pool.Pool)(nil), (*auth.JWKS)(nil), (*breaker.Gate)(nil), (*breaker.Retry)(nil), (*mtls.TLS)(nil), (*mtls.Edge)(nil),
		(*canary.Rollout)(nil), (*auth.Authenticator)(nil), (*ratelimit.Limiter)(nil),
	} {
		all = append(all, kind.Metrics()...)
	}
	return all
}

// Measure implements [gatemesh.Measurable].
func (c components) Measure(tell gatemesh.Tell) {
	for _, of := range slices.Concat(c.b.measured, c.g.Measurables()) {
		of.Measure(tell)
	}
	if v := c.b.version.Load(); v != nil {
		for _, s := range v.services {
			s.pool.Measure(tell)
		}
		for _, keys := range v.keys.KeySets() {
			keys.Measure(tell)
		}
	}
}
