package gatemesh

import (
	"context"
	"runtime/debug"
	"time"
)

// A Hedger is a [Retrier] that may begin another attempt of a call while one is
// under way, as that takes long. The answer that comes first is the caller's.
type Hedger interface {
	Retrier
	// HedgeAfter is asked when an attempt begins: it returns after how long
	// without an answer another one may begin, or false for never. A panic
	// counts as false.
	HedgeAfter(ctx context.Context, c *Call) (after time.Duration, ok bool)
	// Hedge is asked when that time is over, and says whether another attempt
	// begins. A panic counts as false.
	Hedge(ctx context.Context, c *Call) bool
}

// RaceLane says which attempt of a [Race] it is.
type RaceLane uint8

// The attempts of a Race.
const (
	Alone  RaceLane = iota // there is no other one at the same time
	First                  // there may be another one
	Second                 // the other one
)

// Race is how an adapter makes an attempt, whose result is an R. There can be
// another attempt at the same time.
type Race[R any] struct {
	// Prepare returns what makes an attempt. An error forgoes it if it is the
	// Second. It is called on the goroutine of the call, and what
	// it returns perhaps on another one, with a context made of the attempt's.
	Prepare func(a *Exchange, lane RaceLane) (send func(context.Context) R, err error)
	// Judge describes the attempt that gave r, on the goroutine of the call.
	Judge func(a *Exchange, r R) Attempt
	// Drop lets go of a result that nobody wants, on any goroutine.
	Drop func(r R)
}

// raced is what came of an attempt on a goroutine of its own.
type raced[R any] struct {
	a        *Exchange
	r        R
	panicked any
	stack    []byte
}

// Run makes attempt a of the call x, and perhaps one more, and returns the one
// that stands, whose gates are still to be told how it ended. The other one is
// cancelled, and is over for its gates. A panic of an attempt goes on, after
// both are over.
func (e *Race[R]) Run(x, a *Exchange) (*Exchange, Attempt, R, error) {
	var none R
	after, ok := x.hedgeAfter(a)
	lane := Alone
	if ok {
		lane = First
	}
	send, err := e.Prepare(a, lane)
	if err != nil {
		return a, Attempt{}, none, err
	}
	if !ok {
		r := send(a.Context())
		return a, e.Judge(a, r), r, nil
	}
	results := make(chan raced[R], 2) // nobody waits to deliver
	running := []*Exchange{a}
	start := func(a *Exchange, send func(context.Context) R) {
		ctx, cancel := context.WithCancel(a.Context())
		a.keep(&hedgeLayer, &Admission{Finish: cancelOnFinish(cancel)})
		go func() {
			res := raced[R]{a: a}
			defer func() {
				if res.panicked = recover(); res.panicked != nil {
					res.stack = debug.Stack()
				}
				results <- res
			}()
			res.r = send(ctx)
		}()
	}
	start(a, send)
	timer := time.NewTimer(after)
	defer timer.Stop()
	var lost *raced[R] // failed, while another one was under way
	var lostAt Attempt
	for {
		select {
		case <-timer.C:
			if b, send := e.hedge(x, a); b != nil {
				running = append(running, b)
				start(b, send)
			}
			continue
		case res := <-results:
			timer.Stop()
			others := len(running) - 1
			if lost != nil {
				others--
			}
			if res.panicked != nil {
				res.a.Finish(Outcome{Code: Internal, Panicked: true})
				e.giveUp(x, running, res.a, others, results)
				if lost != nil {
					e.Drop(lost.r)
				}
				panic(res.panicked)
			}
			at := e.Judge(res.a, res.r)
			if others > 0 && !settles(at) {
				lost, lostAt = &res, at
				continue
			}
			if lost != nil {
				lost.a.Finish(lostAt.Outcome)
				e.Drop(lost.r)
			}
			e.giveUp(x, running, res.a, others, results)
			return res.a, at, res.r, nil
		}
	}
}

// giveUp ends the attempts but the winner, of which others have no result yet.
func (e *Race[R]) giveUp(x *Exchange, running []*Exchange, winner *Exchange, others int, results <-chan raced[R]) {
	for _, a := range running {
		if a != winner {
			a.Finish(Outcome{Code: Canceled, Canceled: true}) // which cancels its context
		}
	}
	for range others {
		go func() { // as long as the attempt takes to find out
			res := <-results
			if res.panicked == nil {
				e.Drop(res.r)
				return
			}
			observe(x.Context(), x.observer, Event{
				Kind: EventPanic, Layer: "transport", Call: &res.a.call, Err: &errPanic{res.panicked, res.stack},
			})
		}()
	}
}

// settles reports whether an answer is worth having while another one may come.
func settles(at Attempt) bool {
	switch at.Code {
	case Unavailable, Internal, Unknown, DeadlineExceeded, ResourceExhausted, DataLoss, Aborted:
		return at.Canceled || at.Expired
	}
	return at.Err == nil || at.Canceled || at.Expired || at.Reached
}

var hedgeLayer = Layer{Name: "hedge"}

// cancelOnFinish ends the context of an attempt with it.
type cancelOnFinish context.CancelFunc

func (c cancelOnFinish) Finish(*Call, Outcome) { c() }

// hedgeAfter asks the Hedger, if there is one and the request can be had again.
func (x *Exchange) hedgeAfter(a *Exchange) (after time.Duration, ok bool) {
	if a == x || x.out.once || x.out.lone {
		return 0, false
	}
	h, is := x.out.by.retry.(Hedger)
	if !is {
		return 0, false
	}
	asked := x.askHedger(a, func() { after, ok = h.HedgeAfter(a.Context(), &a.call) })
	return after, ok && asked
}

// hedge begins another attempt beside a, if the Hedger and the gates let it, and
// returns nil if not.
func (e *Race[R]) hedge(x, a *Exchange) (b *Exchange, send func(context.Context) R) {
	yes := false
	h := x.out.by.retry.(Hedger)
	if !x.askHedger(a, func() { yes = h.Hedge(a.Context(), &a.call) }) || !yes || x.Context().Err() != nil {
		return nil, nil
	}
	b, d := x.Attempt()
	if d != nil {
		b.Finish(Outcome{Code: d.grpcCode()})
		return nil, nil
	}
	send, err := e.Prepare(b, Second)
	if err != nil {
		b.Finish(Outcome{Code: Canceled, Canceled: true})
		observe(b.Context(), x.observer, Event{
			Kind: EventFault, Layer: x.out.by.retries, Call: &b.call, Err: err,
			Message: "the request could not be had again for another attempt",
		})
		return nil, nil
	}
	observe(b.Context(), x.observer, Event{Kind: EventHedged, Layer: x.out.by.retries, Call: &b.call})
	return b, send
}

// askHedger calls f and reports a panic of it.
func (x *Exchange) askHedger(a *Exchange, f func()) (ok bool) {
	var err error
	defer func() {
		if ok = err == nil; !ok {
			observe(a.Context(), x.observer, Event{Kind: EventPanic, Layer: x.out.by.retries, Call: &a.call, Err: err})
		}
	}()
	defer recoverTo(&err)
	f()
	return true
}
