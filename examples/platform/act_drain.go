package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// actDrain replaces a replica of user-service, the one of order-service, and
// the gateway, each by a new one, while requests flow.
func actDrain(ctx context.Context, p *platform, r *report) error {
	users, err := p.users("drain", 200)
	if err != nil {
		return err
	}
	front := func(name string, c *http.Client, method, path string, status int) flow {
		return flow{name, func(ctx context.Context, i int) error {
			_, err := p.expect(ctx, c, method, path, users[i%len(users)], status)
			return err
		}}
	}
	l := startLoad(ctx,
		front("h2 GET", p.http, http.MethodGet, "/v1/users/1", 200),
		front("h1 GET", p.client(true, false), http.MethodGet, "/v1/users/1", 200),
		front("new connection GET", p.client(false, true), http.MethodGet, "/v1/users/1", 200),
		front("h2 POST", p.http, http.MethodPost, "/v1/orders", 201),
		front("h1 POST", p.client(true, false), http.MethodPost, "/v1/orders", 201),
		front("gRPC behind it", p.http, http.MethodPost, "/v1/orders/1/charges", 200),
	)
	defer l.end()
	if err := l.advance(ctx, 20); err != nil {
		return err
	}
	for _, name := range []struct{ name, version string }{{"user-service", "v1"}, {"order-service", ""}} {
		old := p.running(name.name, name.version)[0]
		if _, err := p.deploy(old.service); err != nil {
			return err
		}
		if err := l.advance(ctx, 20); err != nil {
			return err
		}
		p.withdraw(old)
		took, err := p.sigterm(ctx, old)
		if err != nil {
			return err
		}
		r.holds("k", name.name+" ends", "within "+(lameDuck+drain).String(), fmt.Sprintf("%.1f s, %v", took.Seconds(), orNil(old.err)), old.err == nil && took <= lameDuck+drain)
		if err := l.advance(ctx, 20); err != nil {
			return err
		}
	}
	old := p.gateway
	if p.gateway, err = p.startGateway("127.0.0.1:0"); err != nil {
		return err
	}
	if err := l.advance(ctx, 20); err != nil {
		return err
	}
	begin := time.Now()
	err = old.stop()
	took := time.Since(begin)
	r.holds("k", "the gateway ends", "within "+(lameDuck+drain).String(), fmt.Sprintf("%.1f s, %v", took.Seconds(), orNil(err)), err == nil && took <= lameDuck+drain)
	if err := l.advance(ctx, 20); err != nil {
		return err
	}
	l.report(r, "k")
	return nil
}

func orNil(err error) string {
	if err == nil {
		return "nothing was cut"
	}
	return err.Error()
}

var errStays = errors.New("a replica does not end")

// sigterm ends a replica and waits; without the guard of act k, it is killed.
func (p *platform) sigterm(ctx context.Context, r *replica) (time.Duration, error) {
	begin := time.Now()
	if p.broken == "k" {
		r.kill()
	} else {
		r.term()
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case <-r.ended:
		return time.Since(begin), nil
	case <-ctx.Done():
		return 0, errStays
	}
}
