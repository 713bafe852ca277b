package trace

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/gatemesh-go/gatemesh"
)

// instrument is what the numbers of a Metric are told to.
type instrument struct {
	metric.Float64Observable
	of *gatemesh.Metric
}

// registration is components that are asked together.
type registration struct {
	m         *Metrics
	component string
	of        []gatemesh.Measurable
	by        map[*gatemesh.Metric]instrument
	callback  metric.Registration

	// Guarded by m.collecting.
	removed bool
	round   uint64 // the collection under way, or the last one
	sets    map[seriesKey]*seriesSet
}

type seriesKey struct {
	of     *gatemesh.Metric
	labels gatemesh.Labels
}

type seriesSet struct {
	attrs []metric.ObserveOption
	round uint64 // the last collection that it was told in
}

var (
	errMetricsUnset  = errors.New("trace: the Metrics were not made by NewMetrics")
	errMetricsClosed = errors.New("trace: the Metrics are closed")
)

// Register has of asked for their numbers whenever somebody collects. The
// components may be changed and closed meanwhile. name tells several of a kind
// apart, as two breakers' Gates with the same destinations: it becomes the
// attribute gatemesh.component, unless it is "". It must not be made of what
// callers send.
//
// remove has them no longer asked, and returns when they are not; Close does the
// same for all. Neither they nor Register may be called by an Observer that a
// component tells of something while it is asked.
func (m *Metrics) Register(name string, of ...gatemesh.Measurable) (remove func() error, err error) {
	if m.meter == nil {
		return nil, errMetricsUnset
	}
	m.registering.Lock()
	defer m.registering.Unlock()
	if m.closed {
		return nil, errMetricsClosed
	}
	r := &registration{m: m, component: name, of: append([]gatemesh.Measurable(nil), of...), by: map[*gatemesh.Metric]instrument{}, sets: map[seriesKey]*seriesSet{}}
	var all []metric.Observable
	var errs []error
	for i, c := range of {
		if c == nil {
			errs = append(errs, fmt.Errorf("trace: Register: component %d is nil", i))
			continue
		}
		for _, d := range c.Metrics() {
			if _, twice := r.by[d]; twice {
				continue
			}
			it, err := m.instrument(d)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			r.by[d] = it
			all = append(all, it.Float64Observable)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if r.callback, err = m.meter.RegisterCallback(r.collect, all...); err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	m.registered[r] = struct{}{}
	return func() error {
		m.registering.Lock()
		defer m.registering.Unlock()
		return m.remove(r)
	}, nil
}

// instrument returns that of d, made once. Its callers hold m.registering.
func (m *Metrics) instrument(d *gatemesh.Metric) (instrument, error) {
	if it, ok := m.instruments[d.Name]; ok {
		if it.of != d {
			return it, fmt.Errorf("trace: Register: there are two metrics %s", d.Name)
		}
		return it, nil
	}
	var o metric.Float64Observable
	var err error
	switch d.Kind {
	case gatemesh.MetricCounter:
		o, err = m.meter.Float64ObservableCounter(d.Name, metric.WithUnit(d.Unit), metric.WithDescription(d.Description))
	case gatemesh.MetricAmount:
		o, err = m.meter.Float64ObservableUpDownCounter(d.Name, metric.WithUnit(d.Unit), metric.WithDescription(d.Description))
	case gatemesh.MetricGauge:
		o, err = m.meter.Float64ObservableGauge(d.Name, metric.WithUnit(d.Unit), metric.WithDescription(d.Description))
	default:
		err = fmt.Errorf("the metric %s is of no kind", d.Name)
	}
	if err != nil {
		return instrument{}, fmt.Errorf("trace: Register: %w", err)
	}
	m.instruments[d.Name] = instrument{o, d}
	return m.instruments[d.Name], nil
}

// remove ends r. Its callers hold m.registering.
func (m *Metrics) remove(r *registration) error {
	if _, there := m.registered[r]; !there {
		return nil
	}
	delete(m.registered, r)
	err := r.callback.Unregister()
	m.collecting.Lock() // a collection under way has ended
	defer m.collecting.Unlock()
	r.removed = true
	for k := range r.sets {
		m.series[k.of]--
	}
	r.sets = nil
	return err
}

// collect is the callback. The meter holds locks of its own, so nobody who is
// told of anything in it may register or remove.
func (r *registration) collect(ctx context.Context, o metric.Observer) error {
	full, err := r.locked(o)
	if full != nil {
		r.m.full(ctx, full.Name)
	}
	return err
}

// locked is read. A component that panics must not end the process, which is
// what a panic in a callback does.
func (r *registration) locked(o metric.Observer) (full *gatemesh.Metric, err error) {
	r.m.collecting.Lock()
	defer r.m.collecting.Unlock()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("trace: a component panicked when it was asked for its numbers: %v", v)
		}
	}()
	return r.read(o), nil
}

// read asks the components. It returns a metric that has too many series, if
// there is one. Those that it has stay; those that are no longer told make room.
func (r *registration) read(o metric.Observer) (full *gatemesh.Metric) {
	if r.removed {
		return nil
	}
	r.round++
	tell := func(d *gatemesh.Metric, l gatemesh.Labels, value float64) {
		it, ok := r.by[d]
		if !ok {
			return // not among its Metrics
		}
		k := seriesKey{d, l}
		s := r.sets[k]
		if s == nil {
			if r.m.series[d] >= r.m.cfg.MaxSeries {
				full = d
				return
			}
			s = &seriesSet{attrs: []metric.ObserveOption{setOf(r.attributes(l)...)}}
			r.sets[k] = s
			r.m.series[d]++
		}
		s.round = r.round
		o.ObserveFloat64(it.Float64Observable, value, s.attrs...)
	}
	for _, c := range r.of {
		c.Measure(tell)
	}
	for k, s := range r.sets {
		if s.round != r.round {
			delete(r.sets, k)
			r.m.series[k.of]--
		}
	}
	return full
}

func (r *registration) attributes(l gatemesh.Labels) (attrs []attribute.KeyValue) {
	add := func(k attribute.Key, v string) {
		if v != "" {
			attrs = append(attrs, k.String(v))
		}
	}
	add(keyComponent, r.component)
	add(keyName, l.Name)
	if l.Destination != (gatemesh.Destination{}) {
		add(keyDestination, nameOf(l.Destination))
	}
	add(keyState, l.State)
	add(keyWas, l.Was)
	add(keyReason, l.Reason)
	return attrs
}
