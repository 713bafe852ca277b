package pool

import "time"

// mayBeOut returns how many of n endpoints may be ejected. One always stays.
func mayBeOut(n, percent int) int { return max(0, min(n*percent/100, n-1)) }

// ejectFor returns how long an endpoint is out that was ejected repeats times
// before, the last time until lastOut, and how often it was from now on.
func ejectFor(cfg *Ejection, now, lastOut, repeats int64) (d time.Duration, again int64) {
	if now-lastOut >= int64(cfg.Max) {
		repeats = 0
	}
	d = cfg.Base
	for i := int64(0); i < repeats && d < cfg.Max; i++ {
		d *= 2
	}
	return min(d, cfg.Max), min(repeats+1, 32)
}

// eject takes e out unless too many are out already, or it is not alone with
// its failures: then they are those of the requests, or of what all endpoints
// depend on, and others would answer no better.
func (p *Pool) eject(e *Endpoint, began, now int64, unreachable bool) {
	p.ejecting.Lock()
	defer p.ejecting.Unlock()
	if began < e.out.Load() { // another attempt was faster
		return
	}
	s := p.state.Load()
	out, failing, member := 0, 0, false
	for _, o := range s.endpoints {
		member = member || o == e
		if o.failures.Load() > 0 {
			failing++ // e, too
		}
		if o.out.Load() > now {
			out++
		}
	}
	cfg := &s.version.Ejection
	if !member || out >= mayBeOut(len(s.endpoints), cfg.MaxPercent) {
		return
	}
	if !unreachable && 2*failing > len(s.endpoints) {
		return
	}
	d, repeats := ejectFor(cfg, now, e.out.Load(), e.repeats.Load())
	e.repeats.Store(repeats)
	until := now + int64(d)
	// Back in, the next failure of any kind is one too many.
	e.failures.Store(max(e.failures.Load(), int64(cfg.Failures)))
	p.lastOut.Store(max(p.lastOut.Load(), until)) // first: choose looks there first
	e.out.Store(until)
}

// anyOut reports whether an endpoint may be ejected at now, so that choosing
// need not look at each while all is well.
func (p *Pool) anyOut(now int64) bool { return p.lastOut.Load() > now }
