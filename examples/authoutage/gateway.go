package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	// patience is how long a client waits for an answer.
	patience = 500 * time.Millisecond
	// fetchTimeout is how long a gateway waits for the auth service.
	fetchTimeout = 400 * time.Millisecond
	// headroom is how many times its healthy load a gateway is sized for.
	headroom = 4
)

// workersFor returns how many requests a gateway of the size for rate handles
// at a time: what a request takes, times how many there are, times headroom.
func workersFor(rate int) int {
	return max(headroom, int((headroom*time.Duration(rate)*(lookup+meanWork())+time.Second-1)/time.Second))
}

// gateway is a front door and the six services behind it.
type gateway struct {
	name    string
	addr    string
	servers []*http.Server // the gateway's own is the last one
	closers []func() error
}

// startGateway starts six services, and in front of them a gateway that asks
// guard who is calling. All that two gateways differ in is their guard.
func startGateway(ctx context.Context, name string, workers int, guard func(next http.Handler) http.Handler) (_ *gateway, err error) {
	g := &gateway{name: name}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	to := map[string]*url.URL{}
	for _, s := range services {
		srv, addr, err := s.start(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		g.servers = append(g.servers, srv)
		to[s.name] = &url.URL{Scheme: "http", Host: addr}
	}
	t := pooled(workers)
	g.closers = append(g.closers, func() error { t.CloseIdleConnections(); return nil })
	srv, addr, err := serve(ctx, bounded(workers, guard(proxy(to, t))))
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
	for _, c := range g.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
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

// naive asks the auth service about every token of every request. It does so
// properly: connections are kept, there is a timeout, a client that leaves is
// not asked for any more, and nothing passes that was not said to be active.
type naive struct {
	url, id, secret string
	client          *http.Client
}

func (n *naive) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch active, err := n.introspect(r.Context(), token); {
		case err != nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		case !active:
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (n *naive) introspect(ctx context.Context, token string) (active bool, err error) {
	body := strings.NewReader(url.Values{"token": {token}}.Encode())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url, body)
	if err != nil {
		return false, err
	}
	r.SetBasicAuth(n.id, n.secret)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := n.client.Do(r)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read or given up
	var answer struct {
		Active   bool   `json:"active"`
		Issuer   string `json:"iss"`
		Audience string `json:"aud"`
		Expiry   int64  `json:"exp"`
	}
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("introspection: status is %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // to its end, so that the connection is kept
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return false, err
	}
	return answer.Active && answer.Issuer == issuer && answer.Audience == audience && time.Now().Unix() < answer.Expiry, nil
}
