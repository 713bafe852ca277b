package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// within is by when new replicas must be in use.
const within = 10 * time.Second

// actScale doubles payment-service while orders are placed, and then kills one
// of its replicas without a goodbye.
func actScale(ctx context.Context, p *platform, r *report) error {
	users, err := p.users("scale", 200)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	served := map[string]int{}
	all := make(chan struct{})
	place := func(path string, calls int, status int) func(context.Context, int) error {
		return func(ctx context.Context, i int) error {
			h := users[i%len(users)].Clone()
			h.Set("Idempotency-Key", fmt.Sprint("order-", i))
			s, err := p.expect(ctx, p.http, http.MethodPost, path, h, status)
			if err != nil {
				return err
			}
			if len(s.Calls) < calls || s.Calls[0].Status != 0 && s.Calls[0].Status != http.StatusCreated {
				return fmt.Errorf("%+v", s.Calls)
			}
			mu.Lock()
			defer mu.Unlock()
			if served[s.Calls[0].Replica]++; len(served) == 4 {
				select {
				case <-all:
				default:
					close(all)
				}
			}
			return nil
		}
	}
	l := startLoad(ctx, flow{"POST", place("/v1/orders", 1, 201)}, flow{"gRPC", place("/v1/orders/1/charges", 2, 200)})
	defer l.end()
	if err := l.advance(ctx, 50); err != nil {
		return err
	}
	mu.Lock()
	r.same("m", "replicas that served", 2, len(served))
	mu.Unlock()
	queries := p.dns.Queries(service{name: "payment-service"}.host())
	for range 2 {
		if _, err := p.deploy(paymentService(p.logs.logger("payment-service"))); err != nil {
			return err
		}
	}
	begin := time.Now()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-all:
	case <-timer.C:
	}
	mu.Lock()
	names := strings.Join(slices.Sorted(maps.Keys(served)), " ")
	r.holds("m", "replicas that served within 10 s of the DNS change", "4", fmt.Sprintf("%d in %.1f s: %s", len(served), time.Since(begin).Seconds(), names), len(served) == 4)
	mu.Unlock()
	r.holds("m", "questions to the DNS server in between", "1 or more", fmt.Sprint(p.dns.Queries(service{name: "payment-service"}.host())-queries), p.dns.Queries(service{name: "payment-service"}.host()) > queries)

	// Nobody is told: the DNS goes on to name it.
	victim := p.running("payment-service", "")[0]
	victim.kill()
	<-victim.ended
	if err := l.advance(ctx, 150); err != nil {
		return err
	}
	p.withdraw(victim)
	if err := l.advance(ctx, 50); err != nil {
		return err
	}
	l.report(r, "m")
	return nil
}
