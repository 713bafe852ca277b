package breaker

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

const (
	// maxAttempts bounds what a configuration can ask for. What a route asks for,
	// the budget alone bounds.
	maxAttempts = 10
	maxBackoff  = time.Minute
)

// routeRetry returns what the route of c says about retries, or nil: the route
// of the front door, or else the rule of the service.
func routeRetry(c *gatemesh.Call) *gatemesh.RetryPolicy {
	for _, r := range [...]*gatemesh.Route{c.Route(), c.ServiceRoute()} {
		if r != nil && r.Retry != nil {
			return r.Retry
		}
	}
	return nil
}

// attempts returns how often c with rule, which may be nil, is tried: no more
// often than its caller, if he retries, too.
func (cfg *RetryConfig) attempts(c *gatemesh.Call, rule *gatemesh.RetryPolicy) int {
	most := cfg.MaxAttempts
	if rule != nil && rule.Attempts > 0 {
		most = rule.Attempts
	}
	if in := c.Parent(); in != nil && in.Hop().Retries {
		most = min(most, 1+in.Hop().Left)
	}
	return most
}

// worthwhile reports whether another attempt could end better.
func (cfg *RetryConfig) worthwhile(ctx context.Context, c *gatemesh.Call, a *gatemesh.Attempt, rule *gatemesh.RetryPolicy) bool {
	statuses, answers, broken := cfg.Statuses, cfg.Codes, true
	if rule != nil {
		broken = rule.Broken
		if len(rule.Statuses)+len(rule.Codes) > 0 {
			statuses, answers = rule.Statuses, rule.Codes
		}
	}
	var ours *gatemesh.Denial
	switch {
	case ctx.Err() != nil, a.Canceled, a.Expired:
		return false
	case errors.As(a.Err, &ours): // somebody behind the gates refused it
		return false
	case refusesRetry(a.Header):
		return false
	case c.Protocol() == gatemesh.GRPC:
		// A client makes Unavailable of what has no answer, which cannot be told
		// from a callee that says so.
		return slices.Contains(answers, a.Code) || rule != nil && broken && a.Code == gatemesh.Unavailable
	case a.Err != nil:
		return broken
	}
	return slices.Contains(statuses, a.Status)
}

// refusesRetry reports whether the callee asks not to be called again.
func refusesRetry(header map[string][]string) bool {
	v := header[gatemesh.RetryHeader]
	return len(v) == 1 && v[0] == "no"
}

// pause returns how long to wait for the next attempt, or false if that is
// longer than the callee's wish or the caller's deadline allows.
func (cfg *RetryConfig) pause(ctx context.Context, a *gatemesh.Attempt, rule *gatemesh.RetryPolicy, now time.Time) (time.Duration, bool) {
	limit, most := cfg.BackoffBase, cfg.BackoffMax
	if rule != nil && rule.Backoff > 0 {
		limit = min(rule.Backoff, maxBackoff)
		most = max(most, limit)
	}
	for range a.Attempts - 1 {
		limit = min(2*limit, most)
	}
	wait := rand.N(limit)
	if after := retryAfterOf(a.Header); after > cfg.MaxRetryAfter {
		return 0, false
	} else if after > 0 {
		wait += after // the callers it told do not come back as one
	}
	end, ok := ctx.Deadline()
	return wait, !ok || now.Add(wait).Before(end)
}
