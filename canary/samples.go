package canary

import (
	"math"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Versions of a rollout, as indexes.
const (
	stable = iota
	canary
)

// quantiles are those of the latencies that are compared.
var quantiles = [...]float64{0.50, 0.95, 0.99}

const (
	// Callers are counted in groups, so that one of them can be left out of a
	// verdict. The last group is of those who are vouched for: our own calls,
	// and calls for workloads that act for no user.
	groups   = 17
	vouched  = groups - 1
	buckets  = 64
	fastest  = 250 * time.Microsecond // the end of the first bucket
	perTwice = 4                      // buckets from a latency to twice of it
)

// group is what a group of callers has seen of a version.
type group struct {
	calls, failed atomic.Uint32
	timed         atomic.Uint32                 // answers while limits were known
	slow          [len(quantiles)]atomic.Uint32 // those above the limit for each quantile
}

// counts are what was seen in a part of the window. It is written to by calls
// without a lock.
type counts struct {
	seed     hash // of the groups
	versions [2]struct {
		groups    [groups]group
		latencies [buckets]atomic.Uint32
	}
}

// tally is a sum of counts of one version. It is what replicas tell one another.
type tally struct {
	Groups    [groups]seen    `json:"groups"`
	Latencies [buckets]uint32 `json:"latencies"`
}

// seen is a group at rest: calls, failed, timed, and slow by quantile.
type seen [3 + len(quantiles)]uint32

const (
	nCalls = iota
	nFailed
	nTimed
	nSlow // the first of them
)

// Samples is what was seen of both versions.
type samples [2]tally

func (c *counts) read() *samples {
	var s samples
	for v := range c.versions {
		of := &c.versions[v]
		for i := range of.groups {
			g, to := &of.groups[i], &s[v].Groups[i]
			to[nCalls], to[nFailed], to[nTimed] = g.calls.Load(), g.failed.Load(), g.timed.Load()
			for q := range g.slow {
				to[nSlow+q] = g.slow[q].Load()
			}
		}
		for i := range of.latencies {
			s[v].Latencies[i] = of.latencies[i].Load()
		}
	}
	return &s
}

func bucketOf(d time.Duration) int {
	if d <= fastest {
		return 0
	}
	return min(int(math.Ceil(perTwice*math.Log2(float64(d)/float64(fastest)))), buckets-1)
}

// endOf returns the longest latency of bucket i.
func endOf(i int) time.Duration {
	return time.Duration(float64(fastest) * math.Exp2(float64(i)/perTwice))
}

// quantile returns a latency that the share q of all answers does not exceed,
// a fifth too long at most, or 0 without answers.
func (t *tally) quantile(q float64) time.Duration {
	var all, below uint64
	for _, n := range t.Latencies {
		all += uint64(n)
	}
	if all == 0 {
		return 0
	}
	for i, n := range t.Latencies {
		if below += uint64(n); float64(below) >= q*float64(all) {
			return endOf(i)
		}
	}
	return endOf(buckets - 1)
}

func (t *tally) answers() (n uint64) {
	for _, l := range t.Latencies {
		n += uint64(l)
	}
	return n
}

// groupOf returns the group of those whom c is made for. Users are known by the
// key that they are dealt by, but addresses of IPv6 by /48: who has one of
// these has 65,536 networks, and would be in every group.
func groupOf(seed hash, c *gatemesh.Call) int {
	by := c
	if c.Outbound() {
		if by = c.Parent(); by == nil {
			return vouched
		}
	}
	if by.Principal() == nil && (by.Peer() != nil || !by.Client().IsValid()) {
		return vouched
	}
	return int(seed.caller(c, 48/8).point() % vouched)
}

// verdict says what the end of a call says about who answered it.
type verdict uint8

const (
	neutral verdict = iota
	success
	failure
)

func judge(c *gatemesh.Call, o *gatemesh.Outcome) verdict {
	switch {
	case o.Canceled, o.Expired && o.Reached: // what has begun to answer is there
		return neutral
	case o.Panicked:
		if c.Outbound() { // our own transport
			return neutral
		}
		return failure
	case o.Denial != nil && !o.Reached && o.Denial.Reason != noEndpoint && !(!c.Outbound() && o.Attempts > 0 && failed(o.Denial.Code)):
		return neutral // refused by us before it was sent
	case o.Truncated:
		return failure
	case o.Status >= http.StatusInternalServerError:
		return failure
	case c.Protocol() == gatemesh.GRPC, o.Status == 0:
		if failed(o.Code) {
			return failure
		}
	}
	return success
}

// noEndpoint is the reason of a pool's Denial: a version that nobody serves any
// more has failed.
const noEndpoint = "no_endpoint"

func failed(c gatemesh.Code) bool {
	switch c {
	case gatemesh.Unavailable, gatemesh.Internal, gatemesh.Unknown, gatemesh.DeadlineExceeded, gatemesh.DataLoss:
		return true
	}
	return false
}
