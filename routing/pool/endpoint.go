package pool

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Endpoint is one address that serves, and what attempts at it have shown. The
// pool keeps it for as long as lookups find its address, and for [Ejection.Max]
// after that, so that an address which comes back by then has the same Endpoint.
// Its methods are safe for concurrent use; the zero Endpoint belongs to no pool
// and is of no use.
type Endpoint struct {
	addr, zone string
	weight     int
	pool       *Pool
	*measured
}

// measured is what attempts and checks have shown. It outlives an Endpoint whose
// zone or weight has changed.
type measured struct {
	joined   int64 // when it was found first, as the pool's clock counts
	inflight atomic.Int64
	latency  latency
	failures atomic.Int64 // in a row
	failedAt atomic.Int64 // the last of them, as the pool's clock counts
	recent   window
	// out is when the ejection ends, as the pool's clock counts; 0 is never
	// ejected. It stays when it has passed, so that repeats are seen.
	out       atomic.Int64
	repeats   atomic.Int64 // ejections that make the next one longer; changed under Pool.ejecting
	ejections atomic.Int64 // all of them
	reason    atomic.Int32 // of the last one
	told      atomic.Bool  // that it is ejected, and not yet that it is back

	unhealthy atomic.Bool
	wellAt    atomic.Int64 // when it was healthy again; 0 is never
}

// Address returns "host:port".
func (e *Endpoint) Address() string { return e.addr }

// Zone returns where the endpoint runs, or "" if nobody says.
func (e *Endpoint) Zone() string { return e.zone }

// Weight returns the share of the endpoint beside others, at least 1.
func (e *Endpoint) Weight() int { return e.weight }

// String returns the address.
func (e *Endpoint) String() string { return e.addr }

// Result says how an attempt ended.
type Result uint8

// The results of attempts.
const (
	// Neutral says nothing about the endpoint: the caller went away, or the
	// attempt never left this process.
	Neutral Result = iota
	// Success is an answer, whatever it says. Its time is a sample.
	Success
	// Streamed is a success whose duration says nothing, as that of a stream.
	Streamed
	// TimedOut is no answer before the deadline. The endpoint is taken to be at
	// least that slow; it is not a failure, because callers choose deadlines.
	TimedOut
	// Failure is an answer that it cannot serve, such as HTTP 503, or none
	// because the connection broke. Its time counts only if it is slow: an
	// endpoint that fails fast must not look good.
	Failure
	// Unreachable is that no connection could be made. It ejects the endpoint
	// at once and wakes [Pool.Refresh].
	Unreachable
)

// String returns the name of r, such as "timed out".
func (r Result) String() string {
	names := [...]string{"neutral", "success", "streamed", "timed out", "failure", "unreachable"}
	if int(r) < len(names) {
		return names[r]
	}
	return "unknown"
}

// Attempt is one attempt at an endpoint. It is in flight until Done. Its
// methods are safe for concurrent use and count once, however often they are
// called.
type Attempt struct {
	endpoint *Endpoint
	began    int64        // as the pool's clock counts
	sent     atomic.Int64 // when it had a connection, or 0 if nobody has told
	judged   atomic.Bool
	done     atomic.Bool
}

// Begin counts an attempt at e that begins now. It notes e on the call in ctx,
// so that [Pool.Choose] leaves e out when the call is tried again. Done must
// follow.
func (e *Endpoint) Begin(ctx context.Context, now time.Time) *Attempt {
	a := new(Attempt)
	e.begin(ctx, now, a)
	return a
}

func (e *Endpoint) begin(ctx context.Context, now time.Time, a *Attempt) {
	a.endpoint, a.began = e, e.pool.clock(now)
	e.inflight.Add(1)
	gatemesh.RecordEndpoint(ctx, e.addr)
}

// Answered records r, whose latency is that from Begin to now. The attempt
// stays in flight. Only the first call of Answered and Done records something.
func (a *Attempt) Answered(now time.Time, r Result) {
	if !a.judged.CompareAndSwap(false, true) {
		return
	}
	e, at := a.endpoint, a.endpoint.pool.clock(now)
	took := time.Duration(at - cmp.Or(a.sent.Load(), a.began))
	switch r {
	case Success:
		e.latency.observe(at, took)
		e.worked(at)
	case Streamed:
		e.worked(at)
	case TimedOut:
		e.latency.atLeast(at, took)
	case Failure:
		e.latency.failed(at, took)
		e.failed(a.began, at, false)
	case Unreachable:
		e.latency.failed(at, took)
		e.failed(a.began, at, true)
		e.pool.Refresh()
	}
}

// Done ends the attempt, and records r unless Answered has recorded a result.
func (a *Attempt) Done(now time.Time, r Result) {
	a.Answered(now, r)
	if a.done.CompareAndSwap(false, true) {
		a.endpoint.inflight.Add(-1)
	}
}
