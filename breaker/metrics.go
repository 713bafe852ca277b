package breaker

import (
	"github.com/gatemesh-go/gatemesh"
)

var (
	_ gatemesh.Measurable = (*Breaker)(nil)
	_ gatemesh.Measurable = (*Gate)(nil)
	_ gatemesh.Measurable = (*Retry)(nil)
	_ gatemesh.Measurable = (*Throttle)(nil)
	_ gatemesh.Measurable = (*Limiter)(nil)
)

var (
	metricState = &gatemesh.Metric{
		Name: "gatemesh.breaker.state", Kind: gatemesh.MetricAmount, Unit: "{breaker}",
		Description: "1 for the state that the breaker is in, 0 for the others",
	}
	metricTransitions = &gatemesh.Metric{
		Name: "gatemesh.breaker.transitions", Kind: gatemesh.MetricCounter, Unit: "{transition}",
		Description: "How often the breaker has changed its state",
	}
	metricRefused = &gatemesh.Metric{
		Name: "gatemesh.breaker.refused", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls that the breaker has refused",
	}
	breakerMetrics = []*gatemesh.Metric{metricState, metricTransitions, metricRefused}
)

// moves are the changes of state that there are.
var moves = [...][2]State{{Closed, Open}, {Open, HalfOpen}, {HalfOpen, Open}, {HalfOpen, Closed}}

func (c *circuit) measure(tell gatemesh.Tell, l gatemesh.Labels) {
	tell.State(metricState, l, c.state().String(), Closed.String(), Open.String(), HalfOpen.String())
	tell.Count(metricRefused, l, c.refused.Load())
	for _, m := range moves {
		l.Was, l.State = m[0].String(), m[1].String()
		tell.Count(metricTransitions, l, c.moves[m[0]][m[1]].Load())
	}
}

// Metrics implements [gatemesh.Measurable].
func (*Breaker) Metrics() []*gatemesh.Metric { return breakerMetrics }

// Measure tells the state of the breaker and its changes, by [Config.Name].
func (b *Breaker) Measure(tell gatemesh.Tell) {
	if b.c != nil {
		b.c.measure(tell, gatemesh.Labels{Name: b.c.name})
	}
}

// Metrics implements [gatemesh.Measurable].
func (*Gate) Metrics() []*gatemesh.Metric { return breakerMetrics }

// Measure tells the state of each breaker and its changes, by destination, of
// which there are [GateConfig.MaxDestinations] at most.
func (g *Gate) Measure(tell gatemesh.Tell) {
	if g.circuits == nil {
		return
	}
	for d, c := range g.circuits.all() {
		c.measure(tell, gatemesh.Labels{Destination: d})
	}
}

var (
	metricRetryCalls = &gatemesh.Metric{
		Name: "gatemesh.retry.calls", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls that may be made twice",
	}
	metricRetried = &gatemesh.Metric{
		Name: "gatemesh.retry.retried", Kind: gatemesh.MetricCounter, Unit: "{attempt}",
		Description: "Attempts that were begun after one that failed",
	}
	metricHedged = &gatemesh.Metric{
		Name: "gatemesh.retry.hedged", Kind: gatemesh.MetricCounter, Unit: "{attempt}",
		Description: "Attempts that were begun beside one that took long",
	}
	metricOverBudget = &gatemesh.Metric{
		Name: "gatemesh.retry.over_budget", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls that were not tried again because the budget was used up",
	}
	metricBudget = &gatemesh.Metric{
		Name: "gatemesh.retry.budget", Kind: gatemesh.MetricGauge, Unit: "{attempt}",
		Description: "Further attempts that the budget has left",
	}
	retryMetrics = []*gatemesh.Metric{metricRetryCalls, metricRetried, metricHedged, metricOverBudget, metricBudget}
)

// Metrics implements [gatemesh.Measurable].
func (*Retry) Metrics() []*gatemesh.Metric { return retryMetrics }

// Measure tells what [Retry.Stats] returns, by destination, of which there are
// 1,024 at most.
func (r *Retry) Measure(tell gatemesh.Tell) {
	for d, s := range r.Stats() {
		l := gatemesh.Labels{Destination: d}
		tell.Count(metricRetryCalls, l, s.Calls)
		tell.Count(metricRetried, l, s.Retried)
		tell.Count(metricHedged, l, s.Hedged)
		tell.Count(metricOverBudget, l, s.OverBudget)
		tell(metricBudget, l, s.Budget)
	}
}

var (
	metricThrottleCalls = &gatemesh.Metric{
		Name: "gatemesh.throttle.calls", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Attempts that came to the throttle",
	}
	metricThrottled = &gatemesh.Metric{
		Name: "gatemesh.throttle.refused", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Attempts that the throttle has kept back",
	}
	metricRejection = &gatemesh.Metric{
		Name: "gatemesh.throttle.rejection", Kind: gatemesh.MetricGauge, Unit: "1",
		Description: "Share of the attempts that is kept back now",
	}
	throttleMetrics = []*gatemesh.Metric{metricThrottleCalls, metricThrottled, metricRejection}
)

// Metrics implements [gatemesh.Measurable].
func (*Throttle) Metrics() []*gatemesh.Metric { return throttleMetrics }

// Measure tells what [Throttle.Stats] returns, by destination, of which there
// are [ThrottleConfig.MaxDestinations] at most.
func (t *Throttle) Measure(tell gatemesh.Tell) {
	for d, s := range t.Stats() {
		l := gatemesh.Labels{Destination: d}
		tell.Count(metricThrottleCalls, l, s.Calls)
		tell.Count(metricThrottled, l, s.Refused)
		tell(metricRejection, l, s.Rejection)
	}
}

var (
	metricLimit = &gatemesh.Metric{
		Name: "gatemesh.limiter.limit", Kind: gatemesh.MetricGauge, Unit: "{call}",
		Description: "How many calls may be worked on at once",
	}
	metricInFlight = &gatemesh.Metric{
		Name: "gatemesh.limiter.in_flight", Kind: gatemesh.MetricAmount, Unit: "{call}",
		Description: "Calls that are worked on",
	}
	metricWaiting = &gatemesh.Metric{
		Name: "gatemesh.limiter.waiting", Kind: gatemesh.MetricAmount, Unit: "{call}",
		Description: "Calls that wait for their turn",
	}
	metricLimiterCalls = &gatemesh.Metric{
		Name: "gatemesh.limiter.calls", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls that came to the limiter",
	}
	metricExempt = &gatemesh.Metric{
		Name: "gatemesh.limiter.exempt", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls that were not limited",
	}
	metricWaited = &gatemesh.Metric{
		Name: "gatemesh.limiter.waited", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls that had to wait",
	}
	metricOverloaded = &gatemesh.Metric{
		Name: "gatemesh.limiter.refused", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls that the limiter has refused",
	}
	limiterMetrics = []*gatemesh.Metric{metricLimit, metricInFlight, metricWaiting, metricLimiterCalls, metricExempt, metricWaited, metricOverloaded}
)

// Metrics implements [gatemesh.Measurable].
func (*Limiter) Metrics() []*gatemesh.Metric { return limiterMetrics }

// Measure tells what [Limiter.Stats] returns.
func (l *Limiter) Measure(tell gatemesh.Tell) {
	if l.engine.Load() == nil {
		return
	}
	s, none := l.Stats(), gatemesh.Labels{}
	tell(metricLimit, none, float64(s.Limit))
	tell(metricInFlight, none, float64(s.InFlight))
	tell(metricWaiting, none, float64(s.Waiting))
	tell.Count(metricLimiterCalls, none, s.Calls)
	tell.Count(metricExempt, none, s.Exempt)
	tell.Count(metricWaited, none, s.Waited)
	tell.Count(metricOverloaded, none, s.Refused)
}
