package breaker

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// budgetFloor is how many retries a destination has from the start, and
	// gets back one by one in floorEvery each, so that a quiet service can
	// retry at all.
	budgetFloor = 10
	floorEvery  = 10 * time.Second
	// budgetCap bounds what a good time saves up for a bad one.
	budgetCap = 100
)

// budget is how many retries the calls to a destination have earned.
type budget struct {
	used atomic.Bool

	mu     sync.Mutex
	tokens float64
	debt   float64   // what of the floor was not earned yet
	last   time.Time // when the floor was looked at
}

func newBudget(now time.Time) *budget {
	return &budget{tokens: budgetFloor, debt: budgetFloor, last: now}
}

// earn credits one call. The floor is an advance, so that a busy service makes no
// more retries than its share.
func (b *budget) earn(share float64) {
	if !b.used.Load() {
		b.used.Store(true)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	paid := min(share, b.debt)
	b.debt -= paid
	b.tokens = min(b.tokens+share-paid, budgetCap)
}

// spend takes a retry, if there is one.
func (b *budget) spend(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tokens < budgetFloor {
		lent := min(float64(now.Sub(b.last))/float64(floorEvery), budgetFloor-b.tokens)
		b.tokens += lent
		b.debt = min(b.debt+lent, budgetFloor)
	}
	b.last = now
	// A little less than one, as ten times a tenth is.
	if b.tokens < 1-1e-6 {
		return false
	}
	b.tokens--
	return true
}
