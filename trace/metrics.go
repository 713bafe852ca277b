package trace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"github.com/gatemesh-go/gatemesh"
)

// MetricsConfig configures [Metrics]. The zero MetricsConfig is valid.
type MetricsConfig struct {
	// MeterProvider makes the instruments. Default: the one of
	// otel.SetMeterProvider, also if it is set later than NewMetrics is called.
	// Until then nothing is counted.
	MeterProvider metric.MeterProvider
	// Workload is who we are: the source of the calls that we make, and the
	// destination of those that we receive and no route sends on. Default: nobody,
	// which is "unknown".
	Workload gatemesh.Workload
	// MaxSeries bounds the series of each metric. What else happens to calls is
	// counted together, with the attribute otel.metric.overflow; what components
	// tell beyond it is left out. 10 to 100,000. Default: 1,000.
	MaxSeries int
	// Observer hears, at most once a minute, that a metric has more series than
	// MaxSeries. Default: nobody.
	Observer gatemesh.Observer
}

func (cfg MetricsConfig) complete() (MetricsConfig, error) {
	if cfg.MaxSeries == 0 {
		cfg.MaxSeries = 1000
	}
	errs := []error{notNil("MetricsConfig.MeterProvider", cfg.MeterProvider)}
	if cfg.MaxSeries < 10 || cfg.MaxSeries > 100_000 {
		errs = append(errs, fmt.Errorf("trace: MetricsConfig.MaxSeries %d is not between 10 and 100000", cfg.MaxSeries))
	}
	cfg.Workload = cfg.Workload.Clone()
	return cfg, errors.Join(errs...)
}

// Metrics makes OpenTelemetry metrics of what happens to calls and of what
// components tell about themselves. As a [gatemesh.Observer] it counts events:
// give it to the Entry and the Outbound, and to components for their faults,
// together with that of the log by [gatemesh.Observers]. [Metrics.Register] has
// components asked whenever somebody collects.
//
// Who calls whom is known of verified workloads and configured routes and
// services alone. There is no path, host, method, user agent, address, user,
// consumer or key among the attributes, nor anything else that a caller can
// choose; see the table in docs/metrics.md.
//
// It is safe for concurrent use. Its configuration does not change, as
// instruments do not. As long as no provider is set, it costs next to nothing.
// The zero Metrics counts nothing; use [NewMetrics].
type Metrics struct {
	cfg    MetricsConfig
	meter  metric.Meter // nil for the zero Metrics
	warned atomic.Int64 // Unix seconds of the last report of too many series

	received, made                            metric.Float64Histogram
	denied, retried, hedged, panicked, faults metric.Int64Counter

	calls   table[callKey, recordSet]
	denials table[denialKey, addSet]
	again   table[againKey, addSet]
	layers  table[string, addSet]
	over    overflow

	registering sync.Mutex // guards what follows
	instruments map[string]instrument
	registered  map[*registration]struct{}
	closed      bool

	// collecting guards what collections use. It is not held while the meter is
	// asked for anything, as the meter collects with locks of its own.
	collecting sync.Mutex
	series     map[*gatemesh.Metric]int
}

var _ gatemesh.Observer = (*Metrics)(nil)

// bounds of the durations in seconds: those that the semantic conventions advise
// for HTTP and RPC, and two below them, as calls within a mesh are short.
var bounds = []float64{.001, .0025, .005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}

// NewMetrics returns Metrics. It reports every invalid field at once.
func NewMetrics(cfg MetricsConfig) (*Metrics, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	provider := cfg.MeterProvider
	if provider == nil {
		provider = otel.GetMeterProvider()
	}
	m := &Metrics{
		cfg: cfg, meter: provider.Meter(scope), over: newOverflow(),
		instruments: map[string]instrument{}, registered: map[*registration]struct{}{}, series: map[*gatemesh.Metric]int{},
	}
	var errs []error
	histogram := func(name, description string) metric.Float64Histogram {
		h, err := m.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), metric.WithExplicitBucketBoundaries(bounds...))
		errs = append(errs, err)
		return h
	}
	counter := func(name, unit, description string) metric.Int64Counter {
		c, err := m.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	m.received = histogram("gatemesh.server.call.duration", "Duration of received calls, until the end of their response")
	m.made = histogram("gatemesh.client.call.duration", "Duration of calls that were made, with all their attempts, until the end of the response")
	m.denied = counter("gatemesh.call.denied", "{call}", "Refusals of calls, by the layer that refused and its reason")
	m.retried = counter("gatemesh.call.retried", "{attempt}", "Attempts that another one followed, by how they had ended")
	m.hedged = counter("gatemesh.call.hedged", "{attempt}", "Attempts that were begun beside one that took long")
	m.panicked = counter("gatemesh.panics", "{panic}", "Panics of layers and handlers")
	m.faults = counter("gatemesh.faults", "{fault}", "Faults that components have reported")
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	return m, nil
}

// Close has components no longer asked. Events are counted all the same. Closing
// twice is harmless.
func (m *Metrics) Close() error {
	m.registering.Lock()
	defer m.registering.Unlock()
	m.closed = true
	var errs []error
	for r := range m.registered {
		errs = append(errs, m.remove(r))
	}
	return errors.Join(errs...)
}

// full tells the Observer, at most once a minute, that name has too many series.
func (m *Metrics) full(ctx context.Context, name string) {
	last, now := m.warned.Load(), time.Now().Unix()
	if m.cfg.Observer == nil || now-last < 60 || !m.warned.CompareAndSwap(last, now) {
		return
	}
	m.cfg.Observer.Observe(ctx, gatemesh.Event{
		Kind: gatemesh.EventFault, Layer: "metrics",
		Message: fmt.Sprintf("%s has more series than MaxSeries, %d", name, m.cfg.MaxSeries),
	})
}
