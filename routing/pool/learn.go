package pool

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// learn takes in what a lookup with v found at now.
func (p *Pool) learn(v *version, targets []Target, err error, now time.Time) {
	var found []Target
	total := 0
	if err == nil {
		found, total, err = canonical(targets, v.Selector, v.MaxEndpoints)
	}
	if err == nil && total == 0 {
		err = errNobody
	}
	p.mu.Lock()
	s := p.state.Load()
	if s.version != v { // replaced in the meantime
		p.mu.Unlock()
		return
	}
	var e gatemesh.Event
	p.counts.looked[outcomeOf(err)].Add(1)
	if err == nil {
		e = p.succeeded(s, found, total, now)
	} else {
		e = p.failed(s, err, now)
	}
	p.forget(v, now)
	p.mu.Unlock()
	p.tellWatchers()
	if e.Kind != 0 && v.Observer != nil {
		e.Layer = "pool " + v.Name
		v.Observer.Observe(p.ctx, e)
	}
}

// succeeded makes found the endpoints. It returns what is new to say, if
// anything. Its caller holds p.mu.
func (p *Pool) succeeded(s *state, found []Target, total int, now time.Time) (e gatemesh.Event) {
	if !slices.EqualFunc(s.endpoints, found, (*Endpoint).is) {
		p.use(s.version, p.merge(s, found, now))
	}
	crowded := total > len(found)
	switch {
	case crowded && !p.crowded:
		e.Kind = gatemesh.EventFault
		e.Message = fmt.Sprintf("only the first %d of %d endpoints are used", len(found), total)
	case p.failing != nil:
		e.Kind, e.Message = gatemesh.EventNotice, "endpoints can be looked up again"
	}
	p.failing, p.crowded, p.seen = nil, crowded, now
	closeOnce(p.first)
	closeOnce(p.ready)
	return e
}

// lostEndpoint is one whose address is no longer found, and since when. A DNS
// answer may leave an address out and have it again in the next: what the
// endpoint has shown by then, and its ejection, would be forgotten each time.
type lostEndpoint struct {
	*Endpoint
	since time.Time
}

// is reports whether e is as t says.
func (e *Endpoint) is(t Target) bool {
	return e.addr == t.Address && e.zone == t.Zone && e.weight == t.Weight
}

// merge returns an Endpoint for each of found, which is in order: those of s
// that stay, those that were lost a short time ago, and new ones.
func (p *Pool) merge(s *state, found []Target, now time.Time) []*Endpoint {
	merged := make([]*Endpoint, len(found))
	keep := func(e *Endpoint) bool {
		i, ok := slices.BinarySearchFunc(found, e.addr, func(t Target, addr string) int { return cmp.Compare(t.Address, addr) })
		switch {
		case !ok:
		case e.is(found[i]):
			merged[i] = e
		default:
			merged[i] = p.endpoint(found[i], e.measured)
		}
		return ok
	}
	p.forget(s.version, now)
	p.lost = slices.DeleteFunc(p.lost, func(l lostEndpoint) bool { return keep(l.Endpoint) })
	for _, e := range s.endpoints {
		if !keep(e) {
			p.lost = append(p.lost, lostEndpoint{e, now})
		}
	}
	joined := p.clock(now)
	if p.seen.IsZero() { // nobody was there before them
		joined = math.MinInt64 / 2
	}
	for i, t := range found {
		if merged[i] == nil {
			merged[i] = p.endpoint(t, &measured{joined: joined})
		}
	}
	return merged
}

func (p *Pool) endpoint(t Target, m *measured) *Endpoint {
	return &Endpoint{addr: t.Address, zone: t.Zone, weight: t.Weight, pool: p, measured: m}
}

// forget drops the endpoints that were lost so long ago that every ejection has
// ended, and the first ones of too many. Its caller holds p.mu.
func (p *Pool) forget(v *version, now time.Time) {
	p.lost = slices.DeleteFunc(p.lost, func(l lostEndpoint) bool { return now.Sub(l.since) >= v.Ejection.Max })
	p.lost = slices.Delete(p.lost, 0, max(0, len(p.lost)-v.MaxEndpoints))
}

// failed is succeeded for a lookup that found nothing.
func (p *Pool) failed(s *state, err error, now time.Time) (e gatemesh.Event) {
	stale := now.Sub(p.seen) >= s.version.MaxStale
	switch {
	case len(s.endpoints) > 0 && stale:
		p.use(s.version, p.merge(s, nil, now))
		e.Message = "endpoints cannot be looked up; the last good ones are too old and no longer used"
	case p.failing != nil: // it has been said
	case len(s.endpoints) > 0:
		e.Message = "endpoints cannot be looked up; the last good ones stay in use"
	default:
		e.Message = "endpoints cannot be looked up, there are none"
	}
	if e.Message != "" {
		e.Kind, e.Err = gatemesh.EventFault, err
	}
	p.failing = err
	closeOnce(p.first)
	return e
}

// closeOnce closes c unless it is closed. Its callers hold p.mu.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
