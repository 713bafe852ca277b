package breaker

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// judge says what the end of c, or its answer's header, says about the callee.
func (cfg *GateConfig) judge(c *gatemesh.Call, o *gatemesh.Outcome) verdict {
	switch {
	case o.Panicked: // the transport, while the call was its
		return failure
	case o.Denial != nil && !o.Reached: // refused before it was sent
		return neutral
	case o.Canceled:
		return neutral
	case o.Expired && (o.Reached || o.Duration < cfg.Patience || inherited(c.Parent(), c.Deadline())):
		return neutral // what has begun to answer is there
	case o.Truncated:
		return failure
	case o.Status != 0 && o.Status != http.StatusOK, o.Status != 0 && c.Protocol() == gatemesh.HTTP:
		return failureIf(slices.Contains(cfg.Statuses, o.Status))
	case o.Reached, o.Status != 0: // gRPC
		return failureIf(slices.Contains(cfg.Codes, o.Code))
	case failed(o.Code):
		return failure
	case o.Code != gatemesh.OK: // somebody on our side said no
		return neutral
	}
	return success
}

func failureIf(yes bool) verdict {
	if yes {
		return failure
	}
	return success
}

// inherited reports whether end is the deadline that the call in came with, or
// one that is later.
func inherited(in *gatemesh.Call, end time.Time) bool {
	return in != nil && !in.CallerDeadline().IsZero() && !end.IsZero() && !end.Before(in.CallerDeadline())
}

// failed is for those who got no answer.
func failed(c gatemesh.Code) bool {
	switch c {
	case gatemesh.Unavailable, gatemesh.Internal, gatemesh.Unknown, gatemesh.DeadlineExceeded, gatemesh.DataLoss:
		return true
	}
	return false
}

// judgeError is for functions: ctx is what the caller gave, err what came of it
// in took. A Denial counts by its code, other errors as failures.
func judgeError(ctx context.Context, err error, took, patience time.Duration) (verdict, time.Duration) {
	switch {
	case err == nil:
		return success, 0
	case errors.Is(ctx.Err(), context.Canceled):
		return neutral, 0
	case ctx.Err() != nil:
		in := gatemesh.FromContext(ctx)
		for in != nil && in.Outbound() {
			in = in.Parent()
		}
		if end, _ := ctx.Deadline(); took < patience || inherited(in, end) {
			return neutral, 0
		}
	}
	var d *gatemesh.Denial
	if !errors.As(err, &d) || d == nil {
		return failure, 0
	}
	if !failed(d.Code) && d.Code != gatemesh.OK {
		return success, 0
	}
	for _, f := range d.Header {
		if strings.EqualFold(f.Name, "Retry-After") {
			return failure, RetryAfter(f.Value, time.Now())
		}
	}
	return failure, 0
}
