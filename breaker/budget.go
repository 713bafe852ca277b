package breaker

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// reserveSeconds is how much of what is lent a destination has at once, so
	// that a burst of calls to a quiet service can be retried.
	reserveSeconds = 6
	// budgetCap bounds what a good time saves up for a bad one.
	budgetCap = 100
)

// reserveOf returns how many retries are lent at most.
func reserveOf(perSecond float64) float64 { return max(1, perSecond*reserveSeconds) }

// budget is how many retries the calls to a destination have earned, and what
// was lent to them.
type budget struct {
	used  atomic.Bool
	alive atomic.Bool // whether a call went well that lend has not heard of

	calls, retried, hedged, over atomic.Uint64

	mu     sync.Mutex
	tokens float64
	debt   float64   // what was lent and not earned yet
	credit float64   // what may be lent until the next call that goes well
	last   time.Time // when lend looked last
}

func newBudget(now time.Time, perSecond float64) *budget {
	reserve := reserveOf(perSecond)
	return &budget{tokens: reserve, debt: reserve, last: now}
}

// earn credits one call. What was lent is paid back first, so that a busy service
// makes no more retries than its share.
func (b *budget) earn(share, perSecond float64) {
	if !b.used.Load() {
		b.used.Store(true)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	paid := min(share, b.debt)
	b.debt -= paid
	b.tokens = min(b.tokens+share-paid, max(budgetCap, reserveOf(perSecond)))
}

// lend fills the reserve up with what the time since it looked last is worth, and
// no more than a reserve until another call goes well: to try again what always
// fails helps nobody. The debt is no more than that, either, as a busy time need
// not pay for a quiet hour.
func (b *budget) lend(now time.Time, perSecond float64) {
	reserve := reserveOf(perSecond)
	if b.alive.Load() {
		b.alive.Store(false)
		b.credit = reserve
	}
	since := now.Sub(b.last)
	if since <= 0 { // callers look at the clock before they get here
		return
	}
	b.last = now
	if lent := min(since.Seconds()*perSecond, reserve-b.tokens, b.credit); lent > 0 {
		b.tokens += lent
		b.credit -= lent
		b.debt = min(b.debt+lent, reserve)
	}
}

// almost is a little less than one, as ten times a tenth is.
const almost = 1 - 1e-6

// spend takes a retry, if there is one.
func (b *budget) spend(now time.Time, perSecond float64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lend(now, perSecond)
	if b.tokens < almost {
		return false
	}
	b.tokens--
	return true
}

// available returns how many times spend would succeed.
func (b *budget) available(now time.Time, perSecond float64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lend(now, perSecond)
	return int(b.tokens + 1 - almost)
}

// left returns how many retries there are.
func (b *budget) left() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tokens
}
