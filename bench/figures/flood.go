package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh/auth"
)

// flood is F-05. Half of the good tokens are met for the first time under the
// flood.
func flood(ctx context.Context, s size, r *report) error {
	const id = "F-05"
	var (
		quietFor = pick(s.once, 2*time.Second, 15*time.Second)
		floodFor = pick(s.once, 4*time.Second, 30*time.Second)
		rate     = pick(s.once, 200, 500)
		bad      = pick(s.once, 2000, 5000)
	)
	const users = 1000
	cfg := auth.JWKSConfig{} // the defaults
	if s.broken {            // that lets everybody have the keys fetched
		cfg.Cooldown = 100 * time.Millisecond
	}
	w, err := newWorld(cfg, 100_000)
	if err != nil {
		return err
	}
	defer w.close()
	tokens := make([]string, users)
	for i := range tokens {
		tokens[i] = sign(1, fmt.Sprint("user-", i), time.Now().Add(time.Hour))
	}
	if err := w.warm(ctx, users/2, func(i int) string { return tokens[i] }); err != nil {
		return err
	}
	var asked, passed atomic.Int64
	var quiet, flooded times
	good := func(d time.Duration, among []string, t *times) {
		w.load(ctx, rate, d, func(i int) string { return among[i%len(among)] }, func(a answer) {
			asked.Add(1)
			t.add(a.took())
			if a.status == http.StatusNoContent {
				passed.Add(1)
			}
		})
	}
	good(quietFor, tokens[:users/2], &quiet)

	// As many requests that cost no judgment, to see what is the load's own.
	var wg sync.WaitGroup
	var load times
	wg.Go(func() { w.load(ctx, bad, floodFor/2, func(int) string { return "" }, func(answer) {}) })
	wg.Go(func() { good(floodFor/2, tokens[:users/2], &load) })
	wg.Wait()

	var floods, refused atomic.Int64
	began := time.Now()
	wg.Go(func() {
		w.load(ctx, bad, floodFor, func(i int) string { return garbage(i, tokens[0]) }, func(a answer) {
			floods.Add(1)
			if a.status == http.StatusUnauthorized {
				refused.Add(1)
			}
		})
	})
	wg.Go(func() { good(floodFor, tokens, &flooded) })
	wg.Wait()
	took := time.Since(began)

	r.count(id, "good tokens that passed", int(passed.Load()), int(asked.Load()))
	r.count(id, fmt.Sprintf("bad tokens that got 401 (%.0f/s)", float64(floods.Load())/took.Seconds()), int(refused.Load()), int(floods.Load()))
	r.most(id, "fetches within any 10 s", densest(w.idp.fetched(), 10*time.Second), 2)
	r.within(id, "good tokens under the flood, p99; demanded is twice that of before", flooded.at(.99), 2*quiet.at(.99))
	r.within(id, "the same, beside as many requests without a token", load.at(.99), 2*quiet.at(.99))
	return ctx.Err()
}

// garbage is of four kinds: a key that nobody has, a signature that is none, a
// payload of somebody else, and noise.
func garbage(i int, good string) string {
	part := strings.Split(good, ".")
	var noise [64]byte
	for j := range noise {
		noise[j] = byte(rand.Uint32())
	}
	made := base64.RawURLEncoding.EncodeToString(noise[:])
	switch i % 4 {
	case 0:
		header := fmt.Sprintf(`{"alg":"EdDSA","kid":"%x","typ":"JWT"}`, noise[:16])
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + part[1] + "." + part[2]
	case 1:
		return part[0] + "." + part[1] + "." + made
	case 2:
		return part[0] + "." + made + "." + part[2]
	}
	return made + "." + made + "." + made
}

// densest is how many of the times, which are in order, are within any d.
func densest(at []time.Time, d time.Duration) (most int) {
	for i := range at {
		n := 0
		for n < len(at)-i && at[i+n].Sub(at[i]) < d {
			n++
		}
		most = max(most, n)
	}
	return most
}
