package ratelimit

import "github.com/gatemesh-go/gatemesh"

var _ gatemesh.Measurable = (*Limiter)(nil)

var (
	metricAdmitted = &gatemesh.Metric{
		Name: "gatemesh.ratelimit.admitted", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls within their limit",
	}
	metricRefused = &gatemesh.Metric{
		Name: "gatemesh.ratelimit.refused", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls over their limit",
	}
	metricKeys = &gatemesh.Metric{
		Name: "gatemesh.ratelimit.keys", Kind: gatemesh.MetricAmount, Unit: "{key}",
		Description: "Keys that are remembered",
	}
	metricMaxKeys = &gatemesh.Metric{
		Name: "gatemesh.ratelimit.keys.limit", Kind: gatemesh.MetricGauge, Unit: "{key}",
		Description: "How many keys there is room for",
	}
	metricForgotten = &gatemesh.Metric{
		Name: "gatemesh.ratelimit.keys.forgotten", Kind: gatemesh.MetricCounter, Unit: "{key}",
		Description: "Keys that were forgotten before their calls had come back, for want of room",
	}
	metrics = []*gatemesh.Metric{metricAdmitted, metricRefused, metricKeys, metricMaxKeys, metricForgotten}
)

// Metrics implements [gatemesh.Measurable].
func (*Limiter) Metrics() []*gatemesh.Metric { return metrics }

// Measure tells how many calls were refused, and how full the table is, by
// [Config.Name]. It tells nothing of single keys.
func (l *Limiter) Measure(tell gatemesh.Tell) {
	s := l.state.Latest()
	if s == nil {
		return
	}
	var admitted, refused, forgotten, keys uint64
	for i := range l.table.shards {
		t := &l.table.shards[i]
		t.mu.Lock()
		admitted, refused, forgotten, keys = admitted+t.admitted, refused+t.refused, forgotten+t.forgotten, keys+uint64(len(t.slots))
		t.mu.Unlock()
	}
	name := gatemesh.Labels{Name: s.Name}
	tell.Count(metricAdmitted, name, admitted)
	tell.Count(metricRefused, name, refused)
	tell.Count(metricKeys, name, keys)
	tell(metricMaxKeys, name, float64(s.MaxKeys))
	tell.Count(metricForgotten, name, forgotten)
}
