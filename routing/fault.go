package routing

import (
	"context"
	"math"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// injection is a compiled Fault.
type injection struct {
	delay                time.Duration
	delayShare, endShare float64 // 0 to 1
	denial               *gatemesh.Denial
}

const injectedDetail = "The call was refused on purpose, to see what happens."

func (f *faults) injection(at gatemesh.Position, field string, in *Fault) *injection {
	i := &injection{
		delay:      in.Delay,
		delayShare: f.percent(at, field+".DelayPercent", in.DelayPercent),
		endShare:   f.percent(at, field+".AbortPercent", in.AbortPercent),
	}
	aborts := in.AbortStatus != 0 || in.AbortCode != gatemesh.OK
	if in.Delay < 0 {
		f.add(at, "%s.Delay must not be negative", field)
	}
	if in.Delay == 0 && in.DelayPercent != 0 {
		f.add(at, "%s.DelayPercent needs Delay", field)
	}
	if !aborts && in.AbortPercent != 0 {
		f.add(at, "%s.AbortPercent needs AbortStatus or AbortCode", field)
	}
	if in.Delay == 0 && !aborts {
		f.add(at, "%s does nothing", field)
	}
	if in.AbortStatus != 0 && (in.AbortStatus < 400 || in.AbortStatus > 599) {
		f.add(at, "%s.AbortStatus must be 400 to 599", field)
	}
	if in.AbortCode > gatemesh.Unauthenticated {
		f.add(at, "%s.AbortCode %d is no code of gRPC", field, in.AbortCode)
	}
	if aborts {
		code := in.AbortCode
		if code == gatemesh.OK {
			code = gatemesh.CodeOf(in.AbortStatus)
		}
		i.denial = &gatemesh.Denial{Code: code, Status: in.AbortStatus, Reason: "fault_injected", Detail: injectedDetail}
	}
	return i
}

// percent returns a share of 1.
func (f *faults) percent(at gatemesh.Position, field string, p float64) float64 {
	if math.IsNaN(p) || p < 0 || p > 100 {
		f.add(at, "%s must be 0 to 100", field)
	}
	return p / 100
}

// chance reports true in that share of the cases: never for 0, always for 1.
func (r *Router) chance(share float64) bool {
	return share >= 1 || share > 0 && r.random() < share
}

// inject delays the outbound call c, or returns why it goes no further: because
// that is what the fault says, the caller has left, or the time in ctx is up.
func (i *injection) inject(ctx context.Context, r *Router, c *gatemesh.Call) error {
	if i.delay > 0 && r.chance(i.delayShare) {
		r.observe(ctx, gatemesh.Event{Kind: gatemesh.EventNotice, Layer: "fault", Call: c, Message: "a call was held back on purpose"})
		t := time.NewTimer(i.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if i.denial != nil && r.chance(i.endShare) {
		r.observe(ctx, gatemesh.Event{Kind: gatemesh.EventNotice, Layer: "fault", Call: c, Message: "a call was refused on purpose"})
		return i.denial
	}
	return nil
}
