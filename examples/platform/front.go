package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// front is the load balancer in front of the gateway and the clients behind
// it: it sends them to the instances that say they are ready.
type front struct {
	mu        sync.Mutex
	gateways  []*gateway
	pool      *pool.Pool
	probes    *http.Client
	transport []*http.Transport
}

const probing = 100 * time.Millisecond

func newFront() (*front, error) {
	f := &front{probes: &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	return f, nil
}

// add puts g behind the front and waits until it is seen.
func (f *front) add(g *gateway) (err error) {
	f.mu.Lock()
	f.gateways = append(f.gateways, g)
	if f.pool == nil {
		f.pool, err = pool.New(pool.Config{Name: "gateway", Resolver: f, Interval: probing, Cooldown: probing / 10})
	}
	p := f.pool
	f.mu.Unlock()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return see(ctx, p, func(addrs []string) bool { return slices.Contains(addrs, g.addr) })
}

// see waits until the addresses of p are as wanted.
func see(ctx context.Context, p *pool.Pool, wanted func([]string) bool) error {
	seen := make(chan struct{})
	var once sync.Once
	stop := p.Watch(func(list []*pool.Endpoint) {
		var addrs []string
		for _, e := range list {
			addrs = append(addrs, e.Address())
		}
		if wanted(addrs) {
			once.Do(func() { close(seen) })
		}
	})
	defer stop()
	select {
	case <-seen:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for endpoints: %w", ctx.Err())
	}
}

// Resolve implements pool.Resolver.
func (f *front) Resolve(ctx context.Context) ([]string, error) {
	f.mu.Lock()
	all := slices.Clone(f.gateways)
	f.mu.Unlock()
	var ready []string
	for _, g := range all {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.health+"/readyz", http.NoBody)
		if err != nil {
			return nil, err
		}
		resp, err := f.probes.Do(r)
		if err != nil {
			continue // it is gone
		}
		if resp.StatusCode == http.StatusOK {
			ready = append(ready, g.addr)
		}
		_ = resp.Body.Close() // the status says it all
	}
	if len(ready) == 0 {
		return nil, errors.New("no gateway is ready")
	}
	return ready, nil
}

// client returns a client of the gateway. With http1 it speaks HTTP/1.1, with
// fresh it makes a connection for every request.
func (p *platform) client(http1, fresh bool) *http.Client {
	t := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: p.edge.ca.Pool(), ServerName: host, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: !http1, DisableKeepAlives: fresh, MaxIdleConnsPerHost: 64,
	}
	if http1 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(true)
	}
	p.front.mu.Lock()
	defer p.front.mu.Unlock()
	p.front.transport = append(p.front.transport, t)
	return &http.Client{Timeout: 30 * time.Second, Transport: p.front.pool.Transport(t)}
}

func (f *front) close() {
	f.mu.Lock()
	p := f.pool
	f.mu.Unlock()
	if p != nil {
		_ = p.Close() // the platform ends; it waits for a Resolve, which takes mu
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.transport {
		t.CloseIdleConnections()
	}
	f.probes.CloseIdleConnections()
}
