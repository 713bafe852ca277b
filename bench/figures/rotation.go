package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh/auth"
)

// rotation is F-03. Key n is published, signs from a cool-down later on, and is
// withdrawn three rotations later, one after its last token was used. Whoever
// signs earlier has tokens refused for the rest of a cool-down.
func rotation(ctx context.Context, s size, r *report) error {
	const id = "F-03"
	var (
		rotations = pick(s.once, 8, 50)
		every     = pick(s.once, 800*time.Millisecond, 2*time.Second)
		rate      = pick(s.once, 1000, 2000)
		refresh   = pick(s.once, 2*time.Second, 10*time.Second)
		cooldown  = pick(s.once, 200*time.Millisecond, 500*time.Millisecond)
	)
	const users = 200
	w, err := newWorld(auth.JWKSConfig{RefreshInterval: refresh, Cooldown: cooldown}, 100_000)
	if err != nil {
		return err
	}
	defer w.close()
	batch := func(n int) (tokens []string) {
		for i := range users {
			tokens = append(tokens, sign(n, fmt.Sprint("user-", i), time.Now().Add(time.Hour)))
		}
		return tokens
	}
	var inUse atomic.Pointer[[2][]string] // tokens of the key that signs, and of the one before
	first := batch(1)
	inUse.Store(&[2][]string{first, first})
	if err := w.warm(ctx, users, func(i int) string { return first[i] }); err != nil {
		return err
	}

	began := time.Now()
	var wg sync.WaitGroup
	var asked, passed, withdrawn, gone atomic.Int64
	var all, until times
	loading, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() {
		w.load(loading, rate, time.Duration(rotations+1)*every, func(i int) string {
			return inUse.Load()[i%2][i/2%users]
		}, func(a answer) {
			if loading.Err() != nil {
				return // it was cut off
			}
			asked.Add(1)
			all.add(a.took())
			if a.status == http.StatusNoContent {
				passed.Add(1)
			}
		})
	})
	lead := cooldown + cooldown/2
	if s.broken { // that signs before it publishes
		lead = -every / 2
	}
	before, old := first, map[int]string{1: first[0]}
	for n := 2; n < 2+rotations; n++ {
		next := batch(n)
		old[n] = next[0]
		use := func() {
			inUse.Store(&[2][]string{next, before})
			before = next
		}
		if lead < 0 {
			use()
			sleep(ctx, -lead)
		}
		w.idp.publish(published(n)...)
		if out := n - 3; out >= 1 {
			withdrawn.Add(1)
			at, token := time.Now(), old[out]
			wg.Go(func() {
				for time.Since(at) < 5*refresh && sleep(ctx, 10*time.Millisecond) {
					if remembered(ctx, w.who, []string{token}) == 0 { // asking would begin a fetch
						until.add(time.Since(at))
						return
					}
				}
			})
		}
		if lead >= 0 {
			sleep(ctx, lead)
			use()
		}
		sleep(ctx, time.Until(began.Add(time.Duration(n-1)*every)))
	}
	wg.Wait()
	elapsed := time.Since(began)
	schedule := int(math.Ceil(float64(elapsed) / (.9 * float64(refresh))))

	fetches := len(w.idp.fetched())
	for out := 1; out <= int(withdrawn.Load()); out++ {
		if w.ask(ctx, old[out]).status == http.StatusUnauthorized {
			gone.Add(1)
		}
	}

	r.count(id, "uses of valid tokens that passed", int(passed.Load()), int(asked.Load()))
	r.most(id, fmt.Sprintf("fetches (%d rotations, %d on schedule, 1 at the start)", rotations, schedule), fetches, rotations+schedule+1)
	r.count(id, "withdrawn keys whose remembered tokens were refused in the end", int(gone.Load()), int(withdrawn.Load()))
	r.within(id, "refused after the key was withdrawn, slowest", until.at(1), refresh+time.Second)
	r.within(id, "valid tokens, p99", all.at(.99), 5*time.Millisecond)
	return ctx.Err()
}

// published are the keys after rotation to n: with the last two before it.
func published(n int) (keys []int) {
	for k := max(1, n-2); k <= n; k++ {
		keys = append(keys, k)
	}
	return keys
}
