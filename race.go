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

// RaceLane says which attempt of a [Race] it is, and whether there can be another
// one at the same time.
type RaceLane uint8

// The attempts of a [Race].
const (
	Alone  RaceLane = iota // there is no other one at the same time
	First                  // there may be another one
	Second                 // the other one
)

// A Racer is how an adapter makes attempts of calls. An R describes one, before
// what it sends and afterwards what came of it. It is handed on by value, so that
// an attempt that has no other beside it costs no allocation.
type Racer[R any] interface {
	// Prepare makes r ready to be sent as attempt a. An error forgoes it if it
	// is the Second. It is called on the goroutine of the call.
	Prepare(a *Exchange, lane RaceLane, r R) (R, error)
	// Send makes an attempt, perhaps on another goroutine, with a context made
	// of the attempt's.
	Send(ctx context.Context, r R) R
	// Judge describes the attempt that ended as r, on the goroutine of the call.
	Judge(a *Exchange, r R) Attempt
	// Drop lets go of a result that nobody wants, on any goroutine.
	Drop(r R)
}

// Race makes attempt a of the call x, and perhaps one more, both as r says, and
// returns the one that stands, whose gates are still to be told how it ended.
// The other one is cancelled, and is over for its gates. A panic of an attempt
// goes on, after both are over.
func Race[R any](by Racer[R], x, a *Exchange, r R) (won *Exchange, at Attempt, result R, err error) {
	after, ok := x.hedgeAfter(a)
	if ok {
		first, err := by.Prepare(a, First, r)
		if err != nil {
			return a, Attempt{}, r, err
		}
		race := &race[R]{by: by, x: x, r: r, results: make(chan raced[R], 2)} // nobody waits to deliver
		won, at, result = race.run(a, first, after)
		return won, at, result, nil
	}
	if r, err = by.Prepare(a, Alone, r); err != nil {
		return a, Attempt{}, r, err
	}
	r = by.Send(a.Context(), r)
	return a, by.Judge(a, r), r, nil
}

// race is a call of which two attempts may run at the same time.
type race[R any] struct {
	by      Racer[R]
	x       *Exchange
	r       R
	results chan raced[R]
	running []*Exchange
}

// raced is what came of an attempt on a goroutine of its own.
type raced[R any] struct {
	a        *Exchange
	r        R
	panicked any
	stack    []byte
}

// start makes attempt a on a goroutine.
func (e *race[R]) start(a *Exchange, r R) {
	ctx, cancel := context.WithCancel(a.Context())
	a.keep(&hedgeLayer, &Admission{Finish: cancelOnFinish(cancel)})
	e.running = append(e.running, a)
	go func() {
		res := raced[R]{a: a}
		defer func() {
			if res.panicked = recover(); res.panicked != nil {
				res.stack = debug.Stack()
			}
			e.results <- res
		}()
		res.r = e.by.Send(ctx, r)
	}()
}

func (e *race[R]) run(a *Exchange, first R, after time.Duration) (*Exchange, Attempt, R) {
	e.start(a, first)
	timer := time.NewTimer(after)
	defer timer.Stop()
	var lost *raced[R] // failed, while another one was under way
	var lostAt Attempt
	for {
		select {
		case <-timer.C:
			if b, second := e.hedge(a); b != nil {
				e.start(b, second)
			}
		case res := <-e.results:
			others := len(e.running) - 1
			if lost != nil {
				others--
			}
			if res.panicked != nil {
				res.a.Finish(Outcome{Code: Internal, Panicked: true})
				e.giveUp(res.a, others)
				if lost != nil {
					e.by.Drop(lost.r)
				}
				panic(res.panicked)
			}
			at := e.by.Judge(res.a, res.r)
			if others > 0 && !settles(at) {
				lost, lostAt = &res, at
				continue
			}
			if lost != nil {
				lost.a.Finish(lostAt.Outcome)
				e.by.Drop(lost.r)
			}
			e.giveUp(res.a, others)
			return res.a, at, res.r
		}
	}
}

// giveUp ends the attempts but the winner, of which others have no result yet.
func (e *race[R]) giveUp(winner *Exchange, others int) {
	for _, a := range e.running {
		if a != winner {
			a.Finish(Outcome{Code: Canceled, Canceled: true}) // which cancels its context
		}
	}
	for range others {
		go func() { // as long as the attempt takes to find out
			res := <-e.results
			if res.panicked == nil {
				e.by.Drop(res.r)
				return
			}
			observe(e.x.Context(), e.x.observer, Event{
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
func (e *race[R]) hedge(a *Exchange) (b *Exchange, second R) {
	x, yes := e.x, false
	h := x.out.by.retry.(Hedger)
	if !x.askHedger(a, func() { yes = h.Hedge(a.Context(), &a.call) }) || !yes || x.Context().Err() != nil {
		return nil, e.r
	}
	b, d := x.Attempt()
	if d != nil {
		b.Finish(Outcome{Code: d.grpcCode()})
		return nil, e.r
	}
	second, err := e.by.Prepare(b, Second, e.r)
	if err != nil {
		b.Finish(Outcome{Code: Canceled, Canceled: true})
		observe(b.Context(), x.observer, Event{
			Kind: EventFault, Layer: x.out.by.retries, Call: &b.call, Err: err,
			Message: "the request could not be had again for another attempt",
		})
		return nil, e.r
	}
	observe(b.Context(), x.observer, Event{Kind: EventHedged, Layer: x.out.by.retries, Call: &b.call})
	return b, second
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
