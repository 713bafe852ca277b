package auth

import (
	"maps"
	"sync"
	"time"
)

const (
	// maxKeyID bounds what is taken for a key id. Longer ones in tokens are
	// unknown and cause no fetch.
	maxKeyID = 256
	// maxWaiting bounds how many calls wait for one fetch. The others are
	// refused at once: so many come only from somebody who invents ids.
	maxWaiting = 256
	// maxMissing bounds the memory of ids that a fetch did not find, and
	// missingFor is how many cool-downs they are remembered. Those that do not
	// fit are held back by the cool-down alone.
	maxMissing = 256
	missingFor = 3
)

// plan decides when a key set is fetched. Time comes in as an argument.
//
// The cool-down is shared by all callers, so one who invents key ids can use up
// the fetch that somebody else needs. Hence an id that is asked for during the
// cool-down is not forgotten: the next fetch comes as soon as it is over.
type plan struct {
	mu       sync.Mutex
	cooldown time.Duration
	last     time.Time     // when the last fetch began
	ended    time.Time     // when the last one that was not replaced ended
	next     time.Time     // when the next one is due on schedule
	wanted   bool          // fetch as soon as the cool-down is over
	done     chan struct{} // closed when the fetch under way, or about to begin, ends
	asked    []string      // ids that wait for that fetch
	missing  map[string]time.Time
}

// ask registers a token with key id kid, which is not in the current set. If
// done is not nil, a fetch is coming whose end closes it. wake says that the
// fetching goroutine has to look at the plan.
func (p *plan) ask(now time.Time, kid string) (done <-chan struct{}, wake bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, missing := p.missing[kid]
	switch {
	case len(kid) > maxKeyID, missing && now.Before(until):
		return nil, false
	case p.done != nil: // under way
	case p.last.IsZero(), now.Sub(p.last) >= p.cooldown:
		p.done, wake = make(chan struct{}), true
	default:
		wake, p.wanted = !p.wanted, true
		return nil, wake
	}
	if len(p.asked) == maxWaiting {
		return nil, wake
	}
	p.asked = append(p.asked, kid)
	return p.done, wake
}

// begin reports whether a fetch is due, and begins it.
func (p *plan) begin(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		if p.due().After(now) {
			return false
		}
		p.done = make(chan struct{})
	}
	p.last, p.wanted = now, false
	return true
}

// end ends a fetch. found is the set that it found, or nil if it failed: then
// no id is known to be missing. The next one is due in again.
func (p *plan) end(now time.Time, found *Keys, again time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.missing, func(_ string, until time.Time) bool { return !now.Before(until) })
	for _, kid := range p.asked {
		if _, known := found.find(kid, ""); found != nil && !known && len(p.missing) < maxMissing {
			p.missing[kid] = now.Add(missingFor * p.cooldown)
		}
	}
	clear(p.asked)
	p.asked = p.asked[:0]
	p.ended, p.next = now, now.Add(max(again, p.cooldown))
	close(p.done)
	p.done = nil
}

// update changes the cool-down, which counts from the last fetch on, and when the next fetch is due: in again after
// the last one ended.
func (p *plan) update(cooldown, again time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cooldown != p.cooldown {
		clear(p.missing) // for so many of the old ones
	}
	p.cooldown = cooldown
	p.next = p.ended.Add(max(again, cooldown)) // long ago if there was none
}

// restart makes a fetch due now, from another place: what was missing from the
// old one may be there. Who waits for a fetch waits for this one.
func (p *plan) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.missing)
	if p.done == nil {
		p.done = make(chan struct{})
	}
}

// wait returns in how long a fetch is due.
func (p *plan) wait(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done != nil {
		return 0
	}
	return p.due().Sub(now)
}

func (p *plan) due() time.Time {
	if soon := p.last.Add(p.cooldown); p.wanted && soon.Before(p.next) {
		return soon
	}
	return p.next
}
