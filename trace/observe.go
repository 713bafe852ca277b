package trace

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/gatemesh-go/gatemesh"
)

// Observe implements [gatemesh.Observer]: it counts e. Of ended calls it records
// the duration, by who called whom, route, protocol and class of the answer: "2xx"
// and so on, with gRPC codes as the HTTP statuses that they stand for, or
// "canceled" if the caller went away, or "truncated" if the response broke off.
func (m *Metrics) Observe(ctx context.Context, e gatemesh.Event) {
	if m.meter == nil {
		return
	}
	switch e.Kind {
	case gatemesh.EventFinished:
		h := m.received
		if e.Call.Outbound() {
			h = m.made
		}
		if h.Enabled(ctx) {
			h.Record(ctx, e.Outcome.Duration.Seconds(), m.callSet(ctx, e.Call, &e.Outcome)...)
		}
	case gatemesh.EventDenied:
		if m.denied.Enabled(ctx) {
			m.denied.Add(ctx, 1, m.denialSet(ctx, e.Layer, e.Denial)...)
		}
	case gatemesh.EventRetried:
		if m.retried.Enabled(ctx) {
			m.retried.Add(ctx, 1, m.againSet(ctx, againKey{false, classOf(e.Call, &e.Outcome), e.Call.Destination()})...)
		}
	case gatemesh.EventHedged:
		if m.hedged.Enabled(ctx) {
			m.hedged.Add(ctx, 1, m.againSet(ctx, againKey{true, 0, e.Call.Destination()})...)
		}
	case gatemesh.EventPanic:
		m.countLayer(ctx, m.panicked, e.Layer)
	case gatemesh.EventFault:
		m.countLayer(ctx, m.faults, e.Layer)
	}
}

// callSet returns the attributes of a call that has ended.
func (m *Metrics) callSet(ctx context.Context, c *gatemesh.Call, o *gatemesh.Outcome) recordSet {
	d := c.Destination()
	k := callKey{
		outbound: c.Outbound(), protocol: c.Protocol(), class: classOf(c, o),
		destination: d.Service, namespace: d.Namespace, subset: d.Subset, port: d.Port,
	}
	p := c.Peer()
	if p != nil && !k.outbound {
		k.domain, k.path = p.TrustDomain(), p.Path()
	}
	if r := c.Route(); r != nil {
		k.route = r.Name
	}
	if s := m.calls.find(k); s != nil {
		return *s
	}
	source, destination := m.self(), nameOf(d)
	if !k.outbound {
		source = m.sourceOf(p)
		if d.Service == "" {
			destination = m.self()
		}
	}
	attrs := []attribute.KeyValue{
		keySource.String(source), keyDestination.String(destination), keyClass.String(classNames[k.class]), keyProtocol.String(k.protocol.String()),
	}
	if k.route != "" {
		attrs = append(attrs, keyRoute.String(k.route))
	}
	if s := m.calls.add(k, &recordSet{setOf(attrs...)}, m.cfg.MaxSeries); s != nil {
		return *s
	}
	m.full(ctx, "gatemesh.server.call.duration or gatemesh.client.call.duration")
	i := 0
	if k.protocol == gatemesh.GRPC {
		i = 1
	}
	return m.over.calls[i][k.class]
}

func (m *Metrics) denialSet(ctx context.Context, layer string, d *gatemesh.Denial) addSet {
	k := denialKey{layer, d.Reason, d.Code}
	if s := m.denials.find(k); s != nil {
		return *s
	}
	set := addSet{setOf(keyLayer.String(k.layer), keyReason.String(k.reason), keyCode.String(k.code.String()))}
	if s := m.denials.add(k, &set, m.cfg.MaxSeries); s != nil {
		return *s
	}
	m.full(ctx, "gatemesh.call.denied")
	return m.over.rest
}

func (m *Metrics) againSet(ctx context.Context, k againKey) addSet {
	if s := m.again.find(k); s != nil {
		return *s
	}
	attrs := []attribute.KeyValue{keyDestination.String(nameOf(k.destination))}
	if !k.hedged {
		attrs = append(attrs, keyClass.String(classNames[k.class]))
	}
	if s := m.again.add(k, &addSet{setOf(attrs...)}, m.cfg.MaxSeries); s != nil {
		return *s
	}
	m.full(ctx, "gatemesh.call.retried or gatemesh.call.hedged")
	return m.over.rest
}

// countLayer counts what is known by the name of a layer or component alone.
func (m *Metrics) countLayer(ctx context.Context, c metric.Int64Counter, layer string) {
	if !c.Enabled(ctx) {
		return
	}
	s := m.layers.find(layer)
	if s == nil {
		s = m.layers.add(layer, &addSet{setOf(keyLayer.String(layer))}, m.cfg.MaxSeries)
	}
	if s == nil {
		// Not told, as that would be a fault to count.
		s = &m.over.rest
	}
	c.Add(ctx, 1, *s...)
}
