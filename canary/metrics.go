package canary

import (
	"slices"
	"sync/atomic"

	"github.com/gatemesh-go/gatemesh"
)

var _ gatemesh.Measurable = (*Rollout)(nil)

var (
	metricShare = &gatemesh.Metric{
		Name: "gatemesh.canary.share", Kind: gatemesh.MetricGauge, Unit: "1",
		Description: "Share of the users that the version gets",
	}
	metricCalls = &gatemesh.Metric{
		Name: "gatemesh.canary.calls", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Calls to the version that say something about it",
	}
	metricFailed = &gatemesh.Metric{
		Name: "gatemesh.canary.failed", Kind: gatemesh.MetricCounter, Unit: "{call}",
		Description: "Those of them that have failed",
	}
	metricPhase = &gatemesh.Metric{
		Name: "gatemesh.canary.phase", Kind: gatemesh.MetricAmount, Unit: "{rollout}",
		Description: "1 for the phase that the rollout is in, 0 for the others",
	}
	metricChanges = &gatemesh.Metric{
		Name: "gatemesh.canary.changes", Kind: gatemesh.MetricCounter, Unit: "{change}",
		Description: "Changes that this replica has learned of, by the phase that they led to",
	}
	metricStoreAway = &gatemesh.Metric{
		Name: "gatemesh.canary.store_away", Kind: gatemesh.MetricAmount, Unit: "{store}",
		Description: "1 while the store cannot be reached",
	}
	rolloutMetrics = []*gatemesh.Metric{metricShare, metricCalls, metricFailed, metricPhase, metricChanges, metricStoreAway}
)

var phases = [...]Phase{Running, Paused, RolledBack, Promoted}

// totals count since the Rollout was made, for metrics alone: what decides is
// counted by windows.
type totals struct {
	calls, failed [2]atomic.Uint64 // by version
	changes       [len(phases)]atomic.Uint64
}

func (t *totals) changed(to Phase) {
	if i := slices.Index(phases[:], to); i >= 0 {
		t.changes[i].Add(1)
	}
}

// Metrics implements [gatemesh.Measurable].
func (*Rollout) Metrics() []*gatemesh.Metric { return rolloutMetrics }

// Measure tells how far the rollout is, and what became of the calls to both
// versions in this process. The versions are the subsets of the destination.
func (r *Rollout) Measure(tell gatemesh.Tell) {
	s := r.status.Load()
	if s == nil {
		return
	}
	canaries := r.share.Load()
	for v, share := range [2]uint32{whole - canaries, canaries} {
		l := gatemesh.Labels{Destination: r.route.Backends[v].Destination}
		tell(metricShare, l, float64(share)/whole)
		tell.Count(metricCalls, l, r.totals.calls[v].Load())
		tell.Count(metricFailed, l, r.totals.failed[v].Load())
	}
	l := gatemesh.Labels{Destination: gatemesh.Destination{Service: r.service.name, Namespace: r.service.namespace}}
	away := 0.
	if s.StoreAway {
		away = 1
	}
	tell(metricStoreAway, l, away)
	for i, p := range phases {
		l.State = string(p)
		tell.Count(metricChanges, l, r.totals.changes[i].Load())
		in := 0.
		if s.State.Phase == p {
			in = 1
		}
		tell(metricPhase, l, in)
	}
}
