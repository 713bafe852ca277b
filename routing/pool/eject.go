package pool

import (
	"fmt"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// reason is why an endpoint was ejected.
type reason int32

const (
	reasonFailures reason = iota + 1
	reasonRate
	reasonUnreachable
	reasons
)

func (r reason) String() string {
	switch r {
	case reasonFailures:
		return "attempts have failed in a row"
	case reasonRate:
		return "more attempts have failed than at others"
	case reasonUnreachable:
		return "it cannot be connected to"
	}
	return ""
}

// mayBeOut returns how many of n endpoints may be ejected. One always stays.
func mayBeOut(n, percent int) int { return max(0, min(max(n*percent/100, 1), n-1)) }

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

// worked takes in an attempt that went well.
func (e *Endpoint) worked(at int64) {
	if e.failures.Load() != 0 {
		e.failures.Store(0)
	}
	e.recent.add(at, e.pool.state.Load().version.Ejection.Window, false)
}

// failed counts a failure of an attempt that began at began, and ejects e if it
// was one too many.
func (e *Endpoint) failed(began, at int64, unreachable bool) {
	s := e.pool.state.Load()
	cfg := &s.version.Ejection
	e.failedAt.Store(at)
	n := e.failures.Add(1)
	e.recent.add(at, cfg.Window, true)
	if cfg.Disable {
		return
	}
	switch {
	case unreachable:
		e.pool.eject(e, began, at, reasonUnreachable)
	case n >= int64(cfg.Failures):
		e.pool.eject(e, began, at, reasonFailures)
	default:
		if failed, all := e.recent.at(at, cfg.Window); all >= cfg.MinSamples && failed*100 >= all*cfg.FailurePercent {
			e.pool.eject(e, began, at, reasonRate)
		}
	}
}

// eject takes e out unless too many are out already, or it is not alone with
// its failures: then they are those of the requests, or of what all endpoints
// depend on, and others would answer no better.
func (p *Pool) eject(e *Endpoint, began, now int64, why reason) {
	s, d := p.tryEject(e, began, now, why)
	if d == 0 {
		return
	}
	p.dropIdle(e)
	p.tellChange(s.version, gatemesh.Event{
		Kind:    gatemesh.EventFault,
		Message: fmt.Sprintf("the endpoint %s is ejected for %v: %v", e.addr, d, why),
	})
	select {
	case p.outs <- struct{}{}: // whoever tells of returns
	default:
	}
}

func (p *Pool) tryEject(e *Endpoint, began, now int64, why reason) (s *state, d time.Duration) {
	p.ejecting.Lock()
	defer p.ejecting.Unlock()
	s = p.state.Load()
	if began < e.out.Load() { // an attempt that was under way when e was ejected says nothing new
		return s, 0
	}
	cfg := &s.version.Ejection
	out, failing, member := 0, 0, false
	othersFailed, others := 0, 0
	for _, o := range s.endpoints {
		same := o.measured == e.measured
		member = member || same
		if o.failures.Load() > 0 {
			failing++ // e, too
		}
		if !o.isIn(now) {
			out++
		}
		if why == reasonRate && !same {
			failed, all := o.recent.at(now, cfg.Window)
			othersFailed, others = othersFailed+failed, others+all
		}
	}
	if e.unhealthy.Load() {
		out-- // it is out already
	}
	if !member || out >= mayBeOut(len(s.endpoints), cfg.MaxPercent) {
		return s, 0
	}
	switch why {
	case reasonFailures:
		if 2*failing > len(s.endpoints) {
			return s, 0
		}
	case reasonRate:
		if failed, all := e.recent.at(now, cfg.Window); !cfg.isOutlier(failed, all, othersFailed, others) {
			return s, 0
		}
	}
	d, repeats := ejectFor(cfg, now, e.out.Load(), e.repeats.Load())
	e.repeats.Store(repeats)
	e.ejections.Add(1)
	p.counts.ejected[why].Add(1)
	e.reason.Store(int32(why))
	e.told.Store(true)
	// Back in, the next failure of any kind is one too many.
	e.failures.Store(max(e.failures.Load(), int64(cfg.Failures)))
	e.out.Store(now + int64(d))
	p.changes.Add(1)
	return s, d
}
