package mtls

import (
	"time"

	"github.com/gatemesh-go/gatemesh"
)

var (
	_ gatemesh.Measurable = (*TLS)(nil)
	_ gatemesh.Measurable = (*Edge)(nil)
)

var (
	metricRemaining = &gatemesh.Metric{
		Name: "gatemesh.mtls.certificate.remaining", Kind: gatemesh.MetricGauge, Unit: "s",
		Description: "Time until our certificate ends; negative when it has",
	}
	metricPlainText = &gatemesh.Metric{
		Name: "gatemesh.mtls.plain_text", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls that were admitted in plain text",
	}
	metricMissing = &gatemesh.Metric{
		Name: "gatemesh.mtls.missing", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls that were refused because they came without a certificate",
	}
	metricTurnedAway = &gatemesh.Metric{
		Name: "gatemesh.mtls.refused", Kind: gatemesh.MetricCounter, Unit: "{handshake}",
		Description: "Verified workloads that were turned away in the handshake",
	}
	tlsMetrics  = []*gatemesh.Metric{metricRemaining, metricPlainText, metricMissing, metricTurnedAway}
	edgeMetrics = []*gatemesh.Metric{metricRemaining}
)

// Metrics implements [gatemesh.Measurable].
func (*TLS) Metrics() []*gatemesh.Metric { return tlsMetrics }

// Measure tells when our certificate ends, by who we are, and the counts of
// [TLS.Status]. As that, it tells the Observer of a certificate that nobody
// renews.
func (t *TLS) Measure(tell gatemesh.Tell) {
	s := t.Status()
	if !s.NotAfter.IsZero() {
		tell(metricRemaining, gatemesh.Labels{Name: s.ID.String()}, time.Until(s.NotAfter).Seconds())
	}
	none := gatemesh.Labels{}
	tell.Count(metricPlainText, none, s.PlainText)
	tell.Count(metricMissing, none, s.Missing)
	tell.Count(metricTurnedAway, none, t.refused.Load())
}

// Metrics implements [gatemesh.Measurable].
func (*Edge) Metrics() []*gatemesh.Metric { return edgeMetrics }

// Measure tells when each certificate ends, by [EdgeStatus.From].
func (e *Edge) Measure(tell gatemesh.Tell) {
	for _, s := range e.Status() {
		tell(metricRemaining, gatemesh.Labels{Name: s.From}, time.Until(s.NotAfter).Seconds())
	}
}
