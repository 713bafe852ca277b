package main

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"
)

// crowd makes the calls of one client, at a steady rate, whether the answers
// come or not. If many do not, calls wait before they are sent, which counts:
// a machine that stalls is not buried.
type crowd struct {
	*client

	mu      sync.Mutex
	took    []time.Duration // of the calls that were answered
	failed  []error
	first   map[string]time.Time // when each pod answered for the first time
	window  []string             // which pods answered of late
	recent  map[string]int       // the same, counted
	changed chan struct{}        // closed and replaced when a pod answers for the first time
}

const (
	window   = 200 // of how many answers a share is taken
	inFlight = 16  // calls of one client at a time
)

func newCrowd(c *client) *crowd {
	return &crowd{client: c, first: map[string]time.Time{}, recent: map[string]int{}, changed: make(chan struct{})}
}

// run makes rate calls a second until ctx ends, and waits for them.
func (c *crowd) run(ctx context.Context, rate int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, inFlight)
	begin := time.Now()
	for i := 0; ; i++ {
		due := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(due)):
		}
		select {
		case <-ctx.Done():
			return
		case room <- struct{}{}:
		}
		wg.Go(func() {
			defer func() { <-room }()
			// What has begun is let end: it would not be a failure that we left.
			pod, err := c.call(context.WithoutCancel(ctx))
			c.note(pod, time.Since(due), err)
		})
	}
}

func (c *crowd) note(pod string, took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed = append(c.failed, err)
		return
	}
	c.took = append(c.took, took)
	if c.window = append(c.window, pod); len(c.window) > window {
		c.recent[c.window[0]]--
		c.window = c.window[1:]
	}
	c.recent[pod]++
	if _, known := c.first[pod]; !known {
		c.first[pod] = time.Now()
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// await waits until each of pods has answered, and returns how many have.
func (c *crowd) await(ctx context.Context, pods []*pod) (answered int) {
	for {
		c.mu.Lock()
		answered = 0
		for _, p := range pods {
			if _, ok := c.first[p.name]; ok {
				answered++
			}
		}
		changed := c.changed
		c.mu.Unlock()
		if answered == len(pods) {
			return answered
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return answered
		}
	}
}

// forget starts the shares anew.
func (c *crowd) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.window = nil
	clear(c.recent)
}

// shares returns which part of the latest calls each pod has answered.
func (c *crowd) shares() map[string]float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	shares := map[string]float64{}
	for pod, n := range c.recent {
		if n > 0 {
			shares[pod] = float64(n) / float64(len(c.window))
		}
	}
	return shares
}

// summary is what the calls of a crowd amount to.
type summary struct {
	calls    int
	failed   []error
	p50, p99 time.Duration
	first    map[string]time.Time
}

func (c *crowd) summary() summary {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := slices.Clone(c.took)
	slices.SortFunc(took, func(a, b time.Duration) int { return cmp.Compare(a, b) })
	return summary{len(c.took) + len(c.failed), slices.Clone(c.failed), quantile(took, 0.50), quantile(took, 0.99), maps.Clone(c.first)}
}

// quantile is the smallest value of sorted that a share q of them does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}
