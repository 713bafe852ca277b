package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
)

// spike is what a lookup takes in the second phase.
const spike = 200 * time.Millisecond

// phase is a part of the story: how the auth service is doing.
type phase struct {
	name string
	mode mode
}

// The phases, by their place in the list.
const (
	healthy = iota
	slow
	silent
	refused
	recovery
	reduced
)

var phases = []phase{
	healthy:  {"healthy", mode{delay: lookup}},
	slow:     {"200 ms spike", mode{delay: spike}},
	silent:   {"outage: silent", mode{silent: true}},
	refused:  {"outage: refused", mode{down: true}},
	recovery: {"recovery", mode{delay: lookup}},
	// Of the three replicas, one is down and one as slow as in the spike.
	reduced: {"1 of 3 well", mode{}},
}

const (
	// warmTokens are known to the gateways before the story begins.
	warmTokens = 200
	// streak is how many requests in a row show that a phase has come to what
	// is expected of it, and overtime how much longer all phases together may
	// last until they have.
	streak   = 10
	overtime = 2 * time.Minute
)

// config is what the flags say.
type config struct {
	rate   int           // requests a second to each gateway
	phase  time.Duration // how long each phase is
	wait   time.Duration // for an answer, after which clients give up
	broken string        // which guard ours has to do without
}

// timeout is how long a gateway waits for the auth service: less than its own
// clients wait, so that it can still tell them.
func (c config) timeout() time.Duration { return c.wait * 4 / 5 }

// story is the auth service, the two gateways with what is behind them, and
// their clients.
type story struct {
	config
	auth   *authService
	crowds []*crowd // naive, ours
	spans  []span
	calls  [][]int64 // of the auth service, by phase and gateway

	overtime time.Duration // that is left

	mu   sync.Mutex
	ends []end // by phase
}

// end is the last requests of a phase, to naive and with unseen tokens to ours,
// and whether they ended as expected.
type end struct {
	naive, unseen []sample
	settled       bool
}

// The gateways, by their place in the lists.
const (
	naively = iota
	ourly
)

var names = []string{naively: "naive", ourly: "ours"}

// start sets the scene.
func start(ctx context.Context, cfg config) (_ *story, err error) {
	s := &story{config: cfg, ends: make([]end, len(phases)), overtime: overtime}
	if cfg.broken != "" {
		s.overtime = 2 * time.Second // what is waited for hardly ever comes
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.auth, err = startAuthService(ctx, names...); err != nil {
		return nil, err
	}
	workers := workersFor(cfg.rate)
	tokens := make([]string, warmTokens)
	for i := range tokens {
		tokens[i] = s.auth.issue()
	}
	for i, name := range names {
		g, err := startGateway(ctx, name, workers, s.auth, func(t http.RoundTripper) (guard, error) {
			if i == ourly {
				return ours(s.auth.addrs(), name, s.auth.secrets[name], t, cfg.timeout(), cfg.broken)
			}
			n := &naive{url: introspectionURL, id: name, secret: s.auth.secrets[name], client: &http.Client{Transport: t}, timeout: cfg.timeout()}
			return guard{n.guard, func() error { return nil }}, nil
		})
		if err != nil {
			return nil, err
		}
		s.crowds = append(s.crowds, &crowd{
			gateway: g, rate: cfg.rate, patience: cfg.wait, issue: s.auth.issue, asked: g.calls.Load, warm: tokens,
			client: &http.Client{Transport: pooled(2 * workers)},
		})
	}
	return s, nil
}

func (s *story) close() error {
	var errs []error
	for _, c := range s.crowds {
		c.client.CloseIdleConnections()
		errs = append(errs, c.gateway.close())
	}
	if s.auth != nil {
		errs = append(errs, s.auth.close())
	}
	return errors.Join(errs...)
}

// play plays the phases one after the other and shows on w how it goes. Each
// begins when all requests of the one before have ended, so that every request
// and every call to the auth service belongs to one phase.
func (s *story) play(ctx context.Context, w io.Writer) error {
	if err := s.each(func(c *crowd) error { return c.warmUp(ctx) }); err != nil {
		return err
	}
	begin := time.Now()
	for _, c := range s.crowds {
		c.begin = begin
	}
	for i, p := range phases {
		become := func() error { return s.auth.be(ctx, p.mode) }
		if i == reduced {
			become = func() error { return s.auth.lose(ctx, names[ourly]) }
		}
		if err := become(); err != nil {
			return err
		}
		before := s.asked()
		from := time.Since(begin)
		stop := s.progress(w, i, begin)
		err := s.each(func(c *crowd) error { return c.play(ctx, i, s.more(i)) })
		stop()
		s.settled(i)
		if err != nil {
			return err
		}
		s.spans = append(s.spans, span{p.name, from, time.Since(begin)})
		s.overtime = max(0, s.overtime-max(0, time.Since(begin)-from-s.phase))
		after := s.asked()
		for g := range after {
			after[g] -= before[g]
		}
		s.calls = append(s.calls, after)
	}
	return nil
}

// each does something with all crowds at the same time.
func (s *story) each(do func(*crowd) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(s.crowds))
	for i, c := range s.crowds {
		wg.Go(func() { errs[i] = do(c) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// asked returns how often each gateway has asked the auth service.
func (s *story) asked() []int64 {
	n := make([]int64, len(s.crowds))
	for i, c := range s.crowds {
		n[i] = c.asked()
	}
	return n
}

// more returns whether a phase goes on. It goes on in overtime until it has come
// to what is expected of it: how soon that is depends on the machine.
func (s *story) more(phase int) func(time.Duration) bool {
	longest := s.phase + s.overtime
	return func(elapsed time.Duration) bool {
		return elapsed < s.phase || !s.settled(phase) && elapsed < longest
	}
}

// settled reports whether the last requests of a phase that have ended did so as
// expected, now or before. Requests that end later do not change it: they may be
// those that a machine which stands still has held up.
func (s *story) settled(phase int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends[phase].settled {
		return true
	}
	e := end{naive: last(s.of(phase, naively), all), unseen: last(s.of(phase, ourly), unseen)}
	switch phase {
	case healthy, recovery:
		e.settled = passed(e.naive) && passed(e.unseen)
	case slow, reduced:
		e.settled = passed(e.unseen)
	case silent, refused:
		e.settled = spared(e.unseen)
	}
	s.ends[phase] = e
	return e.settled
}

// last returns the last requests of a kind, as many as make a streak, or nil.
func last(samples []sample, keep func(sample) bool) []sample {
	var found []sample
	for _, s := range slices.Backward(samples) {
		if keep(s) {
			found = append(found, s)
		}
		if len(found) == streak {
			slices.Reverse(found)
			return found
		}
	}
	return nil
}

// passed reports whether there are requests and all were answered with 200.
func passed(samples []sample) bool {
	return samples != nil && !slices.ContainsFunc(samples, func(s sample) bool { return s.status != http.StatusOK })
}

// spared reports whether all were refused, and the auth service asked at most
// about every other one: an open breaker lets a probe through now and then.
func spared(samples []sample) bool {
	return samples != nil &&
		!slices.ContainsFunc(samples, func(s sample) bool { return s.status != http.StatusUnauthorized }) &&
		2*asked(samples) <= int64(len(samples))
}

// asked returns how often the auth service was asked from when the first of
// some requests began until all had ended.
func asked(samples []sample) int64 {
	first, end := int64(math.MaxInt64), int64(0)
	for _, s := range samples {
		first, end = min(first, s.askedBefore), max(end, s.asked)
	}
	return max(end-first, 0)
}

// of returns the requests of a phase to a gateway.
func (s *story) of(phase, gateway int) []sample {
	samples := s.crowds[gateway].since(0)
	from, to := len(samples), len(samples)
	for from > 0 && samples[from-1].phase >= phase {
		from--
		if samples[from].phase > phase {
			to = from
		}
	}
	return samples[from:to]
}

// progress shows several times in a phase what went on since the last time.
func (s *story) progress(w io.Writer, phase int, begin time.Time) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	shown := make([]int, len(s.crowds))
	for i, c := range s.crowds {
		shown[i] = len(c.since(0))
	}
	show := func() {
		fmt.Fprintf(w, "%5.1f s  %-15s", time.Since(begin).Seconds(), phases[phase].name)
		for i, c := range s.crowds {
			news := c.since(shown[i])
			shown[i] += len(news)
			sum := summarize(news, all)
			passed := 0.0
			if sum.n > 0 {
				passed = 100 * float64(sum.answers[http.StatusOK]) / float64(sum.n)
			}
			fmt.Fprintf(w, "  %s: %4d requests, p50 %6s, %3.0f %% passed", names[i], sum.n, milli(sum.p50), passed)
		}
		fmt.Fprintln(w)
	}
	wg.Go(func() {
		tick := time.NewTicker(max(time.Second, s.phase/5))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				show()
			case <-done:
				show()
				return
			}
		}
	})
	return func() { close(done); wg.Wait() }
}
