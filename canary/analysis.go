package canary

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Analysis says when a canary is as good as the stable version. Its zero value
// means the defaults.
//
// The canary is worse if, with three standard errors of confidence, it fails
// more calls than the stable version by ErrorMargin, fails more than
// MaxErrorRate, or one of its 50th, 95th and 99th percentiles is above the limit
// that follows from the stable one. It is in doubt while one standard error says
// so, and as good otherwise.
//
// One burst of failures, as when a node restarts, is no proof: the canary is
// worse only if the calls that ended since it was first found so say it, too,
// with one standard error. It costs a second or two.
//
// A call has failed if it ended with a status of 500 or more, or in gRPC with
// Unavailable, Internal, Unknown, DeadlineExceeded or DataLoss, or broke off.
// What its caller cancelled says nothing, nor does what a gate of ours refused.
// Latency is the time until the header of a successful answer.
//
// Nobody alone decides: callers are counted in 16 groups by the key that they
// are dealt by, addresses of IPv6 by /48, and of each version the group that looks worst is left out of
// every comparison; none counts more than four times as much as the middle one.
// A client whose requests always fail therefore rolls nothing back, and one that
// makes many good ones hides nothing. It also means that a version which only
// one client ever calls is never judged. Calls that are made for no client are
// all counted, and so are those for workloads that act for no user. Who has
// addresses in many networks counts as many: behind authentication, callers are
// counted by name.
type Analysis struct {
	// Window is how far back is looked, 5 s to 1 h. Default: 1 min.
	Window time.Duration
	// MinSamples is how many calls of each version a step needs to go on.
	// Default: 100.
	MinSamples int
	// ErrorMargin is by how much the canary's error rate may exceed the stable
	// one's, from above 0 to 1. Default: 0.01, one percentage point.
	ErrorMargin float64
	// MaxErrorRate is a bound for the canary's error rate whatever the stable
	// version does. Default: none.
	MaxErrorRate float64
	// LatencyRatio is how many times the stable version's latency the canary's
	// may be, at least 1, and LatencyMargin a difference that is always
	// allowed. Default: 1.5, and 10 ms.
	LatencyRatio  float64
	LatencyMargin time.Duration
	// MaxLatency is a bound for the canary's 95th percentile whatever the stable
	// version does. Default: none.
	MaxLatency time.Duration
}

func (a Analysis) complete(fault func(format string, args ...any)) Analysis {
	a.Window = cmp.Or(a.Window, time.Minute)
	a.MinSamples = cmp.Or(a.MinSamples, 100)
	a.ErrorMargin = cmp.Or(a.ErrorMargin, 0.01)
	a.LatencyRatio = cmp.Or(a.LatencyRatio, 1.5)
	a.LatencyMargin = cmp.Or(a.LatencyMargin, 10*time.Millisecond)
	if a.Window < 5*time.Second || a.Window > time.Hour {
		fault("Analysis.Window is %v; it must be 5s to 1h", a.Window)
	}
	if a.MinSamples < 1 {
		fault("Analysis.MinSamples is %d; it must be at least 1", a.MinSamples)
	}
	if !(a.ErrorMargin > 0 && a.ErrorMargin <= 1) {
		fault("Analysis.ErrorMargin is %v; it must be above 0, to 1", a.ErrorMargin)
	}
	if !(a.MaxErrorRate >= 0 && a.MaxErrorRate <= 1) {
		fault("Analysis.MaxErrorRate is %v; it must be 0 to 1", a.MaxErrorRate)
	}
	if !(a.LatencyRatio >= 1 && a.LatencyRatio <= 1000) {
		fault("Analysis.LatencyRatio is %v; it must be 1 to 1000", a.LatencyRatio)
	}
	if a.LatencyMargin < 0 {
		fault("Analysis.LatencyMargin must not be negative")
	}
	if a.MaxLatency < 0 {
		fault("Analysis.MaxLatency must not be negative")
	}
	return a
}

const (
	sure    = 3 // standard errors
	doubt   = 1
	leastOf = 5 // failures, or slow answers, that any verdict against a version takes
)

type quality uint8

const (
	few quality = iota // not enough samples
	doubtful
	good
	bad
)

type finding struct {
	quality quality
	text    string // one line with the numbers
}

// limits are the latencies that each quantile of the canary is held to, or nil
// if too little is known of the stable version.
func (a *Analysis) limits(s *samples) *[len(quantiles)]time.Duration {
	if s[stable].answers() < uint64(a.MinSamples) {
		return nil
	}
	var l [len(quantiles)]time.Duration
	for i, q := range quantiles {
		is := s[stable].quantile(q)
		l[i] = max(time.Duration(float64(is)*a.LatencyRatio), is+a.LatencyMargin)
		if q == 0.95 && a.MaxLatency > 0 {
			l[i] = min(l[i], a.MaxLatency)
		}
	}
	return &l
}

// find compares the versions. limits are those that answers were measured against.
func (a *Analysis) find(s *samples, limits *[len(quantiles)]time.Duration, names [2]string) finding {
	worst := a.weigh(s, limits, names)
	c, st := s[canary].fair(nCalls, nFailed), s[stable].fair(nCalls, nFailed)
	if worst.quality != bad && (c.n < a.MinSamples || st.n < a.MinSamples) {
		return finding{few, fmt.Sprintf("%d calls of %s and %d of %s are too few, %d are needed", c.n, names[canary], st.n, names[stable], a.MinSamples)}
	}
	return worst
}

// weigh is find however few the samples are.
func (a *Analysis) weigh(s *samples, limits *[len(quantiles)]time.Duration, names [2]string) finding {
	c, st := s[canary].fair(nCalls, nFailed), s[stable].fair(nCalls, nFailed)
	rates := fmt.Sprintf("%s failed %s of %d calls, %s %s of %d", names[canary], percent(c.rate()), c.n, names[stable], percent(st.rate()), st.n)
	worst := finding{good, rates}
	note := func(q quality, format string, args ...any) {
		if q > worst.quality || q == doubtful && worst.quality == good {
			worst = finding{q, rates + "; " + fmt.Sprintf(format, args...)}
		}
	}
	against := func(k proportion, exceeds func(z float64) bool, format string, args ...any) {
		switch {
		case k.hits < leastOf:
		case exceeds(sure):
			note(bad, format, args...)
		case exceeds(doubt) && worst.quality != bad:
			note(doubtful, "perhaps "+format, args...)
		}
	}
	against(c, func(z float64) bool { return exceeds(c, st, z, a.ErrorMargin) },
		"that is more than the %s that it may exceed it by", percent(a.ErrorMargin))
	if a.MaxErrorRate > 0 {
		against(c, func(z float64) bool { lo, _ := c.bounds(z); return lo > a.MaxErrorRate }, "that is above %s", percent(a.MaxErrorRate))
	}
	if limits != nil {
		for i, q := range quantiles {
			slow, usual := s[canary].fair(nTimed, nSlow+i), s[stable].fair(nTimed, nSlow+i)
			against(slow, func(z float64) bool {
				lo, _ := slow.bounds(z)
				return lo > 1-q && exceeds(slow, usual, z, 0) // both are slow until the limits have followed
			},
				"its %s is above %v: %s of %d answers took longer", percentile(q), limits[i].Round(time.Millisecond), percent(slow.rate()), slow.n)
		}
	}
	return worst
}

func percentile(q float64) string { return fmt.Sprintf("p%.0f", q*100) }

func percent(rate float64) string { return fmt.Sprintf("%.3g %%", rate*100) }

// proportion is hits of n.
type proportion struct{ n, hits int }

func (p proportion) rate() float64 {
	if p.n == 0 {
		return 0
	}
	return float64(p.hits) / float64(p.n)
}

// bounds returns Wilson's interval of z standard errors for the rate.
func (p proportion) bounds(z float64) (lo, hi float64) {
	if p.n == 0 {
		return 0, 1
	}
	n, r := float64(p.n), p.rate()
	z2 := z * z / n
	middle := (r + z2/2) / (1 + z2)
	half := z * math.Sqrt(r*(1-r)/n+z2/(4*n)) / (1 + z2)
	return max(0, middle-half), min(1, middle+half)
}

// exceeds reports whether the rate of a is above that of b by more than margin,
// by Newcombe's interval for the difference of two proportions (1998, method 10).
func exceeds(a, b proportion, z, margin float64) bool {
	lo, _ := a.bounds(z)
	_, hi := b.bounds(z)
	d := a.rate() - b.rate()
	return d-math.Hypot(a.rate()-lo, hi-b.rate()) > margin
}

// fair counts hits of n over the groups, without the one that has the most hits,
// and none for more than four times the middle one.
func (t *tally) fair(n, hits int) proportion {
	var sizes [vouched]int
	known := sizes[:0]
	for g := range vouched {
		if c := int(t.Groups[g][n]); c > 0 {
			known = append(known, c)
		}
	}
	own := proportion{int(t.Groups[vouched][n]), int(t.Groups[vouched][hits])}
	if len(known) == 0 {
		return own
	}
	slices.Sort(known)
	most := 4 * known[len(known)/2]
	if len(known)%2 == 0 {
		most = 4 * known[len(known)/2-1]
	}
	sum, worst := own, proportion{}
	for g := range vouched {
		of := proportion{int(t.Groups[g][n]), int(t.Groups[g][hits])}
		if of.n > most {
			of = proportion{most, int(math.Round(of.rate() * float64(most)))}
		}
		sum.n, sum.hits = sum.n+of.n, sum.hits+of.hits
		if of.hits > worst.hits || of.hits == worst.hits && of.n > worst.n {
			worst = of
		}
	}
	return proportion{sum.n - worst.n, sum.hits - worst.hits}
}
