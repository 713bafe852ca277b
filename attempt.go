package gatemesh

import (
	"context"
	"errors"
	"time"
)

// A Retrier decides whether an attempt of an outbound call is followed by
// another one, for HTTP and gRPC alike. It must be safe for concurrent use.
type Retrier interface {
	// Retry is asked after every attempt, those that succeeded included, and
	// before the caller has seen anything of the answer. It returns in how long
	// to try again, or false to let the answer stand. A panic counts as false.
	Retry(ctx context.Context, c *Call, a Attempt) (wait time.Duration, again bool)
}

// Attempt is how an attempt of an outbound call ended, or was answered.
type Attempt struct {
	// Outcome of the attempt up to now: of an answer whose body has not been read.
	Outcome
	// Header holds the fields of the answer in canonical form, if there is one.
	Header map[string][]string
	// Err is why there is no answer. It is for classification and logs only.
	Err error
	// Replayable says that the request can be sent again as it was. If not, the
	// answer stands whatever the Retrier says.
	Replayable bool
	// Replay makes the request ready to be sent again. If it fails or panics, the
	// answer stands. Nil if there is nothing to do.
	Replay func() error
}

// An Answerer is a [Finisher] that learns of the answer before its body, which
// can take for ever. Answered is called at most once, before anybody has read
// the body of an outbound call or the header of a received one is written, and
// not if there is no answer: a received unary gRPC call has none before its
// end. Finish follows, on a gRPC stream perhaps while Answered still runs.
type Answerer interface {
	Finisher
	Answered(c *Call, a Attempt)
}

// Attempt begins the next attempt of an outbound call and asks the gates that
// judge every attempt. It returns the Exchange of the attempt, to be finished
// like that of the call; without a [Retrier] the two are one. The Denial is of
// the attempt alone: what an earlier one brought may stand.
func (x *Exchange) Attempt() (*Exchange, *Denial) {
	x.out.tries++
	for p := x; p != nil; p = exchangeFrom(p.ctx) {
		p.attempts.Add(1)
		if !p.call.outbound {
			break
		}
	}
	o := x.out.by
	if o.retry == nil {
		return x, nil // Start has asked all
	}
	a := newOutboundExchange(o)
	a.ctx, a.observer, a.gates, a.call = x.Context(), x.observer, o.attempt, x.call
	a.out.of = x
	a.call.attempt, a.call.received = int32(x.out.tries), time.Now()
	a.fields = append(a.fieldBuf[:0], x.fields...)
	_, d := a.Admit(a.Context())
	if d != nil && x.out.tries == 1 { // there is nothing else that the call ends with
		x.mu.Lock()
		x.denial = d
		x.mu.Unlock()
	}
	return a, d
}

// Again asks the [Retrier] of an outbound call whether attempt a, which ended
// as r says, is followed by another one, and waits until it may begin. It
// returns the next attempt, admitted; or nil if the answer stands, because the
// Retrier says so, the caller is gone, the request cannot be had again, or the
// gates refuse another attempt.
func (x *Exchange) Again(a *Exchange, r Attempt) *Exchange {
	o := x.out.by
	if o.retry == nil || a == x {
		return nil
	}
	wait, again := x.askRetrier(a, r)
	if !again || !r.Replayable || !sleep(x.Context(), wait) || !x.replay(a, r) {
		return nil
	}
	next, d := x.Attempt()
	if d != nil {
		next.Finish(Outcome{Code: d.grpcCode()})
		return nil
	}
	a.Finish(r.Outcome)
	observe(a.Context(), x.observer, Event{Kind: EventRetried, Layer: o.retries, Call: &a.call, Outcome: a.outcome, Err: r.Err})
	return next
}

func (x *Exchange) askRetrier(a *Exchange, r Attempt) (wait time.Duration, again bool) {
	var err error
	defer func() {
		if err != nil {
			again = false
			observe(a.Context(), x.observer, Event{Kind: EventPanic, Layer: x.out.by.retries, Call: &a.call, Err: err})
		}
	}()
	defer recoverTo(&err)
	r.Duration = time.Since(a.call.received)
	return x.out.by.retry.Retry(a.Context(), &a.call, r)
}

// replay has the request made ready, before a is given up.
func (x *Exchange) replay(a *Exchange, r Attempt) bool {
	if r.Replay == nil {
		return true
	}
	err := func() (err error) {
		defer recoverTo(&err)
		return r.Replay()
	}()
	if err != nil {
		observe(a.Context(), x.observer, Event{
			Kind: EventFault, Layer: x.out.by.retries, Call: &a.call, Err: err,
			Message: "the request could not be had again for another attempt",
		})
	}
	return err == nil
}

// sleep waits for d and reports whether ctx outlived it.
func sleep(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}

// Failed returns the Outcome of an outbound call or attempt that ended with err
// and without an answer. A Denial says that somebody on this side refused it,
// as a pool without endpoints does.
func (x *Exchange) Failed(err error) Outcome {
	d := AsDenial(x.Context(), err)
	o := Outcome{Code: d.grpcCode()}
	if own := (*Denial)(nil); errors.As(err, &own) && own != nil {
		o.Denial = own
	} else if o.Code == Internal {
		o.Code = Unavailable
	}
	x.judgeCaller(&o)
	return o
}

// judgeCaller notes in o whether the call ended because of its caller.
func (x *Exchange) judgeCaller(o *Outcome) {
	ctx := x.caller()
	// A callee that was told of the deadline may say that it has passed before
	// our own timer does.
	end, limited := ctx.Deadline()
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		o.Canceled, o.Code = true, Canceled
	case ctx.Err() != nil, limited && !time.Now().Before(end):
		o.Expired = true
		if o.Code == Canceled || o.Code == Unavailable {
			o.Code = DeadlineExceeded
		}
	}
}
