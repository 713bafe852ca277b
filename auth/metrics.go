package auth

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
)

var (
	_ gatemesh.Measurable = (*Authenticator)(nil)
	_ gatemesh.Measurable = (*JWKS)(nil)
)

var (
	metricLookups = &gatemesh.Metric{
		Name: "gatemesh.auth.cache.lookups", Kind: gatemesh.MetricCounter, Unit: "{lookup}",
		Description: "Tokens that were looked up among the verified ones: hit, or miss and then verified",
	}
	metricTokens = &gatemesh.Metric{
		Name: "gatemesh.auth.cache.tokens", Kind: gatemesh.MetricAmount, Unit: "{token}",
		Description: "Verified tokens that are remembered",
	}
	metricMaxTokens = &gatemesh.Metric{
		Name: "gatemesh.auth.cache.limit", Kind: gatemesh.MetricGauge, Unit: "{token}",
		Description: "How many verified tokens there is room for",
	}
	metricKeys = &gatemesh.Metric{
		Name: "gatemesh.auth.jwks.keys", Kind: gatemesh.MetricAmount, Unit: "{key}",
		Description: "Keys of the set that are in use",
	}
	metricAge = &gatemesh.Metric{
		Name: "gatemesh.auth.jwks.age", Kind: gatemesh.MetricGauge, Unit: "s",
		Description: "Time since the key set was last fetched",
	}
	metricFetches = &gatemesh.Metric{
		Name: "gatemesh.auth.jwks.fetches", Kind: gatemesh.MetricCounter, Unit: "{fetch}",
		Description: "Fetches of the key set that have ended",
	}

	breakerMetrics = (*breaker.Breaker)(nil).Metrics()
	authMetrics    = slices.Concat([]*gatemesh.Metric{metricLookups, metricTokens, metricMaxTokens}, breakerMetrics)
	jwksMetrics    = slices.Concat([]*gatemesh.Metric{metricKeys, metricAge, metricFetches}, breakerMetrics)
)

// fetchEnds are how a fetch of keys ends, as labels.
var fetchEnds = [...]string{"good", "failed"}

// counts outlive configurations.
type counts struct {
	misses atomic.Uint64
	// hits are many and fast, and must not have all cores write to one place.
	hits [16]struct {
		atomic.Uint64
		_ [56]byte
	}
}

func (c *counts) hit() { c.hits[rand.Uint32()%uint32(len(c.hits))].Add(1) }

// Metrics implements [gatemesh.Measurable].
func (*Authenticator) Metrics() []*gatemesh.Metric { return authMetrics }

// Measure tells how the cache of verified tokens is used, and the state of the
// breaker of [Opaque]. It tells nothing of single tokens, keys or users.
func (a *Authenticator) Measure(tell gatemesh.Tell) {
	s := a.state.Latest()
	if s == nil {
		return
	}
	var hits, tokens uint64
	for i := range s.counts.hits {
		hits += s.counts.hits[i].Load()
	}
	for i := range s.cache.shards {
		of := &s.cache.shards[i]
		of.mu.Lock()
		tokens += uint64(len(of.ring))
		of.mu.Unlock()
	}
	tell.Count(metricLookups, gatemesh.Labels{State: "hit"}, hits)
	tell.Count(metricLookups, gatemesh.Labels{State: "miss"}, s.counts.misses.Load())
	tell.Count(metricTokens, gatemesh.Labels{}, tokens)
	tell(metricMaxTokens, gatemesh.Labels{}, float64(s.cfg.CacheEntries))
	if s.opaque != nil {
		s.opaque.breaker.Measure(tell)
	}
}

// Metrics implements [gatemesh.Measurable].
func (*JWKS) Metrics() []*gatemesh.Metric { return jwksMetrics }

// Measure tells how old the keys are and how the fetches end, by where they come
// from, and the state of the breaker before them.
func (j *JWKS) Measure(tell gatemesh.Tell) {
	v := j.version.Load()
	if v == nil {
		return
	}
	l, now := gatemesh.Labels{Name: v.name}, time.Now()
	tell(metricKeys, l, float64(j.Keys(now).Len()))
	if f := j.current.Load(); f != nil {
		tell(metricAge, l, now.Sub(f.seen).Seconds())
	}
	for i, state := range fetchEnds {
		l.State = state
		tell.Count(metricFetches, l, j.fetches[i].Load())
	}
	v.breaker.Measure(tell)
}
