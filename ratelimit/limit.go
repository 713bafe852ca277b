package ratelimit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bounds of a [Limit]. Longer windows than a month are a matter for a database.
const (
	maxRequests = 1_000_000_000
	minPer      = time.Millisecond
	maxPer      = 31 * 24 * time.Hour
)

// Limit is how much one key may do: Requests calls in any period of length
// Per, or with Burst a steady rate. The zero Limit is invalid. The package
// comment says which to choose.
type Limit struct {
	// Requests is the number of calls. Required; 1 to 1,000,000,000.
	Requests int
	// Per is the period they are counted over. Required; 1 ms to 31 days.
	Per time.Duration
	// Burst is how many calls may come at once, refilled at Requests a Per.
	// Default: 0, a quota without refill inside the period; at most 1,000,000,000.
	Burst int
}

// String returns l as [ParseLimit] reads it, such as "1000/1m" or
// "100/1s,burst=200".
func (l Limit) String() string {
	per := l.Per.String()
	if strings.HasSuffix(per, "m0s") {
		per = per[:len(per)-2]
	}
	if strings.HasSuffix(per, "h0m") {
		per = per[:len(per)-2]
	}
	s := strconv.Itoa(l.Requests) + "/" + per
	if l.Burst != 0 {
		s += ",burst=" + strconv.Itoa(l.Burst)
	}
	return s
}

// ParseLimit reads a limit as it is written in flags: a number of requests, a
// slash, a duration as [time.ParseDuration] reads it, and for a token bucket
// its size: "1000/1m", "100/1s,burst=200".
func ParseLimit(s string) (Limit, error) {
	rate, burst, hasBurst := strings.Cut(s, ",burst=")
	requests, per, ok := strings.Cut(rate, "/")
	var l Limit
	n, err := strconv.ParseUint(requests, 10, 31)
	if !ok || err != nil {
		return Limit{}, fmt.Errorf("ratelimit: limit %q is not of the form 1000/1m or 100/1s,burst=200", s)
	}
	l.Requests = int(n)
	if l.Per, err = time.ParseDuration(per); err != nil {
		return Limit{}, fmt.Errorf("ratelimit: limit %q: the period is not a duration such as 1m", s)
	}
	if hasBurst {
		n, err := strconv.ParseUint(burst, 10, 31)
		if err != nil || n == 0 {
			return Limit{}, fmt.Errorf("ratelimit: limit %q: burst is not a positive number", s)
		}
		l.Burst = int(n)
	}
	if faults := l.faults(""); faults != nil {
		return Limit{}, fmt.Errorf("ratelimit: limit %q: %w", s, errors.Join(faults...))
	}
	return l, nil
}

// faults returns what is wrong with l. Each begins with prefix and the name of
// a field.
func (l Limit) faults(prefix string) (errs []error) {
	switch {
	case l.Requests == 0:
		errs = append(errs, fmt.Errorf("%sRequests is required", prefix))
	case l.Requests < 0 || l.Requests > maxRequests:
		errs = append(errs, fmt.Errorf("%sRequests must be between 1 and %d", prefix, maxRequests))
	}
	switch {
	case l.Per == 0:
		errs = append(errs, fmt.Errorf("%sPer is required", prefix))
	case l.Per < minPer || l.Per > maxPer:
		errs = append(errs, fmt.Errorf("%sPer must be between %s and %s", prefix, minPer, maxPer))
	}
	if l.Burst < 0 || l.Burst > maxRequests {
		errs = append(errs, fmt.Errorf("%sBurst must be between 0 and %d", prefix, maxRequests))
	}
	return errs
}
