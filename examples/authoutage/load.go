package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// What became of a request that was not answered.
const (
	gaveUp = -iota // the client's patience ended
	broke          // the connection broke, which must not happen
)

// sample is one request of the load.
type sample struct {
	phase     int
	at        time.Duration // when it was due, since the story began
	took      time.Duration // from when it was due to when its client had an answer or gave up
	service   int
	unseen    bool          // the gateway had not seen its token before
	status    int           // of HTTP, gaveUp or broke
	challenge string        // WWW-Authenticate of a 401
	late      time.Duration // how much later than due it was sent
	// How often the gateway had asked the auth service when it began and ended.
	askedBefore, asked int64
}

// unseenEvery makes one request in ten carry a token that is new to the gateway.
const unseenEvery = 10

// crowd is the clients of one gateway.
type crowd struct {
	gateway  *gateway
	rate     int           // requests a second
	patience time.Duration // how long a client waits for an answer
	issue    func() string
	asked    func() int64
	warm     []string // tokens that the gateway has seen
	client   *http.Client
	begin    time.Time

	mu      sync.Mutex
	samples []sample
}

// warmUp shows each token to the gateway until it has passed once.
func (c *crowd) warmUp(ctx context.Context) error {
	const parallel = 8
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, parallel)
	for p := range parallel {
		wg.Go(func() {
			pace := time.NewTicker(c.patience / 10) // of the tries, on a machine that is so busy that lookups fail
			defer pace.Stop()
			for i := p; i < len(c.warm); i += parallel {
				for {
					status, _, err := c.get(ctx, i%len(services), c.warm[i])
					if err != nil {
						errs[p] = fmt.Errorf("warming up %s: %w", c.gateway.name, err)
						return
					}
					if status == http.StatusOK {
						break
					}
					select {
					case <-pace.C:
					case <-ctx.Done():
					}
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// play sends requests for the phase until more says that it is enough, and
// returns when the last of them has ended.
//
// Arrivals do not wait for answers, and every latency counts from the moment
// at which the request was due: a gateway that stalls does not make its own
// load smaller, nor its delays invisible (coordinated omission). Gaps are
// exponential, as those of many independent customers are, and the same for
// every gateway.
func (c *crowd) play(ctx context.Context, phase int, more func(elapsed time.Duration) bool) error {
	random := rand.New(rand.NewPCG(1, uint64(phase))) //nolint:gosec // a load, not a secret
	gap := float64(time.Second) / float64(c.rate)
	var wg sync.WaitGroup
	defer wg.Wait()
	start := time.Now()
	next := start
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for i := 0; ; i++ {
		next = next.Add(time.Duration(random.ExpFloat64() * gap))
		due := next
		s := sample{phase: phase, at: due.Sub(c.begin), service: random.IntN(len(services)), unseen: i%unseenEvery == unseenEvery-1}
		token := c.warm[random.IntN(len(c.warm))]
		if s.unseen {
			token = c.issue()
		}
		if !more(due.Sub(start)) {
			return ctx.Err()
		}
		for wait := time.Until(due); wait > 0; wait = time.Until(due) { // some timers are early
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s.late = time.Since(due)
		wg.Go(func() { c.request(ctx, s, due, token) })
	}
}

func (c *crowd) request(ctx context.Context, s sample, due time.Time, token string) {
	patient, cancel := context.WithDeadline(ctx, due.Add(c.patience))
	defer cancel()
	s.askedBefore = c.asked()
	status, challenge, err := c.get(patient, s.service, token)
	s.took, s.status, s.challenge, s.asked = time.Since(due), status, challenge, c.asked()
	switch {
	case ctx.Err() != nil:
		return // we leave, not the client
	case errors.Is(err, context.DeadlineExceeded):
		s.status = gaveUp
	case err != nil:
		s.status = broke
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples = append(c.samples, s)
}

func (c *crowd) get(ctx context.Context, service int, token string) (status int, challenge string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.gateway.addr+"/"+services[service].name+"/payments", http.NoBody)
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }() // it is read
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, "", err
	}
	return resp.StatusCode, resp.Header.Get("WWW-Authenticate"), nil
}

// since returns the samples from the n-th on.
func (c *crowd) since(n int) []sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.samples[n:len(c.samples):len(c.samples)]
}
