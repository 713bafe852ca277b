package trace_test

import (
	"fmt"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
	"github.com/gatemesh-go/gatemesh/trace"
)

// The same tracer in front of a gRPC server, with a caller that is believed.
func ExampleTracer_gRPC() {
	exported := tracetest.NewInMemoryExporter()
	tracer := gatemesh.Must(trace.New(trace.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exported)),
		Trusted:        func(*gatemesh.Call) bool { return true }, // the default looks for a verified workload
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, tracer.Layer()))

	server := grpc.NewServer(gatemesh.Must(grpcmesh.NewServer(chain)).Options()...)
	service := grpctest.Serve(server, nil)
	fmt.Println(service.Check("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
	service.Close()

	s := exported.GetSpans()[0]
	fmt.Println(s.Name, s.SpanContext.TraceID(), s.Parent.SpanID())
	// Output:
	// OK
	// grpc.health.v1.Health/Check 0af7651916cd43dd8448eb211c80319c b7ad6b7169203331
}
