package pool

import (
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

var _ gatemesh.Measurable = (*Pool)(nil)

var (
	metricEndpoints = &gatemesh.Metric{
		Name: "gatemesh.pool.endpoints", Kind: gatemesh.MetricAmount, Unit: "{endpoint}",
		Description: "Endpoints by whether they are used",
	}
	metricInFlight = &gatemesh.Metric{
		Name: "gatemesh.pool.in_flight", Kind: gatemesh.MetricAmount, Unit: "{attempt}",
		Description: "Attempts under way",
	}
	metricPanicking = &gatemesh.Metric{
		Name: "gatemesh.pool.panicking", Kind: gatemesh.MetricAmount, Unit: "{pool}",
		Description: "1 while so few endpoints are in that all are used",
	}
	metricEjections = &gatemesh.Metric{
		Name: "gatemesh.pool.ejections", Kind: gatemesh.MetricCounter, Unit: "{ejection}",
		Description: "Endpoints that were ejected",
	}
	metricLookups = &gatemesh.Metric{
		Name: "gatemesh.pool.lookups", Kind: gatemesh.MetricCounter, Unit: "{lookup}",
		Description: "Lookups of the endpoints that have ended",
	}
	metricAge = &gatemesh.Metric{
		Name: "gatemesh.pool.lookup.age", Kind: gatemesh.MetricGauge, Unit: "s",
		Description: "Time since a lookup has found somebody",
	}
	poolMetrics = []*gatemesh.Metric{metricEndpoints, metricInFlight, metricPanicking, metricEjections, metricLookups, metricAge}
)

// counts are for metrics alone.
type counts struct {
	ejected [reasons]atomic.Uint64
	looked  [len(outcomes)]atomic.Uint64
}

// outcomes of a lookup, as labels.
var outcomes = [...]string{"found", "failed"}

func outcomeOf(err error) int {
	if err != nil {
		return 1
	}
	return 0
}

// label is String for metrics.
func (r reason) label() string {
	switch r {
	case reasonFailures:
		return "failures"
	case reasonRate:
		return "rate"
	case reasonUnreachable:
		return "unreachable"
	}
	return ""
}

// Metrics implements [gatemesh.Measurable].
func (*Pool) Metrics() []*gatemesh.Metric { return poolMetrics }

// Measure tells how many endpoints there are in each [State], and what was done
// with them, by [Config.Name]. It tells nothing of single endpoints, which come
// and go; see [Pool.Endpoints].
func (p *Pool) Measure(tell gatemesh.Tell) {
	s := p.state.Load()
	if s == nil {
		return
	}
	l := gatemesh.Labels{Name: s.version.Name}
	var states [Unhealthy + 1]uint64
	inFlight, panicking := 0, 0
	for _, e := range p.Endpoints() {
		states[e.State]++
		inFlight += e.InFlight
		if e.Ignored {
			panicking = 1
		}
	}
	tell(metricInFlight, l, float64(inFlight))
	tell(metricPanicking, l, float64(panicking))
	p.mu.Lock()
	seen := p.seen
	p.mu.Unlock()
	if !seen.IsZero() {
		tell(metricAge, l, time.Since(seen).Seconds())
	}
	for state, n := range states {
		l.State = State(state).String()
		tell.Count(metricEndpoints, l, n)
	}
	for i, state := range outcomes {
		l.State = state
		tell.Count(metricLookups, l, p.counts.looked[i].Load())
	}
	l.State = ""
	for why := reasonFailures; why < reasons; why++ {
		l.Reason = why.label()
		tell.Count(metricEjections, l, p.counts.ejected[why].Load())
	}
}
