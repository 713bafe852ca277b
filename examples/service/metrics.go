package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/gatemesh-go/gatemesh"
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
