package breaker

import (
	"hash/maphash"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// strangers bounds what callers for whom nobody vouches can say against a
// callee. Whoever finds a request that makes it fail could otherwise keep it
// from everybody, without as much as a token.
type strangers struct {
	since  time.Time
	counts [64]uint8 // failures, by the hash of the caller
	any    bool      // whether counts are not all zero
	prober uint64    // whose probe has failed, if the latest did
}

var seed = maphash.MakeSeed()

// stranger returns what to know the client by that an outbound call is made
// for, or 0 if the call is not made for an unauthenticated one.
func stranger(c *gatemesh.Call) uint64 {
	if c == nil {
		return 0
	}
	in := c.Parent()
	if in == nil || in.Principal() != nil || in.Peer() != nil || !in.Client().IsValid() {
		return 0
	}
	return maphash.Comparable(seed, gatemesh.ClientNetwork(in.Client(), 64)) | 1<<63
}

// hear reports whether a failure of a call for from counts: in a window, those of
// one stranger are no more than a quarter of the failures that open the breaker,
// but at least one; so two windows, which may both be within one of the breaker's,
// make no more than half. Two strangers that share a count are taken for one,
// which errs towards a breaker that is closed.
func (s *strangers) hear(from uint64, t trips, now time.Time) bool {
	if from == 0 {
		return true
	}
	most := t.failures
	if t.rate > 0 {
		most = int(t.rate * float64(t.minCalls))
		if now.Sub(s.since) >= t.window {
			s.forget()
			s.since = now
		}
	}
	n := &s.counts[from%uint64(len(s.counts))]
	if int(*n) >= max(1, min(most/4, 255)) {
		return false
	}
	*n++
	s.any = true
	return true
}

func (s *strangers) forget() {
	if s.any {
		s.counts, s.any = [len(s.counts)]uint8{}, false
	}
}
