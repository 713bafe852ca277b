package pool

import (
	"math"
	"sync/atomic"
	"time"
)

// decay is the time in which an old sample loses all but 1/e of its weight.
const decay = 10 * time.Second

// latency is a peak EWMA: a sample above the average replaces it, one below
// lowers it the more, the older the average is. Read without new samples it
// sinks, so that an endpoint which was slow gets another try.
//
// Average and time stand in one word, so that neither reading nor writing takes
// a lock: the upper half is the average in ns as a float32, the lower half the
// time in ms, which may wrap. 0 is no sample. The times are those of the pool's
// clock.
type latency struct{ word atomic.Uint64 }

func pack(average float64, at int64) uint64 {
	f := math.Float32bits(float32(max(average, 1))) // so that a sample never is 0
	return uint64(f)<<32 | uint64(uint32(at/int64(time.Millisecond)))
}

func unpack(word uint64) (average float64, ms uint32) {
	return float64(math.Float32frombits(uint32(word >> 32))), uint32(word)
}

// The factors of weight: of single ms, and of multiples of 256 of them.
var fine, coarse = func() (fine, coarse [256]float64) {
	for i := range fine {
		fine[i] = math.Exp(-float64(i) / float64(decay/time.Millisecond))
		coarse[i] = math.Exp(-float64(i<<8) / float64(decay/time.Millisecond))
	}
	return fine, coarse
}()

// weight is what is left at the time at of a sample of the time ms, e to the
// power of -passed/decay.
func weight(ms uint32, at int64) float64 {
	return left(int32(uint32(at/int64(time.Millisecond)) - ms))
}

// left is what is left of a sample after passed ms.
func left(passed int32) float64 {
	switch {
	case passed <= 0: // another goroutine has a later time
		return 1
	case passed>>8 >= int32(len(coarse)):
		return math.Exp(-float64(passed) / float64(decay/time.Millisecond))
	}
	return coarse[passed>>8] * fine[passed&0xff]
}

// at returns the average in ns, or 0 if there is no sample.
func (l *latency) at(at int64) float64 {
	word := l.word.Load()
	if word == 0 {
		return 0
	}
	average, ms := unpack(word)
	return average * weight(ms, at)
}

// compare returns the averages of a and b at the time of the later sample of the
// two, or 0 for one that has none. Both have sunk by the same factor since, so
// that it is not necessary to know what time it is.
func compare(a, b *latency) (ofA, ofB float64) {
	wordA, wordB := a.word.Load(), b.word.Load()
	ofA, msA := unpack(wordA)
	ofB, msB := unpack(wordB)
	switch {
	case wordA == 0 || wordB == 0:
	case int32(msA-msB) > 0:
		ofB *= left(int32(msA - msB))
	default:
		ofA *= left(int32(msB - msA))
	}
	return ofA, ofB
}

// change replaces the average by what next makes of it.
func (l *latency) change(at int64, next func(average, weight float64) float64) {
	for {
		old := l.word.Load()
		var average, w float64
		if old != 0 {
			var ms uint32
			average, ms = unpack(old)
			w = weight(ms, at)
		}
		n := next(average, w)
		if n == 0 || l.word.CompareAndSwap(old, pack(n, at)) {
			return
		}
	}
}

// observe adds a sample.
func (l *latency) observe(at int64, took time.Duration) {
	sample := float64(took)
	l.change(at, func(average, w float64) float64 {
		if sample >= average*w {
			return sample
		}
		return average*w + sample*(1-w)
	})
}

// atLeast adds that an answer takes longer than took.
func (l *latency) atLeast(at int64, took time.Duration) {
	l.change(at, func(average, w float64) float64 { return max(average*w, float64(took)) })
}

// failed adds a failure after took. It is no first sample, and keeps the
// average from sinking.
func (l *latency) failed(at int64, took time.Duration) {
	l.change(at, func(average, _ float64) float64 {
		if average == 0 {
			return 0
		}
		return max(average, float64(took))
	})
}
