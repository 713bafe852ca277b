package gatemesh

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// consents are the admissions of a call that have an end.
type consents struct {
	until atomic.Int64 // earliest end, see nanos; 0 is never
	mu    sync.Mutex   // guards what follows; held while gates renew
	all   []consent
	buf   [2]consent // the first of all, as auth and peer give one each
	ended *Denial    // the first refusal to renew one
}

type consent struct {
	layer *Layer
	until time.Time
}

func (cs *consents) add(c consent) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.all == nil {
		cs.all = cs.buf[:0]
	}
	cs.all = append(cs.all, c)
	cs.settle()
}

// settle sets until. The caller holds mu.
func (cs *consents) settle() {
	first := int64(0)
	for _, c := range cs.all {
		if n := nanos(c.until); n != 0 && (first == 0 || n < first) {
			first = n
		}
	}
	cs.until.Store(first)
}

// nanos returns t as Unix nanoseconds, clamped to the years in which they are
// defined, and 0 for the zero time alone.
func nanos(t time.Time) int64 {
	switch s := t.Unix(); {
	case t.IsZero():
		return 0
	case s <= 0:
		return 1
	case s > math.MaxInt64/int64(time.Second)-1:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// errEnded is for gates that gave a consent with an end and cannot renew it.
var errEnded = Deny(Unauthenticated, "consent_ended", "The credential ended while the stream was open.")

// Expired reports whether a consent has ended at now, so that
// [Exchange.Revalidate] must be asked before the stream goes on.
func (x *Exchange) Expired(now time.Time) bool {
	u := x.consents.until.Load()
	return u != 0 && now.UnixNano() >= u
}

// Bounded reports whether some consent has an end.
func (x *Exchange) Bounded() bool { return x.consents.until.Load() != 0 }

// Until returns when the first consent ends, and the zero time if none does.
func (x *Exchange) Until() time.Time {
	u := x.consents.until.Load()
	if u == 0 {
		return time.Time{}
	}
	return time.Unix(0, u)
}

// Revalidate asks the gates whose consent has ended at now to renew it. Once
// one refuses, so does every later Revalidate, without asking. It is safe for
// concurrent use.
func (x *Exchange) Revalidate(ctx context.Context, now time.Time) *Denial {
	cs := &x.consents
	cs.mu.Lock()
	if cs.ended != nil {
		defer cs.mu.Unlock()
		return cs.ended
	}
	layer, err := x.renewAll(ctx, now)
	if err == nil {
		cs.settle()
		cs.mu.Unlock()
		return nil
	}
	d := AsDenial(ctx, err)
	cs.ended = d
	cs.mu.Unlock()
	x.report(ctx, layer, err, d) // its header fields come too late
	return d
}

// renewAll returns the first refusal and the layer it comes from.
func (x *Exchange) renewAll(ctx context.Context, now time.Time) (layer string, err error) {
	for i := range x.consents.all {
		c := &x.consents.all[i]
		if c.until.IsZero() || now.Before(c.until) {
			continue
		}
		r, ok := c.layer.Gate.(Revalidator)
		if !ok {
			return c.layer.Name, errEnded
		}
		until, err := x.renew(ctx, r)
		if err == nil && !until.IsZero() && !now.Before(until) {
			err = errEnded
		}
		if err != nil {
			return c.layer.Name, err
		}
		c.until = until
	}
	return "", nil
}

func (x *Exchange) renew(ctx context.Context, r Revalidator) (until time.Time, err error) {
	defer recoverTo(&err)
	return r.Revalidate(ctx, &x.call)
}
