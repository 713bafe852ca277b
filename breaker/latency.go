package breaker

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// latencyMin is how many answers there must have been for a quantile.
	latencyMin = 20
	// latencyMax is at how many all counts are halved, so that old answers are
	// forgotten.
	latencyMax = 1024
)

// latencies counts how long answers took, in steps of an eighth.
type latencies struct {
	used atomic.Bool

	mu     sync.Mutex
	total  int
	counts [34 * 8]uint16 // from microseconds to hours
}

func latencyBucket(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	n := bits.Len64(us)
	if n <= 3 {
		return int(us)
	}
	return min((n-3)*8+int(us>>(n-4)&7), len(latencies{}.counts)-1)
}

// latencyOf returns the upper end of bucket i.
func latencyOf(i int) time.Duration {
	if i < 8 {
		return time.Duration(i+1) * time.Microsecond
	}
	n := i/8 + 3
	return time.Duration((8+uint64(i%8)+1)<<(n-4)) * time.Microsecond
}

func (l *latencies) add(d time.Duration) {
	if !l.used.Load() {
		l.used.Store(true)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[latencyBucket(d)]++
	if l.total++; l.total < latencyMax {
		return
	}
	l.total = 0
	for i := range l.counts {
		l.counts[i] /= 2
		l.total += int(l.counts[i])
	}
}

// quantile returns a time within which the share q of the answers came, or false
// if there were too few.
func (l *latencies) quantile(q float64) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total < latencyMin {
		return 0, false
	}
	left := int(q * float64(l.total))
	for i, n := range l.counts {
		if left -= int(n); left < 0 {
			return latencyOf(i), true
		}
	}
	return 0, false
}
