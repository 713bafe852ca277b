package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatemesh-go/gatemesh/auth"
)

// asked counts how often an issuer would have been asked for keys.
type asked struct {
	auth.KeySource
	n atomic.Int64
}

func (a *asked) Refresh(ctx context.Context, kid string) *auth.Keys {
	a.n.Add(1)
	return a.KeySource.Refresh(ctx, kid)
}

// honesty is F-02 with a burst: many goroutines store as fast as they can, look
// at once whether what they stored is there, and once more at the end. F-01
// looks after its own warm-up, too.
func honesty(ctx context.Context, s size, r *report) error {
	const id = "F-02"
	n := pick(s.once, 20_000, 200_000)
	secret := []byte(strings.Repeat("s", 32)) // short to sign and to verify
	set, err := auth.StaticKeys(auth.StaticKey{Key: secret})
	if err != nil {
		return err
	}
	keys := &asked{KeySource: set}
	entries := 2 * n
	if s.broken { // that forgets
		entries = n / 2
	}
	who, err := auth.New(auth.Config{
		Issuers:      []auth.Issuer{{Issuer: issuer, Audience: []string{audience}, Algorithms: []string{"HS256"}, Keys: keys}},
		CacheEntries: entries, CacheTTL: time.Hour,
	})
	if err != nil {
		return err
	}
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i], err = jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
			"iss": issuer, "aud": audience, "sub": fmt.Sprint("user-", i), "exp": time.Now().Add(time.Hour).Unix(),
		}).SignedString(secret)
		if err != nil {
			return err
		}
	}
	const callers = 64
	var accepted, there atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for g := range callers {
		wg.Go(func() {
			for i := g; i < n && ctx.Err() == nil; i += callers {
				c, err := callOf(tokens[i])
				if err != nil {
					continue
				}
				if _, err := who.Admit(ctx, c); err != nil {
					continue
				}
				accepted.Add(1)
				if _, ok, err := who.AdmitCached(ctx, c); ok && err == nil {
					there.Add(1)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	r.count(id, fmt.Sprintf("tokens accepted in a burst (%.0f/s)", float64(n)/took.Seconds()), int(accepted.Load()), n)
	r.count(id, "found right after they were stored", int(there.Load()), n)
	r.count(id, "found when all were stored", remembered(ctx, who, tokens), n)
	r.count(id, "questions to the issuer", int(keys.n.Load()), 0)
	return ctx.Err()
}
