package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// How the gateway fetches the auth service's keys: soon enough that an act
// can see it recover.
const (
	fetchTimeout = 500 * time.Millisecond
	cooldown     = 500 * time.Millisecond
)

// actOutage stops the auth service, and then lets it hang. What is known keeps
// working; what is not known is refused, at once as soon as the breaker is open.
func actOutage(ctx context.Context, p *platform, r *report) error {
	warm, err := p.users("warm", 50)
	if err != nil {
		return err
	}
	for _, u := range warm {
		if _, err := p.expect(ctx, p.http, http.MethodGet, "/v1/users/1", u, 200); err != nil && p.broken != "g" {
			return err
		}
	}
	for _, o := range []struct {
		name        string
		begin, over func() error
	}{
		{"stopped", func() error { p.auth.stop(); return nil }, func() error { return p.auth.listen(ctx, strings.TrimPrefix(p.auth.addr, "http://")) }},
		{"black hole", func() error { p.auth.slow(-1); return nil }, func() error { p.auth.slow(0); return nil }},
	} {
		if err := o.begin(); err != nil {
			return err
		}
		if err := p.outage(ctx, r, o.name, warm); err != nil {
			return err
		}
		if err := o.over(); err != nil {
			return err
		}
		if err := p.recovery(ctx, r, o.name); err != nil {
			return err
		}
	}
	return nil
}

// patience is how long the act waits for what takes a second or three.
const patience = 10 * time.Second

// recovery lets the auth service sign with a new key and waits until its
// tokens pass.
func (p *platform) recovery(ctx context.Context, r *report, name string) error {
	if err := p.auth.rotate(); err != nil {
		return err
	}
	token, err := p.auth.token("recovery", nil)
	if err != nil {
		return err
	}
	begin, status := time.Now(), 0
	for tick := time.NewTicker(10 * pace); status != http.StatusOK && time.Since(begin) < patience; <-tick.C {
		resp, _, err := p.get(ctx, "/v1/users/1", http.Header{"Authorization": {"Bearer " + token}})
		if err != nil {
			return err
		}
		status = resp.StatusCode
	}
	r.holds("g", name+" is over: a token with a new key", "200", fmt.Sprintf("%d after %.1f s", status, time.Since(begin).Seconds()), status == http.StatusOK)
	return nil
}

// outage plays one outage.
func (p *platform) outage(ctx context.Context, r *report, name string, warm []http.Header) error {
	var fresh []http.Header
	for i := range 50 { // signed with the key that is known, and never seen
		token, err := p.auth.token(name+strconv.Itoa(i), nil)
		if err != nil {
			return err
		}
		fresh = append(fresh, http.Header{"Authorization": {"Bearer " + token}})
	}
	strange, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	unknown := func(kid string) (http.Header, error) {
		t := jwt.NewWithClaims(jwt.SigningMethodRS256, p.auth.claims("user", nil))
		t.Header["kid"] = name + kid
		token, err := t.SignedString(strange)
		return http.Header{"Authorization": {"Bearer " + token}}, err
	}
	// Somebody whose key is not known asks until the breaker has seen enough.
	since := time.Now()
	l := startLoad(ctx,
		flow{"verified before", func(ctx context.Context, i int) error {
			_, err := p.expect(ctx, p.http, http.MethodGet, "/v1/users/1", warm[i%len(warm)], 200)
			return err
		}},
		flow{"known key", func(ctx context.Context, i int) error {
			_, err := p.expect(ctx, p.http, http.MethodGet, "/v1/users/1", fresh[i%len(fresh)], 200)
			return err
		}},
		flow{"API key", func(ctx context.Context, i int) error {
			_, err := p.expect(ctx, p.http, http.MethodGet, "/v1/users/1", http.Header{"X-Api-Key": {p.keys["globex"]}}, 200)
			if err != nil && strings.Contains(err.Error(), "status 429") {
				return nil // it has a limit
			}
			return err
		}},
	)
	answers := map[string]int{}
	ask := func(kid string) error {
		h, err := unknown(kid)
		if err != nil {
			return err
		}
		resp, _, err := p.get(ctx, "/v1/users/1", h)
		if err != nil {
			return err
		}
		answers[fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("WWW-Authenticate"))]++
		return nil
	}
	opened := func() bool {
		return p.logs.newest(func(l logLine) bool {
			at, _ := time.Parse(time.RFC3339Nano, fmt.Sprint(l["time"]))
			msg, _ := l["msg"].(string)
			return l["service"] == "gateway" && strings.Contains(msg, "breaker of key set") && strings.Contains(msg, "opened") && at.After(since)
		}) != nil
	}
	wait := patience
	if p.broken == "g" {
		wait = patience / 10 // there is no breaker that could open
	}
	i := 0
	for tick := time.NewTicker(pace); !opened() && time.Since(since) < wait; i++ {
		<-tick.C
		if err := ask(strconv.Itoa(i)); err != nil {
			return err
		}
	}
	r.holds("g", name+": the breaker opens", "while unknown keys are asked for", fmt.Sprintf("after %d in %.1f s", i, time.Since(since).Seconds()), opened())
	before, asking := p.auth.asked.Load(), time.Now()
	for j := range 20 {
		if err := ask("open" + strconv.Itoa(j)); err != nil {
			return err
		}
	}
	// One probe may go through, and another for each cooldown that the 20 take.
	reached, probes := p.auth.asked.Load()-before, 1+int64(time.Since(asking)/cooldown)
	r.holds("g", name+": unknown keys then refused without the network", "20 of 20", fmt.Sprintf("%d reached the auth service", reached), reached <= probes)
	r.same("g", name+": unknown keys", fmt.Sprint(map[string]int{"401 Bearer": i + 20}), fmt.Sprint(answers))
	if err := l.advance(ctx, 2*workers); err != nil {
		return err
	}
	l.report(r, "g")
	return nil
}
