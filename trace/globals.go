package trace

import (
	"net/textproto"
	"reflect"
	"slices"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// scope is the instrumentation scope of the spans.
const scope = "github.com/gatemesh-go/gatemesh/trace"

// isPlaceholder reports whether v is what otel's Get functions return until
// somebody sets a provider or propagator. Its type is private, and it says
// nothing about itself; to start a span and see what comes would show a real
// provider spans that nobody wanted. Should otel move the type, spans of the
// placeholder would be started, which do nothing.
func isPlaceholder(v any) bool {
	t := reflect.TypeOf(v)
	return t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "go.opentelemetry.io/otel/internal/global"
}

// globals remembers what was made of the global provider and propagator, to be
// made again when others are set.
type globals struct {
	tracer     memo[trace.TracerProvider, trace.Tracer]
	propagator memo[propagation.TextMapPropagator, *propagator]
}

// currentTracer returns nil as long as no provider is set.
func (g *globals) currentTracer() trace.Tracer {
	return g.tracer.of(otel.GetTracerProvider(), func(p trace.TracerProvider) trace.Tracer {
		if isPlaceholder(p) {
			return nil
		}
		return p.Tracer(scope)
	})
}

var w3c = newPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))

func (g *globals) currentPropagator() *propagator {
	return g.propagator.of(otel.GetTextMapPropagator(), func(p propagation.TextMapPropagator) *propagator {
		if isPlaceholder(p) {
			return w3c
		}
		return newPropagator(p)
	})
}

// memo remembers the T that was made of the latest S.
type memo[S, T any] struct{ last atomic.Pointer[made[S, T]] }

type made[S, T any] struct {
	source S // keeps what its identity points to from being replaced
	id     identity
	it     T
}

func (m *memo[S, T]) of(source S, build func(S) T) T {
	id, ok := identify(source)
	if !ok {
		return build(source)
	}
	if l := m.last.Load(); l != nil && l.id == id {
		return l.it
	}
	l := &made[S, T]{source, id, build(source)}
	m.last.Store(l)
	return l.it
}

// identity tells values apart that == may panic on, such as a propagator that
// is a slice.
type identity struct {
	kind reflect.Type
	at   uintptr
	len  int
}

// identify returns false for values that have no identity.
func identify(v any) (identity, bool) {
	r := reflect.ValueOf(v)
	id := identity{kind: r.Type()}
	switch r.Kind() {
	case reflect.Pointer:
		id.at = r.Pointer()
	case reflect.Slice:
		id.at, id.len = r.Pointer(), r.Len()
	default:
		return id, id.kind.Size() == 0
	}
	return id, true
}

// propagator is a TextMapPropagator and the fields it is about.
type propagator struct {
	propagation.TextMapPropagator
	fields []string // canonical; those of W3C are always among them
}

func newPropagator(p propagation.TextMapPropagator) *propagator {
	fields := []string{fieldParent, fieldState, fieldBaggage}
	for _, f := range p.Fields() {
		if f = textproto.CanonicalMIMEHeaderKey(f); !slices.Contains(fields, f) {
			fields = append(fields, f)
		}
	}
	return &propagator{p, fields}
}
