package main

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// weighted returns virtualservice.yaml with another weight for v2.
func weighted(percent int) string {
	data, err := manifests.ReadFile("manifests/virtualservice.yaml")
	if err != nil {
		return "" // which the loader refuses
	}
	text := strings.Replace(string(data), "weight: 90", "weight: "+strconv.Itoa(100-percent), 1)
	return strings.Replace(text, "weight: 10", "weight: "+strconv.Itoa(percent), 1)
}

// actWeight raises the share of v2 while every user keeps asking.
func actWeight(ctx context.Context, p *platform, r *report) error {
	n := 1000
	if p.few {
		n = 300
	}
	users, err := p.users("weight", n)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	last := map[int]string{}
	back, turns := 0, 0
	share := func() float64 {
		mu.Lock()
		defer mu.Unlock()
		v2 := 0
		for _, v := range last {
			if v == "v2" {
				v2++
			}
		}
		return 100 * float64(v2) / float64(len(last))
	}
	l := startLoad(ctx)
	ask := func(ctx context.Context, i int) error {
		s, err := p.expect(ctx, p.http, http.MethodGet, "/v1/users/1", users[i], 200)
		l.count("GET", i, err)
		mu.Lock()
		defer mu.Unlock()
		if last[i] == "v2" && s.Version == "v1" {
			back++
		}
		last[i] = s.Version
		turns++
		return nil
	}
	if err := parallel(ctx, n, ask); err != nil {
		return err
	}
	r.holds("l", "share of v2 before", "10 % ± 5", fmt.Sprintf("%.1f %%", share()), share() > 5 && share() < 15)
	before, err := p.remaining(ctx)
	if err != nil {
		return err
	}
	config, err := p.withWeight(25)
	if err != nil {
		return err
	}
	// The change comes in the midst of a round.
	err = parallel(ctx, n, func(ctx context.Context, i int) error {
		if i == n/2 {
			if err := p.gateway.Update(config); err != nil {
				return err
			}
		}
		return ask(ctx, i)
	})
	if err != nil {
		return err
	}
	if err := parallel(ctx, n, ask); err != nil {
		return err
	}
	after, err := p.remaining(ctx)
	if err != nil {
		return err
	}
	l.report(r, "l")
	r.holds("l", "share of v2 after", "25 % ± 7", fmt.Sprintf("%.1f %%", share()), share() > 18 && share() < 32)
	r.same("l", "users moved from v2 to v1", 0, back)
	r.holds("l", "what an API key has left goes on", fmt.Sprintf("%d or more, less than %d", before-1, before), strconv.Itoa(after), after < before && after >= before-1)
	return nil
}

var left = regexp.MustCompile(`r=(\d+)`)

// remaining makes a request with an API key and returns how many it has left.
func (p *platform) remaining(ctx context.Context) (int, error) {
	resp, _, err := p.get(ctx, "/v1/users/1", http.Header{"X-Api-Key": {p.keys["initech"]}})
	if err != nil {
		return 0, err
	}
	m := left.FindStringSubmatch(resp.Header.Get("RateLimit"))
	if m == nil {
		return 0, fmt.Errorf("status %d, RateLimit %q", resp.StatusCode, resp.Header.Get("RateLimit"))
	}
	return strconv.Atoi(m[1])
}
