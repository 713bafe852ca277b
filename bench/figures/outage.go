package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh/auth"
)

// outage is F-01. The key endpoint hangs for the first half, and refuses
// connections for the second one. Half of the warm tokens expire meanwhile.
func outage(ctx context.Context, s size, r *report) error {
	const id = "F-01"
	var (
		users    = pick(s.once, 2000, 10_000)
		rate     = pick(s.once, 1000, 2000)
		lasting  = pick(s.once, 6*time.Second, time.Minute)
		timeout  = pick(s.once, 200*time.Millisecond, 500*time.Millisecond)
		cooldown = pick(s.once, 300*time.Millisecond, time.Second) // and the breaker's delay
		refresh  = pick(s.once, time.Second, 10*time.Second)
	)
	cfg := auth.JWKSConfig{RefreshInterval: refresh, Cooldown: cooldown, FetchTimeout: timeout}
	if s.broken { // keys that go with their issuer
		cfg.MaxStale = refresh
	}
	w, err := newWorld(cfg, 2*users)
	if err != nil {
		return err
	}
	defer w.close()

	// Each is signed just before it is warmed, and half of them end in the second
	// half of the outage.
	expires, tokens := make([]time.Time, users), make([]string, users)
	err = w.warm(ctx, users, func(i int) string {
		expires[i] = time.Now().Add(time.Hour).Truncate(time.Second)
		if i%2 == 0 {
			expires[i] = time.Now().Add(lasting/2 + time.Duration(i)*lasting/2/time.Duration(users)).Truncate(time.Second)
		}
		tokens[i] = sign(1, fmt.Sprint("user-", i), expires[i])
		return tokens[i]
	})
	if err != nil {
		return err
	}
	var lasts []string // if the warm-up took long
	for i, end := range expires {
		if time.Until(end) > time.Second {
			lasts = append(lasts, tokens[i])
		}
	}
	r.count("F-02", "warm tokens decided from memory after the warm-up of F-01", remembered(ctx, w.who, lasts), len(lasts))
	fetches := len(w.idp.fetched())

	w.idp.fallSilent()
	half := time.AfterFunc(lasting/2, w.idp.stop)
	defer half.Stop()
	var alive, passed, dead, refused, strange atomic.Int64
	var warmTimes, early, late times
	var known, unknown, knownPassed, unknownRefused int
	var wg sync.WaitGroup
	probing, stop := context.WithCancel(ctx)
	wg.Go(func() {
		for n := 0; sleep(probing, 20*time.Millisecond); n++ {
			a := w.ask(ctx, sign(1, fmt.Sprint("late-", n), time.Now().Add(time.Hour)))
			if known++; a.status == http.StatusNoContent {
				knownPassed++
			}
		}
	})
	wg.Go(func() {
		for n := 0; sleep(probing, 20*time.Millisecond); n++ {
			a := w.ask(ctx, sign(1000+n%50, fmt.Sprint("stranger-", n), time.Now().Add(time.Hour)))
			if unknown++; a.status == http.StatusUnauthorized {
				unknownRefused++
			}
			if open := w.opened.Load(); open == 0 || a.sent.UnixNano() < open {
				early.add(a.took())
			} else {
				late.add(a.took())
			}
		}
	})
	w.load(ctx, rate, lasting, func(i int) string { return tokens[i%users] }, func(a answer) {
		switch end := expires[a.i%users]; {
		case a.status == 0 || a.status >= 500:
			strange.Add(1)
		case a.done.Before(end):
			alive.Add(1)
			warmTimes.add(a.took())
			if a.status == http.StatusNoContent {
				passed.Add(1)
			}
		case !a.sent.Before(end):
			dead.Add(1)
			if a.status == http.StatusUnauthorized {
				refused.Add(1)
			}
		}
	})
	stop()
	wg.Wait()
	during := len(w.idp.fetched()) - fetches

	// The issuer is back, with another key.
	w.idp.publish(1, 2)
	if err := w.idp.start(); err != nil {
		return err
	}
	back, recovered := time.Now(), 0
	for n := 0; time.Since(back) < 30*time.Second && recovered == 0 && sleep(ctx, 10*time.Millisecond); n++ {
		if w.ask(ctx, sign(2, fmt.Sprint("new-", n), time.Now().Add(time.Hour))).status == http.StatusNoContent {
			recovered = 1
		}
	}
	recovery := time.Since(back)

	r.count(id, "uses of warm tokens before their expiry that passed", int(passed.Load()), int(alive.Load()))
	r.count(id, "uses of warm tokens after their expiry that were refused", int(refused.Load()), int(dead.Load()))
	r.count(id, "tokens did expire meanwhile", int(min(dead.Load(), 1)), 1)
	r.count(id, "answers 5xx or none", int(strange.Load()), 0)
	r.count(id, "uncached tokens with a known key that passed", knownPassed, known)
	r.count(id, "uncached tokens with an unknown key that got 401", unknownRefused, unknown)
	r.count(id, "recovered", recovered, 1)
	r.most(id, "requests that reached the silent endpoint", during, int(lasting/cooldown)+1)
	r.within(id, "refusal of an unknown key before the breaker opens, slowest", early.at(1), timeout+50*time.Millisecond)
	r.within(id, "refusal of an unknown key with the breaker open, p99", late.at(.99), 5*time.Millisecond)
	r.within(id, "recovery", recovery, cooldown+time.Second)
	r.within(id, "warm tokens, p99", warmTimes.at(.99), 5*time.Millisecond)
	return ctx.Err()
}
