package pool

import (
	"sync/atomic"
	"time"
)

// window counts the attempts of late, and how many of them have failed, in two
// halves of which one is being filled. Each stands in one word, so that counting
// takes no lock: 24 bits say which half of all times it is, 20 bits each how
// many attempts and failures there were.
type window struct{ halves [2]atomic.Uint64 }

const (
	countBits = 20
	maxCount  = 1<<countBits - 1
)

func packCounts(half uint32, failed, all uint64) uint64 {
	return uint64(half)<<(2*countBits) | failed<<countBits | all
}

func unpackCounts(word uint64) (half uint32, failed, all uint64) {
	return uint32(word >> (2 * countBits)), word >> countBits & maxCount, word & maxCount
}

// halfOf returns the number of the half that at is in. It begins with 1, so that
// an empty word belongs to none, and may wrap.
func halfOf(at int64, length time.Duration) uint32 {
	return uint32(at/int64(length/2)+1) & (1<<24 - 1)
}

// add counts an attempt that ended at at.
func (w *window) add(at int64, length time.Duration, failed bool) {
	now := halfOf(at, length)
	word := &w.halves[now%2]
	for {
		old := word.Load()
		half, bad, all := unpackCounts(old)
		if half != now {
			bad, all = 0, 0
		}
		if all == maxCount { // the share stays about the same
			bad, all = bad/2, all/2
		}
		all++
		if failed {
			bad++
		}
		if word.CompareAndSwap(old, packCounts(now, bad, all)) {
			return
		}
	}
}

// at returns what was counted in the half of at and the one before.
func (w *window) at(at int64, length time.Duration) (failed, all int) {
	now := halfOf(at, length)
	for i := range w.halves {
		half, bad, n := unpackCounts(w.halves[i].Load())
		if n > 0 && (half == now || half == (now-1)&(1<<24-1)) {
			failed, all = failed+int(bad), all+int(n)
		}
	}
	return failed, all
}

// isOutlier reports whether so many failures of an endpoint and of all others
// together show that it is the endpoint that fails.
func (cfg *Ejection) isOutlier(failed, all, othersFailed, others int) bool {
	if all < cfg.MinSamples || others < cfg.MinSamples || failed*100 < all*cfg.FailurePercent {
		return false
	}
	// failed/all >= 2 * othersFailed/others
	return int64(failed)*int64(others) >= 2*int64(othersFailed)*int64(all)
}
