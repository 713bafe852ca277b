package breaker

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// judge says what the end of a call, or its answer's header, says about the
// callee.
func judge(o *gatemesh.Outcome, patience time.Duration) verdict {
	switch {
	case o.Panicked: // the transport, while the call was its
		return failure
	case o.Denial != nil && !o.Reached: // refused before it was sent
		return neutral
	case o.Canceled:
		return neutral
	case o.Expired && (o.Reached || o.Duration < patience): // what has begun to answer is there
		return neutral
	case o.Truncated, o.Status == 0 && failed(o.Code):
		return failure
	case o.Status >= 500:
		return serverError(o.Status)
	case o.Status >= 400: // CodeOf puts some of them with the failures
		return success
	case o.Status != 0 && failed(o.Code): // gRPC in an HTTP answer
		return failure
	case !o.Reached && o.Code != gatemesh.OK: // somebody on our side said no
		return neutral
	}
	return success
}

// serverError is for the statuses that say more about the callee than about
// the request: not for what it does not implement.
func serverError(status int) verdict {
	if status == http.StatusNotImplemented || status == http.StatusHTTPVersionNotSupported {
		return success
	}
	return failure
}

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
	case ctx.Err() != nil && took < patience:
		return neutral, 0
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
