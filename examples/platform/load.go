package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// flow is a kind of request that a load makes again and again.
type flow struct {
	name string
	do   func(ctx context.Context, i int) error
}

// load is requests that flow while something else happens.
type load struct {
	mu      sync.Mutex
	done    map[string]int // requests that ended, by flow
	failed  []string
	changed chan struct{} // closed and replaced when a request has ended

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// workers is how many requests of each flow are under way at a time, and pace
// how often each begins one: a busy front door, and time left for what is shown.
const (
	workers = 3
	pace    = 15 * time.Millisecond
)

// startLoad lets the flows flow.
func startLoad(ctx context.Context, flows ...flow) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{done: map[string]int{}, changed: make(chan struct{}), cancel: cancel}
	for _, f := range flows {
		l.done[f.name] = 0
		for w := range workers {
			l.wg.Go(func() {
				tick := time.NewTicker(pace)
				defer tick.Stop()
				for i := w; ; i += workers {
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
					}
					// What has begun is let end: it would not be a failure of
					// the platform that we left.
					l.count(f.name, i, f.do(context.WithoutCancel(ctx), i))
				}
			})
		}
	}
	return l
}

func (l *load) count(name string, i int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[name]++
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s %d: %v", name, i, err))
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// advance waits until each flow has ended n more requests.
func (l *load) advance(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	l.mu.Lock()
	goal := map[string]int{}
	for name, done := range l.done {
		goal[name] = done + n
	}
	l.mu.Unlock()
	for {
		l.mu.Lock()
		behind := ""
		for name, g := range goal {
			if l.done[name] < g {
				behind = name
			}
		}
		changed := l.changed
		l.mu.Unlock()
		if behind == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("the load stands still at %s: %w", behind, ctx.Err())
		}
	}
}

// end stops the load and returns how many requests there were, and which failed.
func (l *load) end() (requests int, failed []string) {
	l.cancel()
	l.wg.Wait()
	for _, n := range l.done {
		requests += n
	}
	return requests, l.failed
}

// report adds the row that most acts are about.
func (l *load) report(r *report, act string) {
	requests, failed := l.end()
	seen := fmt.Sprintf("%d of %d", len(failed), requests)
	if len(failed) > 0 {
		seen += ": " + failed[0]
	}
	r.holds(act, "failed requests", "0", seen, len(failed) == 0)
}

// expect makes a request with a client of the gateway and demands a status.
func (p *platform) expect(ctx context.Context, c *http.Client, method, path string, h http.Header, status int) (seen, error) {
	var s seen
	r, err := http.NewRequestWithContext(ctx, method, "https://"+host+path, http.NoBody)
	if err != nil {
		return s, err
	}
	r.Header = h.Clone()
	resp, err := c.Do(r)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return s, err
	}
	_ = json.Unmarshal(body, &s) // a refusal has another shape
	if resp.StatusCode != status {
		return s, fmt.Errorf("status %d: %s", resp.StatusCode, short(string(body), 160))
	}
	return s, nil
}

// users returns the header fields of n users with a token each.
func (p *platform) users(prefix string, n int) ([]http.Header, error) {
	all := make([]http.Header, n)
	err := parallel(context.Background(), n, func(_ context.Context, i int) error {
		token, err := p.auth.token(fmt.Sprintf("%s-%d", prefix, i), nil)
		all[i] = http.Header{"Authorization": {"Bearer " + token}}
		return err
	})
	return all, err
}
