package auth

import (
	"context"
	"errors"
	"sync"

	"github.com/gatemesh-go/gatemesh"
)

// flights has calls with the same token share one verification. There are never
// more of them than calls.
type flights struct {
	mu    sync.Mutex
	under map[string]*flight // by token
}

// flight is a verification under way. What follows done is set before it closes.
type flight struct {
	done      chan struct{}
	v         *verified
	denial    *gatemesh.Denial
	abandoned bool // by a caller that left; another one has to begin anew
}

var errLost = errors.New("auth: the verification was lost by a panic")

// verify returns what the token raw stands for, as do verifies it: once for all
// who ask meanwhile. Each waits as long as its own ctx allows.
func (f *flights) verify(ctx context.Context, raw string, do func(*flight)) (*verified, *gatemesh.Denial) {
	for {
		fl, first := f.join(raw)
		if first {
			f.lead(raw, fl, do)
		}
		select {
		case <-fl.done:
		case <-ctx.Done():
		}
		switch {
		case ctx.Err() != nil:
			return nil, gatemesh.AsDenial(ctx, ctx.Err())
		case fl.abandoned && !first:
		default:
			return fl.v, fl.denial
		}
	}
}

func (f *flights) join(raw string) (fl *flight, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl = f.under[raw]; fl != nil {
		return fl, false
	}
	if f.under == nil {
		f.under = map[string]*flight{}
	}
	fl = &flight{done: make(chan struct{})}
	f.under[raw] = fl
	return fl, true
}

// lead calls do, which lands fl, now or later. If it panics, nobody is left
// waiting.
func (f *flights) lead(raw string, fl *flight, do func(*flight)) {
	returned := false
	defer func() {
		if !returned {
			fl.denial = errInternal.WithCause(errLost)
			f.land(raw, fl)
		}
	}()
	do(fl)
	returned = true
}

// land ends a flight, whose result is set.
func (f *flights) land(raw string, fl *flight) {
	f.mu.Lock()
	delete(f.under, raw)
	f.mu.Unlock()
	close(fl.done)
}

var errInternal = gatemesh.Deny(gatemesh.Internal, "internal", "The request could not be processed.")
