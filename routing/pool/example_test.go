package pool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/dnstest"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

func ExamplePool_Transport() {
	replica := func(name string) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, " of ", r.Host) }))
	}
	one, two := replica("one"), replica("two")
	defer one.Close()
	defer two.Close()

	// In a cluster: pool.NewDNS with the name of a headless service.
	orders := gatemesh.Must(pool.New(pool.Config{
		Name:     "orders.shop",
		Resolver: pool.Static(one.Listener.Addr().String(), two.Listener.Addr().String()),
	}))
	defer orders.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	client := &http.Client{Transport: orders.Transport(base)}

	answers := map[string]int{}
	for range 100 {
		resp, err := client.Get("http://orders.shop/")
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		answers[string(body)]++
	}
	fmt.Println(len(answers), answers["one of orders.shop"] > 0, answers["two of orders.shop"] > 0)
	// Output: 2 true true
}

// A headless service is scaled from one pod to two, and the pool follows.
func ExampleNewDNS() {
	const name = "orders.shop.svc.cluster.local."
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	cluster := gatemesh.Must(dnstest.New()) // stands for the DNS of the cluster
	defer cluster.Close()
	cluster.Set(name, one)

	orders := gatemesh.Must(pool.New(pool.Config{
		Name:     "orders.shop",
		Resolver: gatemesh.Must(pool.NewDNS(pool.DNSConfig{Host: name, Port: 8080, Resolver: cluster.Resolver()})),
		Interval: 50 * time.Millisecond, // 2 s by default
	}))
	defer orders.Close()
	lists := make(chan []*pool.Endpoint, 2)
	defer orders.Watch(func(list []*pool.Endpoint) { lists <- list })()

	fmt.Println(<-lists)
	cluster.Set(name, one, two)
	fmt.Println(<-lists)
	// Output:
	// [10.0.0.1:8080]
	// [10.0.0.1:8080 10.0.0.2:8080]
}

func ExamplePool_Transport_ejection() {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer up.Close()
	down := httptest.NewServer(nil)
	down.Close() // refuses connections from here on

	orders := gatemesh.Must(pool.New(pool.Config{
		Name:     "orders.shop",
		Resolver: pool.Static(up.Listener.Addr().String(), down.Listener.Addr().String()),
		Ejection: pool.Ejection{Base: time.Minute},
	}))
	defer orders.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	client := &http.Client{Transport: orders.Transport(base)}

	failed := 0
	for range 100 {
		resp, err := client.Get("http://orders.shop/")
		if err != nil {
			failed++
			continue
		}
		resp.Body.Close()
	}
	out := 0
	for _, e := range orders.Endpoints() {
		if !e.EjectedUntil.IsZero() {
			out++
		}
	}
	fmt.Println(failed, "failed,", out, "endpoint is out")
	// Output: 1 failed, 1 endpoint is out
}

// A file says where the endpoints run, and calls stay in the zone of the caller.
func ExampleNewFile() {
	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "endpoints")
	_ = os.WriteFile(path, []byte(`# of orders
10.0.0.1:8080 zone=a
10.0.0.2:8080 zone=a weight=2
10.0.1.1:8080 zone=b
10.0.1.2:8080 zone=b
`), 0o600)

	file := gatemesh.Must(pool.NewFile(pool.FileConfig{Path: path}))
	defer file.Close()
	orders := gatemesh.Must(pool.New(pool.Config{Name: "orders.shop", Resolver: file, Zone: "a"}))
	defer orders.Close()
	_ = orders.WaitReady(context.Background())

	zones := map[string]bool{}
	defer orders.Watch(func(list []*pool.Endpoint) {
		c := orders.Chooser(list)
		for range 100 {
			zones[c.Choose(context.Background(), pool.Request{}).Zone()] = true
		}
	})()
	fmt.Println(zones)
	page, _ := json.Marshal(orders.Endpoints()[1])
	fmt.Println(string(page))
	// Output:
	// map[a:true]
	// {"address":"10.0.0.2:8080","zone":"a","weight":2,"state":"in","inFlight":0,"latency":0,"failures":0,"ejections":0}
}

// The calls of a user go to the same endpoint, as long as it is in.
func ExampleHashKey() {
	orders := gatemesh.Must(pool.New(pool.Config{
		Name: "orders.shop", Resolver: pool.Static("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"),
		Balancer: pool.RingHash, HashKey: pool.HashKey{Header: "X-User", BoundedLoad: 150},
	}))
	defer orders.Close()
	base := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(r.URL.Host))}, nil
	})
	client := &http.Client{Transport: orders.Transport(base)}
	seen := map[string]bool{}
	for range 10 {
		r, _ := http.NewRequest(http.MethodGet, "http://orders.shop/", nil)
		r.Header.Set("X-User", "alice")
		resp, err := client.Do(r)
		if err != nil {
			fmt.Println(err)
			return
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		seen[string(b)] = true
	}
	fmt.Println(len(seen))
	// Output: 1
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Pods are asked how they are, and those that start get a share that grows.
func ExampleHealth() {
	sick := httptest.NewServer(http.NotFoundHandler())
	defer sick.Close()
	well := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer well.Close()
	told := make(chan string, 1)
	orders := gatemesh.Must(pool.New(pool.Config{
		Name: "orders.shop", Resolver: pool.Static(sick.Listener.Addr().String(), well.Listener.Addr().String()),
		Warmup: pool.Warmup{Duration: 30 * time.Second},
		Health: pool.Health{Check: pool.CheckHTTP, Path: "/healthz", Interval: 20 * time.Millisecond},
		Observer: gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
			told <- strings.ReplaceAll(e.Message, sick.Listener.Addr().String(), "sick") + ": " + e.Err.Error()
		}),
	}))
	defer orders.Close()
	fmt.Println(<-told)
	// Output: the endpoint sick is unhealthy: the status is 404
}
