package canary

import (
	"math"
	"sync/atomic"
)

// users are the slots, of 10,000, whose users were dealt to a version. It takes
// no more memory with more users, and no name.
type users [(whole + 63) / 64]atomic.Uint64

func slotOf(point uint64) int { return int(point >> 32 * whole >> 32) }

func (u *users) add(slot int) {
	word, bit := &u[slot/64], uint64(1)<<(slot%64)
	if word.Load()&bit == 0 { // a store would take the line from the other cores
		word.Or(bit)
	}
}

func (u *users) clear() {
	for i := range u {
		u[i].Store(0)
	}
}

// in returns which of n equal parts of the line have users, by how many of
// their slots do.
func (u *users) in(n int) []int {
	parts := make([]int, n)
	for slot := range whole {
		if u[slot/64].Load()&(1<<(slot%64)) != 0 {
			parts[slot*n/whole]++
		}
	}
	return parts
}

// count estimates how many users are behind the slots seen, of those that a
// version has (linear counting, Whang et al. 1990): a hundredth off for a few
// thousand, and at least as many for some ten times the slots.
func (u *users) count(slots uint32) int {
	seen := 0
	for _, n := range u.in(1) {
		seen += n
	}
	all := float64(slots)
	if seen == 0 || all == 0 {
		return seen
	}
	empty := max(all-float64(seen), 0.5)
	return max(seen, int(math.Round(-all*math.Log(empty/all))))
}
