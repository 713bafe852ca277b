package ratelimit

import (
	"time"

	"golang.org/x/time/rate"
)

// windowSlices is how finely a quota divides its period.
const windowSlices = 10

// plan is a Limit made ready for counting. It is immutable.
type plan struct {
	limit Limit
	slice time.Duration // a slice of a quota spans less than this
	rate  rate.Limit    // of a token bucket
	seq   uint64        // later plans have higher numbers
}

func newPlan(l Limit, seq uint64) *plan {
	return &plan{
		limit: l,
		slice: (l.Per + windowSlices - 1) / windowSlices,
		rate:  rate.Limit(float64(l.Requests) / l.Per.Seconds()),
		seq:   seq,
	}
}

// counter holds what one key has used. now never goes backwards from one call
// to the next.
type counter interface {
	// take charges one call if the plan allows it.
	take(now time.Duration, p *plan) verdict
	// adopt returns the counter with which to go on under another plan, with
	// what was used under the old one.
	adopt(now time.Duration, old, p *plan) counter
}

func newCounter(p *plan) counter {
	if p.limit.Burst > 0 {
		return newBucket(p)
	}
	return &window{}
}

// verdict is what a counter says about a call.
type verdict struct {
	ok     bool
	lossy  bool          // calls of another key were forgotten to make room
	left   int           // how many more calls could follow at once
	wait   time.Duration // until there are more, and for a refused call until it could pass
	spent  int           // calls that are charged, this one included
	idleAt time.Duration // when all of them will have come back
}
