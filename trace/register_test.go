package trace_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/trace"
)

var (
	thingCount = &gatemesh.Metric{Name: "gatemesh.thing.count", Kind: gatemesh.MetricCounter, Unit: "{thing}", Description: "Things"}
	thingLevel = &gatemesh.Metric{Name: "gatemesh.thing.level", Kind: gatemesh.MetricGauge, Unit: "1", Description: "Level"}
	thingRooms = &gatemesh.Metric{Name: "gatemesh.thing.rooms", Kind: gatemesh.MetricAmount, Unit: "{room}", Description: "Rooms"}
)

// thing is a component.
type thing struct {
	mu    sync.Mutex
	asked int
	count float64
	rooms []string
	tells func(gatemesh.Tell) // besides
}

func (*thing) Metrics() []*gatemesh.Metric {
	return []*gatemesh.Metric{thingCount, thingLevel, thingRooms}
}

func (f *thing) Measure(tell gatemesh.Tell) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	tell(thingCount, gatemesh.Labels{State: "a"}, f.count)
	tell(thingLevel, gatemesh.Labels{}, 0)
	for _, r := range f.rooms {
		tell(thingRooms, gatemesh.Labels{Name: r}, 1)
	}
	if f.tells != nil {
		f.tells(tell)
	}
}

func TestRegister(t *testing.T) {
	t.Parallel()
	p := newMeter()
	m := newMetrics(t, trace.MetricsConfig{MeterProvider: p})
	a, b := &thing{count: 3, rooms: []string{"x"}}, &thing{count: 5}
	a.tells = func(tell gatemesh.Tell) {
		tell(&gatemesh.Metric{Name: "gatemesh.thing.undeclared"}, gatemesh.Labels{}, 1)
		tell(thingLevel, gatemesh.Labels{Name: "n", Destination: gatemesh.Destination{Service: "s", Namespace: "ns"}, State: "now", Was: "then", Reason: "why"}, 9)
	}
	_, err := m.Register("", a)
	require.NoError(t, err)
	remove, err := m.Register("second", b)
	require.NoError(t, err)
	first := map[string]float64{
		"thing.count[state:a]": 3, "thing.level[]": 0, "thing.rooms[name:x]": 1,
		"thing.level[destination:s.ns name:n reason:why state:now state.before:then]": 9,
	}
	both := map[string]float64{"thing.count[component:second state:a]": 5, "thing.level[component:second]": 0}
	for k, v := range first {
		both[k] = v
	}
	assert.Equal(t, both, p.collect(t))
	require.NoError(t, remove())
	require.NoError(t, remove(), "twice is harmless")
	assert.Equal(t, first, p.collect(t))
	assert.Equal(t, 1, b.asked)

	a.rooms = []string{"y"}
	delete(first, "thing.rooms[name:x]")
	first["thing.rooms[name:y]"] = 1
	assert.Equal(t, first, p.collect(t), "what is no longer told is gone")
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	assert.Empty(t, p.collect(t))
	_, err = m.Register("", a)
	assert.EqualError(t, err, "trace: the Metrics are closed")
}

// The kinds and words of a Metric are those of the instrument.
func TestRegisterKinds(t *testing.T) {
	t.Parallel()
	p := newMeter()
	m := newMetrics(t, trace.MetricsConfig{MeterProvider: p})
	_, err := m.Register("", &thing{rooms: []string{"x"}})
	require.NoError(t, err)
	var rm metricdata.ResourceMetrics
	require.NoError(t, p.reader.Collect(t.Context(), &rm))
	got := map[string]string{}
	for _, of := range rm.ScopeMetrics[0].Metrics {
		kind := "gauge"
		if sum, ok := of.Data.(metricdata.Sum[float64]); ok {
			kind = fmt.Sprintf("sum monotonic=%v", sum.IsMonotonic)
		}
		got[of.Name] = fmt.Sprint(kind, " ", of.Unit, " ", of.Description)
	}
	assert.Equal(t, map[string]string{
		"gatemesh.thing.count": "sum monotonic=true {thing} Things", "gatemesh.thing.level": "gauge 1 Level", "gatemesh.thing.rooms": "sum monotonic=false {room} Rooms",
	}, got)
	assert.Equal(t, "github.com/gatemesh-go/gatemesh/trace", rm.ScopeMetrics[0].Scope.Name)
}

// metrics is a component that has no more than its metrics.
type metrics []*gatemesh.Metric

func (m metrics) Metrics() []*gatemesh.Metric { return m }
func (metrics) Measure(gatemesh.Tell)         {}

func TestRegisterFaults(t *testing.T) {
	t.Parallel()
	p := newMeter()
	m := newMetrics(t, trace.MetricsConfig{MeterProvider: p})
	twin, odd := *thingCount, gatemesh.Metric{Name: "gatemesh.odd"}
	_, err := m.Register("", &thing{}, nil, metrics{&twin}, metrics{&odd})
	assert.EqualError(t, err, "trace: Register: component 1 is nil\n"+
		"trace: Register: there are two metrics gatemesh.thing.count\n"+
		"trace: Register: the metric gatemesh.odd is of no kind")
	assert.Empty(t, p.collect(t), "all or none")
}

// A component that panics costs its own numbers, and not the process.
func TestRegisterPanic(t *testing.T) {
	t.Parallel()
	p := newMeter()
	m := newMetrics(t, trace.MetricsConfig{MeterProvider: p})
	bad := &thing{tells: func(gatemesh.Tell) { panic("no") }}
	_, err := m.Register("bad", bad)
	require.NoError(t, err)
	_, err = m.Register("good", &thing{})
	require.NoError(t, err)
	var rm metricdata.ResourceMetrics
	for range 2 {
		require.ErrorContains(t, p.reader.Collect(t.Context(), &rm), "a component panicked")
	}
	bad.mu.Lock()
	bad.tells = nil
	bad.mu.Unlock()
	assert.Len(t, p.collect(t), 4)
}

// A component without end, or one whose names come and go, makes no more than
// MaxSeries; those that are there stay.
func TestRegisterIsBounded(t *testing.T) {
	t.Parallel()
	told := &observer{}
	p := newMeter()
	m := newMetrics(t, trace.MetricsConfig{MeterProvider: p, MaxSeries: 10, Observer: told})
	a, b := &thing{}, &thing{}
	for i := range 8 {
		a.rooms = append(a.rooms, fmt.Sprint("a", i))
		b.rooms = append(b.rooms, fmt.Sprint("b", i))
	}
	_, err := m.Register("", a)
	require.NoError(t, err)
	assert.Len(t, p.collect(t), 8+2)
	assert.Empty(t, told.events)
	remove, err := m.Register("other", b)
	require.NoError(t, err)
	for range 3 {
		got := p.collect(t)
		assert.Len(t, got, 10+4)
		for _, r := range a.rooms {
			assert.Contains(t, got, "thing.rooms[name:"+r+"]")
		}
	}
	require.Len(t, told.events, 1)
	assert.Equal(t, "gatemesh.thing.rooms has more series than MaxSeries, 10", told.events[0].Message)

	require.NoError(t, remove())
	for i := range 100 { // each makes room for the next
		a.rooms = []string{fmt.Sprint("c", i), fmt.Sprint("d", i)}
		assert.Len(t, p.collect(t), 4)
	}
}

func TestRegisterConcurrently(t *testing.T) {
	t.Parallel()
	p := newMeter()
	m := newMetrics(t, trace.MetricsConfig{MeterProvider: p})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 50 {
				remove, err := m.Register(fmt.Sprint(i), &thing{})
				assert.NoError(t, err)
				p.collect(t)
				assert.NoError(t, remove())
			}
		})
	}
	wg.Wait()
	assert.Empty(t, p.collect(t))
}
