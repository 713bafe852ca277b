package trace

import (
	"errors"
	"fmt"
	"reflect"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
)

// Config configures a [Tracer]. The zero Config is valid.
type Config struct {
	// TracerProvider starts the spans. Default: the one of
	// otel.SetTracerProvider, also if it is set later than New is called. Until
	// then no span is started.
	TracerProvider trace.TracerProvider
	// Propagator reads and writes header fields. Default: the one of
	// otel.SetTextMapPropagator, also if it is set later than New is called;
	// until then W3C Trace Context and Baggage. One that has to list the fields
	// of a request, as Jaeger's does for baggage, finds none.
	Propagator propagation.TextMapPropagator
	// Trusted reports whether an inbound call may choose trace, sampling and
	// baggage. Default: calls of trusted proxies and of verified workloads, that
	// is, Call.Trusted or a Call.Peer. It must be fast and must not wait.
	Trusted func(c *gatemesh.Call) bool
	// DisableLinks leaves out the link from the span of an untrusted call to the
	// span that the caller named.
	DisableLinks bool
	// Observer is told when baggage was cut, at most once a minute. Default:
	// nobody.
	Observer gatemesh.Observer
}

func (cfg *Config) validate() error {
	return errors.Join(notNil("Config.TracerProvider", cfg.TracerProvider), notNil("Config.Propagator", cfg.Propagator))
}

// notNil refuses an interface that holds a nil pointer, which would panic at
// the first call.
func notNil(field string, v any) error {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && r.IsNil() {
		return fmt.Errorf("trace: %s is a nil %T", field, v)
	}
	return nil
}

func (cfg Config) withDefaults() Config {
	if cfg.TracerProvider != nil && isPlaceholder(cfg.TracerProvider) {
		cfg.TracerProvider = nil // the global one, fetched before it was set
	}
	if cfg.Propagator != nil && isPlaceholder(cfg.Propagator) {
		cfg.Propagator = nil
	}
	if cfg.Trusted == nil {
		cfg.Trusted = trusted
	}
	return cfg
}

func trusted(c *gatemesh.Call) bool { return c.Trusted() || c.Peer() != nil }
