package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// config is what the flags say.
type config struct {
	rate     int           // calls a second of each client
	scene    time.Duration // how long each scene is, at least
	within   time.Duration // by when a new pod must be in use
	patience time.Duration // how long clients wait for an answer
	broken   string        // the guard that is missing, or ""
	strict   bool
}

// story is the pods and the calls to them.
type story struct {
	config
	cluster *cluster
	clients *clients
	crowds  []*crowd
	report  report
	at      scene
	mu      sync.Mutex // guards at, which the view reads
	added   []arrival
}

// arrival is a pod that joined, and when.
type arrival struct {
	pods []*pod
	at   time.Time
}

// scene is a part of the story.
type scene struct {
	name string
	play func(ctx context.Context, s *story) error
}

var scenes = []scene{
	{"two pods", func(context.Context, *story) error { return nil }},
	{"scaled up to four", grow},
	{"one killed, still in the DNS", crashOne},
	{"another one leaves", leave},
	{"scaled up to four again", grow},
}

func start(ctx context.Context, cfg config) (s *story, err error) {
	s = &story{config: cfg, at: scenes[0]}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.cluster, err = newCluster(); err != nil {
		return nil, err
	}
	if _, err = s.cluster.scale(2); err != nil {
		return nil, err
	}
	if s.clients, err = dialAll(ctx, s.cluster, cfg); err != nil {
		return nil, err
	}
	for _, c := range s.clients.list {
		s.crowds = append(s.crowds, newCrowd(c))
	}
	return s, nil
}

func (s *story) close() error {
	var errs []error
	if s.clients != nil {
		errs = append(errs, s.clients.close())
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.close())
	}
	return errors.Join(errs...)
}

// play plays the scenes one after the other while calls flow, and reports what
// came of them.
func (s *story) play(ctx context.Context) (err error) {
	load, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, c := range s.crowds {
		wg.Go(func() { c.run(load, s.rate) })
	}
	for _, sc := range scenes {
		s.mu.Lock()
		s.at = sc
		s.mu.Unlock()
		if err = sc.play(ctx, s); err == nil {
			err = sleep(ctx, s.scene)
		}
		if err != nil || s.broken != "" && s.report.failed() > 0 {
			break
		}
	}
	stop()
	wg.Wait()
	if err == nil {
		s.judge()
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// grow brings the service to four pods and waits until our clients use them.
func grow(ctx context.Context, s *story) error {
	pods, err := s.cluster.scale(4 - len(s.cluster.pods()))
	if err != nil {
		return err
	}
	begin := time.Now()
	s.added = append(s.added, arrival{pods, begin})
	until, cancel := context.WithTimeout(ctx, s.within)
	defer cancel()
	for _, c := range s.crowds {
		if c.ours {
			n := c.await(until, pods)
			s.report.holds(c.name, fmt.Sprintf("new pods that answered within %v", s.within), fmt.Sprint(len(pods)),
				fmt.Sprintf("%d, %.1f s after they joined", n, time.Since(begin).Seconds()), n == len(pods))
		}
	}
	for _, c := range s.crowds {
		c.forget()
	}
	return ctx.Err()
}

// crashOne kills the pod that has most to do. Nobody is told: the DNS goes on
// to name it.
func crashOne(ctx context.Context, s *story) error {
	shares := s.crowds[0].shares()
	victim := slices.MaxFunc(s.cluster.pods(), func(a, b *pod) int { return cmp.Compare(shares[a.name], shares[b.name]) })
	victim.kill()
	<-victim.ended
	if err := sleep(ctx, s.scene); err != nil {
		return err
	}
	s.cluster.withdraw(victim)
	return nil
}

// leave takes a pod out of the DNS and sends it SIGTERM, as Kubernetes does.
func leave(ctx context.Context, s *story) error {
	p := s.cluster.pods()[0]
	s.cluster.withdraw(p)
	p.term()
	select {
	case <-p.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	seen := "nothing"
	if p.err != nil {
		seen = p.err.Error()
	}
	s.report.holds(p.name, "what it cut when it left", "nothing", seen, p.err == nil)
	return nil
}

// judge adds what the whole run must have come to.
func (s *story) judge() {
	var sums []summary
	for _, c := range s.crowds {
		sum := c.summary()
		sums = append(sums, sum)
		if !c.ours {
			continue
		}
		seen := fmt.Sprintf("%d of %d", len(sum.failed), sum.calls)
		if len(sum.failed) > 0 {
			seen += ": " + sum.failed[0].Error()
		}
		s.report.holds(c.name, "calls that failed", "0", seen, sum.calls > 0 && len(sum.failed) == 0)
	}
	if s.strict {
		direct, proxied := sums[0].p50, sums[3].p50
		s.report.holds("pooled", "p50, beside that of the client with a proxy", "less", fmt.Sprintf("%s, %s", milli(direct), milli(proxied)), direct < proxied)
	}
	s.report.clients = s.table(sums)
}
