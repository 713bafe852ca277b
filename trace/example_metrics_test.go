package trace_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/trace"
)

// Metrics of a service: of its calls as an Observer, and of its components by
// Register.
func ExampleMetrics() {
	reader := sdkmetric.NewManualReader() // in production: an exporter of OTLP or Prometheus
	metrics := gatemesh.Must(trace.NewMetrics(trace.MetricsConfig{
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)), // default: that of otel.SetMeterProvider
		Workload:      gatemesh.Workload{Name: "orders", Namespace: "production"},
	}))
	defer metrics.Close()

	limiter := gatemesh.Must(ratelimit.New(ratelimit.Config{
		Name: "client", Key: ratelimit.ByClient(0), Limit: ratelimit.Limit{Requests: 2, Per: time.Hour}, Observer: metrics,
	}))
	gatemesh.Must(metrics.Register("", limiter))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Observer: metrics})) // with a log: gatemesh.Observers(log, metrics)
	chain := gatemesh.Must(gatemesh.NewChain(entry, limiter.Layer()))
	h := chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for range 5 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}

	show(reader, "gatemesh.server.call.duration", "gatemesh.call.denied", "gatemesh.ratelimit.refused")
	// Output:
	// gatemesh.call.denied: 3 {gatemesh.code=resource_exhausted gatemesh.layer=ratelimit client gatemesh.reason=rate_limited}
	// gatemesh.ratelimit.refused: 3 {gatemesh.name=client}
	// gatemesh.server.call.duration: 2 {gatemesh.code_class=2xx gatemesh.destination=orders.production gatemesh.protocol=http gatemesh.source=unknown}
	// gatemesh.server.call.duration: 3 {gatemesh.code_class=4xx gatemesh.destination=orders.production gatemesh.protocol=http gatemesh.source=unknown}
}

// The same metrics of a gRPC server.
func ExampleMetrics_gRPC() {
	reader := sdkmetric.NewManualReader()
	metrics := gatemesh.Must(trace.NewMetrics(trace.MetricsConfig{
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
		Workload:      gatemesh.Workload{Name: "orders", Namespace: "production"},
	}))
	defer metrics.Close()
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Observer: metrics}))
	chain := gatemesh.Must(gatemesh.NewChain(entry))

	server := grpc.NewServer(gatemesh.Must(grpcmesh.NewServer(chain)).Options()...)
	service := grpctest.Serve(server, nil)
	fmt.Println(service.Check())
	service.Close()

	show(reader, "gatemesh.server.call.duration")
	// Output:
	// OK
	// gatemesh.server.call.duration: 1 {gatemesh.code_class=2xx gatemesh.destination=orders.production gatemesh.protocol=grpc gatemesh.source=unknown}
}

// show prints the series of the metrics with these names, of a histogram the
// number of values.
func show(reader *sdkmetric.ManualReader, names ...string) {
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &rm); err != nil {
		fmt.Println(err)
		return
	}
	lines := seriesOf(&rm, names)
	for _, l := range lines {
		fmt.Println(l)
	}
}
