package trace

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
)

// errUnset is what a Tracer that New did not make answers.
var errUnset = gatemesh.Deny(gatemesh.Internal, "internal", "The request could not be processed.").
	WithCause(errors.New("trace: the Tracer was not made by New"))

// Tracer starts spans for the calls that a service receives and makes, and
// carries them from one service to the next. It is safe for concurrent use and
// needs no closing. The zero Tracer refuses every call; use [New].
//
// It admits every call. As long as no provider is set, it costs next to
// nothing.
type Tracer struct {
	state   gatemesh.Live[state]
	globals globals
	methods methods
	warned  atomic.Int64 // Unix seconds of the last report that baggage was cut
}

// state is one version of the configuration. It is immutable.
type state struct {
	Config
	tracer     trace.Tracer // of Config.TracerProvider, or nil
	propagator *propagator  // of Config.Propagator, or nil
}

// New returns a Tracer for cfg. It reports every invalid field at once.
func New(cfg Config) (*Tracer, error) {
	t := new(Tracer)
	if err := t.Update(cfg); err != nil {
		return nil, err
	}
	return t, nil
}

// Update replaces the configuration for the calls that come from now on. Spans
// that were started before are ended as they were begun. If cfg is invalid, the
// old one stays.
func (t *Tracer) Update(cfg Config) error { return gatemesh.Apply(t.Change(cfg)) }

// Change is [Tracer.Update] as a part of [gatemesh.Apply].
func (t *Tracer) Change(cfg Config) gatemesh.Change {
	return gatemesh.NewChange(&t.state, func(*state) (*state, error) {
		if err := cfg.validate(); err != nil {
			return nil, err
		}
		s := &state{Config: cfg.withDefaults()}
		if s.TracerProvider != nil {
			s.tracer = s.TracerProvider.Tracer(scope)
		}
		if s.Propagator != nil {
			s.propagator = newPropagator(s.Propagator)
		}
		return s, nil
	}, nil)
}

// tracer returns nil if no provider is set.
func (t *Tracer) tracer(s *state) trace.Tracer {
	if s.tracer != nil {
		return s.tracer
	}
	return t.globals.currentTracer()
}

func (t *Tracer) propagator(s *state) *propagator {
	if s.propagator != nil {
		return s.propagator
	}
	return t.globals.currentPropagator()
}

// reportCut tells the Observer, at most once a minute, that baggage was cut.
func (t *Tracer) reportCut(ctx context.Context, s *state, c *gatemesh.Call) {
	last, sec := t.warned.Load(), time.Now().Unix()
	if s.Observer == nil || sec-last < 60 && last != 0 || !t.warned.CompareAndSwap(last, sec) {
		return
	}
	s.Observer.Observe(ctx, gatemesh.Event{
		Kind: gatemesh.EventNotice, Layer: layerName, Call: c,
		Message: "baggage was cut to 64 members and 8192 bytes",
	})
}

// layer returns a layer, which NewChain and NewOutbound refuse for having no
// name if t was not made by New.
func (t *Tracer) layer(l gatemesh.Layer) gatemesh.Layer {
	if t.state.Latest() == nil {
		l.Name = ""
	}
	return l
}

// local reports whether sc is of a span that was started in this process.
func local(sc trace.SpanContext) bool { return sc.IsValid() && !sc.IsRemote() }
