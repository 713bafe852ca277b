package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync/atomic"
	"time"
)

// headroom is how many times its healthy load a gateway is sized for.
const headroom = 4

// workersFor returns how many requests a gateway of the size for rate handles
// at a time: what a request takes, times how many there are, times headroom.
func workersFor(rate int) int {
	return max(headroom, int((headroom*time.Duration(rate)*(lookup+meanWork())+time.Second-1)/time.Second))
}

// gateway is a front door and the six services behind it.
type gateway struct {
	name    string
	addr    string
	calls   atomic.Int64   // of the auth service
	servers []*http.Server // the gateway's own is the last one
	idle    []func()       // closes connections that are not in use
	guard   func() error   // ends the guard; or nil
}

// guard is who a gateway asks about its callers, and what ends it.
type guard struct {
	around func(http.Handler) http.Handler
	close  func() error
}

// startGateway starts six services, and in front of them a gateway that asks
// a guard who is calling. All that two gateways differ in is their guard, which
// gets the connections to the auth service.
func startGateway(ctx context.Context, name string, workers int, s *authService, newGuard func(http.RoundTripper) (guard, error)) (_ *gateway, err error) {
	g := &gateway{name: name}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	to := map[string]*url.URL{}
	for _, one := range services {
		srv, addr, err := one.start(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.name, err)
		}
		g.servers = append(g.servers, srv)
		to[one.name] = &url.URL{Scheme: "http", Host: addr}
	}
	up, asking := pooled(workers), pooled(workers)
	asking.DialContext = s.dial
	g.idle = []func(){up.CloseIdleConnections, asking.CloseIdleConnections}
	who, err := newGuard(counted{asking, &g.calls})
	if err != nil {
		return nil, err
	}
	g.guard = who.close
	srv, addr, err := serve(ctx, bounded(workers, who.around(proxy(to, up))))
	if err != nil {
		return nil, err
	}
	g.servers, g.addr = append(g.servers, srv), addr
	return g, nil
}

func (g *gateway) close() error {
	var errs []error
	for _, srv := range slices.Backward(g.servers) {
		errs = append(errs, srv.Close())
	}
	if g.guard != nil {
		errs = append(errs, g.guard())
	}
	for _, idle := range g.idle {
		idle()
	}
	return errors.Join(errs...)
}

// counted counts the calls that are made, those too that reach nobody.
type counted struct {
	next  http.RoundTripper
	calls *atomic.Int64
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.calls.Add(1)
	return c.next.RoundTrip(r)
}

// bounded lets n requests at a time through. The others wait in line, first
// come, first served, until their client leaves: a thread pool with its queue.
func bounded(n int, next http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
			w.WriteHeader(http.StatusServiceUnavailable) // nobody reads it
		}
	})
}

// proxy forwards /NAME/… to the service of that name, without the token.
func proxy(to map[string]*url.URL, t http.RoundTripper) http.Handler {
	reverse := &httputil.ReverseProxy{
		Transport: t,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(to[pr.In.PathValue("service")])
			pr.Out.Header.Del("Authorization")
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{service}/payments", func(w http.ResponseWriter, r *http.Request) {
		if to[r.PathValue("service")] == nil {
			http.NotFound(w, r)
			return
		}
		reverse.ServeHTTP(w, r)
	})
	return mux
}

// pooled returns a transport that keeps a connection for each of n requests.
func pooled(n int) *http.Transport {
	return &http.Transport{MaxIdleConns: n * len(services), MaxIdleConnsPerHost: n, IdleConnTimeout: 30 * time.Second}
}
