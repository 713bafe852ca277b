package canary

import (
	"slices"
	"time"
)

// sum adds up what the replicas have seen, our own included, and forgets those
// that are gone.
func (r *Rollout) sum(p *plan, doc *document, s State, now time.Time) *samples {
	var all samples
	if r.since == s.Since { // else what was seen is of another share
		all = *r.own()
	}
	gone := max(5*p.Interval, 2*storeTimeout)
	for id, of := range doc.Replicas {
		if id == r.id {
			continue
		}
		if of == nil {
			delete(doc.Replicas, id)
			continue
		}
		b, ok := r.beats[id]
		if !ok || b.n != of.Beat {
			b = beat{of.Beat, now}
			r.beats[id] = b
		}
		switch age := now.Sub(b.at); {
		case age > 2*gone:
			delete(doc.Replicas, id)
		case age <= gone && of.Since == s.Since:
			all.add(&of.Samples)
		}
	}
	for id := range r.beats {
		if doc.Replicas[id] == nil {
			delete(r.beats, id)
		}
	}
	return &all
}

// begin empties the window: what was seen at another share says little.
func (r *Rollout) begin(now time.Time) {
	c := r.newCounts()
	r.counts.Store(c)
	r.window, r.rotated = []*counts{c}, now
	for v := range r.users {
		r.users[v].clear()
	}
}

func (r *Rollout) newCounts() *counts { return &counts{seed: fnvOffset.add("rollout").add(r.seedText)} }

// rotate has calls counted in a new part of the window when it is time.
func (r *Rollout) rotate(p *plan, now time.Time) {
	if len(r.window) == 0 {
		r.begin(now)
	}
	if now.Sub(r.rotated) < p.Analysis.Window/parts {
		return
	}
	c := r.newCounts()
	r.counts.Store(c)
	r.window = append(r.window, c)
	r.window = slices.Clone(r.window[max(0, len(r.window)-parts):])
	r.rotated = now
}

// own returns what we have seen in the window.
func (r *Rollout) own() *samples {
	var all samples
	for _, c := range r.window {
		all.add(c.read())
	}
	return &all
}
