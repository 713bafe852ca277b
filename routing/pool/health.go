package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// probe is what is known of the checks of one endpoint.
type probe struct {
	endpoint       *Endpoint
	due            time.Time
	busy           bool
	passed, failed int // in a row
}

// answer is how a check has ended.
type answer struct {
	of  *probe
	err error
}

// take takes in a check that ended with err, and reports whether the endpoint,
// which was unhealthy or not, is otherwise from now on.
func (pr *probe) take(h *Health, unhealthy bool, err error) (changed bool) {
	if err != nil {
		pr.passed = 0
		pr.failed = min(pr.failed+1, h.Unhealthy)
		return !unhealthy && pr.failed == h.Unhealthy
	}
	pr.failed = 0
	pr.passed = min(pr.passed+1, h.Healthy)
	return unhealthy && pr.passed == h.Healthy
}

// checks asks the endpoints of p while v is in use. It starts one goroutine for
// each check, and waits for all before it returns.
func (p *Pool) checks(v *version) {
	h := &v.Health
	asker := newAsker(h)
	defer asker.close()
	changed := make(chan struct{}, 1)
	defer p.Watch(func([]*Endpoint) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()
	probes := map[*measured]*probe{}
	answers := make(chan answer)
	busy := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for v.ctx.Err() == nil {
		now := time.Now()
		probes = p.probes(probes, h, now)
		next := now.Add(time.Hour)
		for _, pr := range probes {
			switch {
			case pr.busy:
			case pr.due.After(now):
				next = earlier(next, pr.due)
			case busy < h.Concurrency:
				busy++
				pr.busy = true
				pr.due = now.Add(h.Interval - rand.N(h.Interval/5))
				go func() { answers <- answer{pr, asker.ask(v.ctx, pr.endpoint.addr)} }()
			}
		}
		timer.Reset(time.Until(next))
		select {
		case <-v.ctx.Done():
		case <-timer.C:
		case <-changed:
		case a := <-answers:
			busy--
			a.of.busy = false
			p.judge(v, a)
		}
	}
	for ; busy > 0; busy-- {
		<-answers
	}
}

// probes returns one for each endpoint there is now: those of old that stay, and
// new ones, whose first checks are spread over a second.
func (p *Pool) probes(old map[*measured]*probe, h *Health, now time.Time) map[*measured]*probe {
	list := p.state.Load().endpoints
	all := make(map[*measured]*probe, len(list))
	for _, e := range list {
		pr := old[e.measured]
		if pr == nil {
			pr = &probe{due: now.Add(rand.N(min(h.Interval, time.Second)))}
		}
		pr.endpoint = e
		all[e.measured] = pr
	}
	return all
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// judge takes in an answer, unless v is no longer in use: then it may be that of
// a check that was broken off.
func (p *Pool) judge(v *version, a answer) {
	e := a.of.endpoint
	if v.ctx.Err() != nil || !a.of.take(&v.Health, e.unhealthy.Load(), a.err) {
		return
	}
	if a.err == nil {
		e.wellAt.Store(p.clock(time.Now()))
		e.unhealthy.Store(false)
		p.changes.Add(1)
		p.tellChange(v, gatemesh.Event{Kind: gatemesh.EventNotice, Message: "the endpoint " + e.addr + " is healthy again"})
		return
	}
	e.unhealthy.Store(true)
	p.changes.Add(1)
	p.dropIdle(e)
	p.tellChange(v, gatemesh.Event{Kind: gatemesh.EventFault, Message: "the endpoint " + e.addr + " is unhealthy", Err: a.err})
}

// watchHealth starts the checks of v, if it has any, and else forgets what those
// before have found. Its caller holds p.mu, so that Close waits for it.
func (p *Pool) watchHealth(v *version) {
	if v.Health.Check != NoCheck {
		p.checking.Go(func() { p.checks(v) })
		return
	}
	forget := func(e *Endpoint) { e.unhealthy.Store(false) }
	for _, e := range p.state.Load().endpoints {
		forget(e)
	}
	for _, l := range p.lost {
		forget(l.Endpoint)
	}
	p.changes.Add(1)
}

var errCheckPanicked = errors.New("the health check panicked")

// ask makes one check. Whatever the transport does, it ends.
func (a *asker) ask(ctx context.Context, addr string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", errCheckPanicked, v)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	switch a.Check {
	case CheckTCP:
		return a.connect(ctx, addr)
	case CheckGRPC:
		return a.askGRPC(ctx, addr)
	}
	return a.askHTTP(ctx, addr)
}
