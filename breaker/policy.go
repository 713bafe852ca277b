package breaker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// maxDelay is the longest that a breaker may stay open without a probe.
const maxDelay = time.Minute

// Policy says when a breaker opens and for how long. The zero Policy is all
// defaults; whether it counts failures in a row or their rate is said where it
// is used.
type Policy struct {
	// Failures is how many in a row open the breaker, however far apart they
	// are. 1 to 1,000. Where others send calls that fail by themselves, a rate
	// is the better measure.
	Failures int
	// FailureRate opens the breaker when that share of the calls of a Window
	// failed, in place of Failures. Above 0, up to 1.
	FailureRate float64
	// MinCalls is how many calls a Window must have for its FailureRate to
	// count. 1 to 1,000,000, only with FailureRate. Default: 20.
	MinCalls int
	// Window is the time that FailureRate looks back, in ten slices. 1 second
	// to 10 minutes, only with FailureRate. Default: 10 seconds.
	Window time.Duration
	// Delay is how long an open breaker refuses calls before it lets one through
	// as a probe, and how long it then waits for that one before it lets
	// through another. Each wait is shorter by up to a fifth, at random, so that
	// replicas do not probe in step. At least 100 ms. Default: 5 seconds.
	Delay time.Duration
	// MaxDelay is the longest Delay that a callee can ask for with Retry-After.
	// Delay to 1 minute. Default: 1 minute.
	MaxDelay time.Duration
	// Patience is how long a callee must have had for an answer if it is to
	// count as its failure that a deadline passed which the application gave the
	// call. One that came with the inbound call, as of a gRPC client, never
	// counts; that of [Deadline] always does. 1 ms to 1 minute. Default: 1
	// second.
	Patience time.Duration
}

// inARow counts failures in a row unless p says otherwise.
func (p Policy) inARow() Policy {
	if p.Failures == 0 && p.FailureRate == 0 {
		p.Failures = 5
	}
	return p
}

// byRate counts the rate of failures unless p says otherwise.
func (p Policy) byRate() Policy {
	if p.Failures == 0 && p.FailureRate == 0 {
		p.FailureRate = 0.5
	}
	return p
}

func (p Policy) withDefaults() Policy {
	if p.FailureRate != 0 {
		if p.MinCalls == 0 {
			p.MinCalls = 20
		}
		if p.Window == 0 {
			p.Window = 10 * time.Second
		}
	}
	if p.Delay == 0 {
		p.Delay = 5 * time.Second
	}
	if p.MaxDelay == 0 {
		p.MaxDelay = maxDelay
	}
	if p.Patience == 0 {
		p.Patience = time.Second
	}
	return p
}

// faults collects what is wrong with a configuration.
type faults []error

func (f *faults) add(format string, args ...any) {
	*f = append(*f, fmt.Errorf("breaker: "+format, args...))
}

func (f *faults) err() error { return errors.Join(*f...) }

// between checks a field that has a default for zero already.
func between[T int | time.Duration](f *faults, field string, v, low, high T) {
	if v < low || v > high {
		f.add("%s %v is not between %v and %v", field, v, low, high)
	}
}

// validate expects the defaults to be set.
func (p *Policy) validate(f *faults) {
	switch {
	case p.FailureRate == 0:
		between(f, "Policy.Failures", p.Failures, 1, 1000)
		if p.MinCalls != 0 || p.Window != 0 {
			f.add("Policy.MinCalls and Policy.Window have a meaning only with FailureRate")
		}
	case !(p.FailureRate > 0 && p.FailureRate <= 1): // NaN, too
		f.add("Policy.FailureRate %v is not above 0 and up to 1", p.FailureRate)
	default:
		if p.Failures != 0 {
			f.add("Policy.Failures and Policy.FailureRate exclude one another")
		}
		between(f, "Policy.MinCalls", p.MinCalls, 1, 1_000_000)
		between(f, "Policy.Window", p.Window, time.Second, 10*time.Minute)
	}
	between(f, "Policy.Delay", p.Delay, 100*time.Millisecond, maxDelay)
	between(f, "Policy.MaxDelay", p.MaxDelay, min(max(p.Delay, 0), maxDelay), maxDelay)
	between(f, "Policy.Patience", p.Patience, time.Millisecond, time.Minute)
}

// trips is the part of a Policy that says when a breaker opens.
type trips struct {
	failures, minCalls int
	rate               float64
	window             time.Duration
}

func (p *Policy) trips() trips { return trips{p.Failures, p.MinCalls, p.FailureRate, p.Window} }

// wait returns how long to stay open for a callee that asked to be left alone
// for after.
func (p *Policy) wait(after time.Duration) time.Duration {
	switch {
	case after >= p.MaxDelay: // which is not what it asked for anyway
		return p.MaxDelay - upTo(p.MaxDelay/5)
	case after > p.Delay:
		return min(after+upTo(after/5), p.MaxDelay)
	}
	return p.Delay - upTo(p.Delay/5)
}

func upTo(d time.Duration) time.Duration { return rand.N(d + 1) }
