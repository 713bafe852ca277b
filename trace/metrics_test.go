package trace_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

var us = gatemesh.Workload{Name: "payment", Namespace: "prod", TrustDomain: "td", ServiceAccount: "payment"}

// finished is the end of a call, as an event.
func finished(t testing.TB, in gatemesh.CallInfo, o gatemesh.Outcome) gatemesh.Event {
	t.Helper()
	c, err := gatemesh.NewCall(in)
	require.NoError(t, err)
	return gatemesh.Event{Kind: gatemesh.EventFinished, Call: c, Outcome: o}
}

func peer(t testing.TB, domain, path string) *gatemesh.Peer {
	t.Helper()
	p, err := gatemesh.NewPeer(domain, path, nil)
	require.NoError(t, err)
	return p
}

// Who calls whom is the verified peer and where the call goes, or else we.
func TestMetricsOfCalls(t *testing.T) {
	t.Parallel()
	parent, err := gatemesh.NewCall(gatemesh.CallInfo{Peer: peer(t, "td", "/ns/prod/sa/orders")})
	require.NoError(t, err)
	ledger := gatemesh.Destination{Service: "ledger", Namespace: "prod", Subset: "v2", Port: 80}
	ok := gatemesh.Outcome{Status: 200}
	for want, test := range map[string]struct {
		in gatemesh.CallInfo
		o  gatemesh.Outcome
	}{
		"server.call.duration[code_class:2xx destination:payment.prod protocol:http source:unknown]":     {gatemesh.CallInfo{Path: "/SECRET"}, ok},
		"server.call.duration[code_class:4xx destination:payment.prod protocol:http source:orders.prod]": {gatemesh.CallInfo{Peer: peer(t, "td", "/ns/prod/sa/orders")}, gatemesh.Outcome{Status: 404, Code: gatemesh.NotFound}},
		"server.call.duration[code_class:1xx destination:payment.prod protocol:http source:spiffe://other/ns/prod/sa/orders]": {
			gatemesh.CallInfo{Peer: peer(t, "other", "/ns/prod/sa/orders")}, gatemesh.Outcome{Status: 101}},
		"server.call.duration[code_class:3xx destination:payment.prod protocol:http source:spiffe://td/vm/7]": {
			gatemesh.CallInfo{Peer: peer(t, "td", "/vm/7")}, gatemesh.Outcome{Status: 302}},
		"server.call.duration[code_class:5xx destination:ledger.prod/v2:80 protocol:http route:r source:unknown]": {
			gatemesh.CallInfo{Route: &gatemesh.Route{Name: "r"}, Destination: ledger}, gatemesh.Outcome{Status: 200, Panicked: true, Truncated: true}},
		"server.call.duration[code_class:truncated destination:payment.prod protocol:http source:unknown]": {
			gatemesh.CallInfo{}, gatemesh.Outcome{Status: 200, Truncated: true}},
		"server.call.duration[code_class:5xx destination:payment.prod protocol:http source:unknown]": {
			gatemesh.CallInfo{}, gatemesh.Outcome{Status: 502, Truncated: true, Code: gatemesh.Unavailable}},
		"server.call.duration[code_class:canceled destination:payment.prod protocol:http source:unknown]": {
			gatemesh.CallInfo{}, gatemesh.Outcome{Status: 200, Canceled: true, Truncated: true, Code: gatemesh.Canceled}},
		"server.call.duration[code_class:2xx destination:payment.prod protocol:grpc source:unknown]": {
			gatemesh.CallInfo{Protocol: gatemesh.GRPC}, gatemesh.Outcome{}},
		"server.call.duration[code_class:4xx destination:payment.prod protocol:grpc source:unknown]": {
			gatemesh.CallInfo{Protocol: gatemesh.GRPC}, gatemesh.Outcome{Status: 200, Code: gatemesh.PermissionDenied}},
		"client.call.duration[code_class:5xx destination:ledger.prod/v2:80 protocol:http source:payment.prod]": {
			gatemesh.CallInfo{Parent: parent, Destination: ledger, Peer: peer(t, "td", "/ns/prod/sa/ledger")}, gatemesh.Outcome{Code: gatemesh.Unavailable}},
		"client.call.duration[code_class:2xx destination:unknown protocol:http source:payment.prod]": {
			gatemesh.CallInfo{Parent: parent, Host: "SECRET.example"}, ok},
	} {
		p := newMeter()
		m := newMetrics(t, trace.MetricsConfig{MeterProvider: p, Workload: us})
		for range 3 {
			m.Observe(t.Context(), finished(t, test.in, test.o))
		}
		assert.Equal(t, map[string]float64{want: 3}, p.collect(t))
	}
}

func TestMetricsOfEvents(t *testing.T) {
	t.Parallel()
	p := newMeter()
	m := newMetrics(t, trace.MetricsConfig{MeterProvider: p, Workload: us})
	e := finished(t, gatemesh.CallInfo{Destination: gatemesh.Destination{Service: "ledger"}}, gatemesh.Outcome{Status: 503, Code: gatemesh.Unavailable})
	for _, kind := range []gatemesh.EventKind{gatemesh.EventRetried, gatemesh.EventRetried, gatemesh.EventHedged, gatemesh.EventAdmitted, gatemesh.EventNotice} {
		e.Kind = kind
		m.Observe(t.Context(), e)
	}
	m.Observe(t.Context(), gatemesh.Event{Kind: gatemesh.EventDenied, Layer: "auth", Call: e.Call, Denial: gatemesh.Deny(gatemesh.Unauthenticated, "token_expired", "SECRET-detail").WithCause(errors.New("SECRET-cause"))})
	m.Observe(t.Context(), gatemesh.Event{Kind: gatemesh.EventPanic, Layer: "handler", Call: e.Call, Err: errors.New("SECRET")})
	m.Observe(t.Context(), gatemesh.Event{Kind: gatemesh.EventFault, Layer: "breaker", Message: "SECRET", Err: errors.New("SECRET")})
	assert.Equal(t, map[string]float64{
		"call.retried[code_class:5xx destination:ledger]":                   2,
		"call.hedged[destination:ledger]":                                   1,
		"call.denied[code:unauthenticated layer:auth reason:token_expired]": 1,
		"panics[layer:handler]":                                             1,
		"faults[layer:breaker]":                                             1,
	}, p.collect(t))
}

func TestMetricsConfigFaults(t *testing.T) {
	t.Parallel()
	var none *sdkmetric.MeterProvider
	_, err := trace.NewMetrics(trace.MetricsConfig{MeterProvider: none, MaxSeries: 9})
	assert.EqualError(t, err, "trace: MetricsConfig.MeterProvider is a nil *metric.MeterProvider\ntrace: MetricsConfig.MaxSeries 9 is not between 10 and 100000")
	for _, n := range []int{-1, 100_001} {
		_, err = trace.NewMetrics(trace.MetricsConfig{MaxSeries: n})
		assert.Error(t, err)
	}
	var zero trace.Metrics
	zero.Observe(t.Context(), finished(t, gatemesh.CallInfo{}, gatemesh.Outcome{}))
	_, err = zero.Register("", &thing{})
	assert.EqualError(t, err, "trace: the Metrics were not made by NewMetrics")
	assert.NoError(t, zero.Close())
}

// With attribute sets made beforehand, an event costs no allocation, neither of
// ours nor of the SDK.
func TestMetricsAllocations(t *testing.T) {
	for name, p := range map[string]metric.MeterProvider{"noop": noop.NewMeterProvider(), "sdk": newMeter(), "unset": nil} {
		m := newMetrics(t, trace.MetricsConfig{MeterProvider: p, Workload: us})
		in := gatemesh.CallInfo{Peer: peer(t, "td", "/ns/prod/sa/orders"), Route: &gatemesh.Route{Name: "r"}, Destination: gatemesh.Destination{Service: "ledger", Namespace: "prod", Subset: "v1", Port: 80}}
		end := finished(t, in, gatemesh.Outcome{Status: 503, Code: gatemesh.Unavailable})
		events := []gatemesh.Event{end, {Kind: gatemesh.EventDenied, Layer: "auth", Call: end.Call, Denial: gatemesh.Deny(gatemesh.Unavailable, "x", "")}, {Kind: gatemesh.EventFault, Layer: "x"}}
		end.Kind = gatemesh.EventRetried
		events = append(events, end)
		end.Kind = gatemesh.EventHedged
		events = append(events, end)
		for _, e := range events {
			assert.Zero(t, testing.AllocsPerRun(200, func() { m.Observe(context.Background(), e) }), "%s, kind %d", name, e.Kind)
		}
	}
}

// The global provider counts from when it is set, and nobody is asked before.
// Not parallel: it sets what other tests rely on being unset.
func TestMetricsOfGlobalProvider(t *testing.T) {
	m := newMetrics(t, trace.MetricsConfig{Workload: us})
	it := &thing{}
	_, err := m.Register("", it)
	require.NoError(t, err)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{Observer: m})
	require.NoError(t, err)
	call := func() {
		entry.Handler(noContent).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}
	call()
	p := newMeter()
	otel.SetMeterProvider(p)
	t.Cleanup(func() { otel.SetMeterProvider(noop.NewMeterProvider()) })
	assert.Zero(t, it.asked)
	call()
	assert.Equal(t, map[string]float64{
		"server.call.duration[code_class:2xx destination:payment.prod protocol:http source:unknown]": 1,
		"thing.count[state:a]": 0, "thing.level[]": 0,
	}, p.collect(t))
	assert.Equal(t, 1, it.asked)
	require.NoError(t, m.Close())
	assert.Len(t, p.collect(t), 1, "events are counted all the same")
}

// Where nothing is recorded, nothing is kept for it.
func TestMetricsOff(t *testing.T) {
	t.Parallel()
	told := &observer{}
	m := newMetrics(t, trace.MetricsConfig{MeterProvider: noop.NewMeterProvider(), MaxSeries: 10, Observer: told})
	for i := range 30 {
		e := finished(t, gatemesh.CallInfo{Destination: gatemesh.Destination{Service: strconv.Itoa(i)}}, gatemesh.Outcome{Status: 200})
		e.Denial = gatemesh.Deny(gatemesh.Internal, strconv.Itoa(i), "")
		for _, e.Kind = range []gatemesh.EventKind{gatemesh.EventFinished, gatemesh.EventDenied, gatemesh.EventRetried, gatemesh.EventHedged} {
			m.Observe(t.Context(), e)
		}
	}
	assert.Empty(t, told.events, "a table is full that should be empty")
}
