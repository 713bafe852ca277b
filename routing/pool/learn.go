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
		p.state.Store(&state{s.version, p.merge(s.endpoints, found)})
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

// merge returns an Endpoint for each of found, those of old for the addresses
// that stay. Both are in order.
func (p *Pool) merge(old []*Endpoint, found []string) []*Endpoint {
	merged := make([]*Endpoint, len(found))
	i := 0
	for n, addr := range found {
		for i < len(old) && old[i].addr < addr {
			i++
		}
		if i < len(old) && old[i].addr == addr {
			merged[n] = old[i]
		} else {
			merged[n] = &Endpoint{addr: addr, pool: p}
		}
	}
	return merged
}

// failed is succeeded for a lookup that found nothing.
func (p *Pool) failed(s *state, err error, now time.Time) (e gatemesh.Event) {
	stale := now.Sub(p.seen) >= s.version.MaxStale
	switch {
	case len(s.endpoints) > 0 && stale:
		p.state.Store(&state{version: s.version})
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
