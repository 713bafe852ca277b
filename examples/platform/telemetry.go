package main

import (
	"context"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/gatemesh-go/gatemesh/trace"
)

// telemetry is the tracing back end of all services: spans in memory, kept
// only while somebody looks.
type telemetry struct {
	spans *tracetest.InMemoryExporter
	on    atomic.Bool

	mu        sync.Mutex
	providers []*sdktrace.TracerProvider
}

func newTelemetry() *telemetry { return &telemetry{spans: tracetest.NewInMemoryExporter()} }

// tracer returns the tracer of one service.
func (t *telemetry) tracer(service string) (*trace.Tracer, error) {
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSyncer(t.spans), sdktrace.WithSampler(t),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", service))),
	)
	t.mu.Lock()
	t.providers = append(t.providers, provider)
	t.mu.Unlock()
	return trace.New(trace.Config{TracerProvider: provider})
}

// ShouldSample implements sdktrace.Sampler.
func (t *telemetry) ShouldSample(sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if t.on.Load() {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}

// Description implements sdktrace.Sampler.
func (t *telemetry) Description() string { return "while somebody looks" }

func (t *telemetry) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.providers {
		_ = p.Shutdown(context.Background()) // what is in memory goes with the process
	}
}

// span is what an act wants to know of a span.
type span struct{ service, kind, name, trace, id, parent string }

// seen returns the spans that have ended.
func (t *telemetry) seen() (all []span) {
	for _, s := range t.spans.GetSpans() {
		service, _ := s.Resource.Set().Value("service.name")
		one := span{
			service: service.AsString(), kind: s.SpanKind.String(), name: s.Name,
			trace: s.SpanContext.TraceID().String(), id: s.SpanContext.SpanID().String(),
		}
		if s.Parent.IsValid() {
			one.parent = s.Parent.SpanID().String()
		}
		all = append(all, one)
	}
	return all
}
