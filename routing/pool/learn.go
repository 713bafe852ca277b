package pool

import (
	"fmt"
	"slices"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// learn takes in what a lookup with v found at now.
func (p *Pool) learn(v *version, addrs []string, err error, now time.Time) {
	var found []string
	total := 0
	if err == nil {
		found, total, err = canonical(addrs, v.MaxEndpoints)
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
func (p *Pool) succeeded(s *state, found []string, total int, now time.Time) (e gatemesh.Event) {
	if !slices.EqualFunc(s.endpoints, found, func(e *Endpoint, addr string) bool { return e.addr == addr }) {
		p.state.Store(&state{s.version, p.merge(s, found, now)})
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

// merge returns an Endpoint for each of found, which is in order: those of s
// that stay, those that were lost a short time ago, and new ones.
func (p *Pool) merge(s *state, found []string, now time.Time) []*Endpoint {
	merged := make([]*Endpoint, len(found))
	keep := func(e *Endpoint) bool {
		i, ok := slices.BinarySearch(found, e.addr)
		if ok {
			merged[i] = e
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
	for i, addr := range found {
		if merged[i] == nil {
			merged[i] = &Endpoint{addr: addr, pool: p}
		}
	}
	return merged
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
		p.state.Store(&state{s.version, p.merge(s, nil, now)})
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
