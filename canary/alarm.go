package canary

import (
	"math"
	"time"
)

// alarm is a verdict against the canary that is still to be confirmed. Failures
// come in bursts, as when a node restarts, and a burst is no proof, however many
// calls it has hit: what was found must go on behind the moment it was found at.
type alarm struct {
	on    bool
	since uint64  // as in the State that it is about
	low   samples // what is not behind it: the least that the sums have been
}

// judge is [Analysis.find], where a verdict against the canary takes that those
// calls which ended since it was first found leave it in doubt at least.
func (r *alarm) judge(a *Analysis, s *samples, limits *[len(quantiles)]time.Duration, names [2]string, since uint64) finding {
	f := a.find(s, limits, names)
	switch {
	case f.quality != bad:
		r.on = false
		return f
	case !r.on || r.since != since:
		*r = alarm{on: true, since: since, low: *s}
	}
	r.low.lower(s) // parts of the window have gone
	if a.weigh(s.minus(&r.low), limits, names).quality == good {
		return finding{doubtful, f.text + "; to be confirmed"}
	}
	return f
}

// each calls f with all counts of s and t.
func (s *samples) each(t *samples, f func(s, t *uint32)) {
	for v := range s {
		for g := range s[v].Groups {
			for i := range s[v].Groups[g] {
				f(&s[v].Groups[g][i], &t[v].Groups[g][i])
			}
		}
		for i := range s[v].Latencies {
			f(&s[v].Latencies[i], &t[v].Latencies[i])
		}
	}
}

// add adds t to s.
func (s *samples) add(t *samples) {
	s.each(t, func(s, t *uint32) { *s = uint32(min(uint64(*s)+uint64(*t), math.MaxUint32)) })
}

// lower lowers what is more in s than in t.
func (s *samples) lower(t *samples) { s.each(t, func(s, t *uint32) { *s = min(*s, *t) }) }

// minus returns what is more in s than in t.
func (s *samples) minus(t *samples) *samples {
	d := *s
	d.each(t, func(d, t *uint32) { *d -= min(*d, *t) })
	return &d
}
