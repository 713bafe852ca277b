package pool

import (
	"fmt"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// nextBack tells of the endpoints that are back at now, and returns in how long
// the next one is, or a long time.
func (p *Pool) nextBack(v *version, now time.Time) time.Duration {
	at := p.clock(now)
	next := int64(time.Hour)
	for _, e := range p.state.Load().endpoints {
		if out := e.out.Load(); out > at {
			next = min(next, out-at)
		} else if e.told.CompareAndSwap(true, false) {
			p.tellChange(v, gatemesh.Event{Kind: gatemesh.EventNotice, Message: "the endpoint " + e.addr + " is back from its ejection"})
		}
	}
	return time.Duration(next)
}

// What is told of endpoints is bounded: a service that goes up and down must
// not fill a log.
const (
	maxChanges  = 20
	changesTime = 10 * time.Second
)

// changeLimit counts what was told of endpoints.
type changeLimit struct {
	mu     sync.Mutex
	since  time.Time
	told   int
	unsaid int
}

// allow reports whether something may be said at now, and how much was not said
// before.
func (l *changeLimit) allow(now time.Time) (ok bool, unsaid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= changesTime {
		unsaid = l.unsaid
		l.since, l.told, l.unsaid = now, 0, 0
	}
	if l.told == maxChanges {
		l.unsaid++
		return false, 0
	}
	l.told++
	return true, unsaid
}

func (p *Pool) tellChange(v *version, e gatemesh.Event) {
	if v.Observer == nil {
		return
	}
	ok, unsaid := p.limit.allow(time.Now())
	if !ok {
		return
	}
	if unsaid > 0 {
		e.Message += fmt.Sprintf(" (and %d changes of endpoints were not told)", unsaid)
	}
	e.Layer = "pool " + v.Name
	v.Observer.Observe(p.ctx, e)
}
