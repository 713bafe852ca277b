package ratelimit

import "time"

// window counts the calls of one key in a sliding window, by slices. A slice
// begins with a call, takes the calls of less than plan.slice, and is given
// back when its last call is as old as the period. Slices begin at least
// Per/10 apart and live for less than Per + Per/10, so that at most eleven
// exist at a time. The zero window is unused.
type window struct {
	last  [windowSlices + 1]time.Duration // of each slice, its last call
	count [windowSlices + 1]uint32        // of each slice, its calls
	first time.Duration                   // when the youngest slice began
	total uint32
	head  uint8 // the oldest slice
	n     uint8 // slices in use, from head on, around the end
}

func (w *window) take(now time.Duration, p *plan) verdict {
	w.expire(now, p.limit.Per)
	ok := int(w.total) < p.limit.Requests
	if ok {
		w.charge(now, 1, p.slice)
	}
	return verdict{
		ok:     ok,
		left:   max(0, p.limit.Requests-int(w.total)),
		wait:   w.wait(now, p),
		spent:  int(w.total),
		idleAt: now + p.limit.Per,
	}
}

func (w *window) adopt(now time.Duration, old, p *plan) counter {
	if p.limit.Burst == 0 {
		return w // the slices mean the same under every period
	}
	w.expire(now, old.limit.Per)
	return newBucket(p).spend(now, min(int(w.total), p.limit.Burst))
}

// expire gives back the slices that have left a window that ends at now.
func (w *window) expire(now, per time.Duration) {
	for w.n > 0 && now-w.last[w.head] >= per {
		w.total -= w.count[w.head]
		w.head = w.index(1)
		w.n--
	}
}

// charge adds calls to the youngest slice, or begins another.
func (w *window) charge(now time.Duration, calls uint32, slice time.Duration) {
	if w.n == 0 || now-w.first >= slice {
		if int(w.n) == len(w.last) {
			// Only after the period was raised. The oldest calls wait for
			// the next younger ones.
			w.count[w.index(1)] += w.count[w.head]
			w.head = w.index(1)
			w.n--
		}
		w.count[w.index(w.n)] = 0
		w.n++
		w.first = now
	}
	i := w.index(w.n - 1)
	w.last[i] = now
	w.count[i] += calls
	w.total += calls
}

// wait returns how long it takes until more calls can pass than at now.
func (w *window) wait(now time.Duration, p *plan) time.Duration {
	total := int(w.total)
	for k := range w.n {
		i := w.index(k)
		if total -= int(w.count[i]); total < p.limit.Requests {
			return w.last[i] + p.limit.Per - now
		}
	}
	return 0
}

// index returns where the slice is that is k younger than the oldest.
func (w *window) index(k uint8) uint8 { return (w.head + k) % (windowSlices + 1) }
