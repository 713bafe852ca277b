package pool_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
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
