package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
)

// A client of a service that is down, then back.
func Example() {
	var down atomic.Bool
	var tries atomic.Int32
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tries.Add(1)
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer service.Close()

	gate := gatemesh.Must(breaker.NewGate(breaker.GateConfig{Policy: breaker.Policy{Failures: 4, Delay: 100 * time.Millisecond}}))
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: func(context.Context, string) (gatemesh.Destination, bool) {
			return gatemesh.Destination{Service: "orders"}, true
		},
		Layers: []gatemesh.Layer{
			gatemesh.Must(breaker.NewDeadline(breaker.DeadlineConfig{Timeout: 5 * time.Second})).Layer(),
			gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{MaxAttempts: 2})).Layer(),
			gate.Layer(),
		},
	}))
	client := &http.Client{Transport: out.Transport(nil)}
	get := func() {
		before := tries.Load()
		resp, err := client.Get(service.URL)
		var refused *gatemesh.Denial
		switch {
		case errors.As(err, &refused):
			fmt.Println(refused.Reason, "after", tries.Load()-before, "tries")
		case err == nil:
			_ = resp.Body.Close()
			fmt.Println(resp.StatusCode, "after", tries.Load()-before, "tries")
		}
	}
	get()
	down.Store(true)
	get()
	get()
	get()
	down.Store(false)
	time.Sleep(100 * time.Millisecond)
	get()
	fmt.Println(gate.State(gatemesh.Destination{Service: "orders"}))
	// Output:
	// 200 after 1 tries
	// 503 after 2 tries
	// 503 after 2 tries
	// circuit_open after 0 tries
	// 200 after 1 tries
	// closed
}

// A breaker of its own for something that is no service of the mesh.
func ExampleBreaker_Do() {
	redis := gatemesh.Must(breaker.New(breaker.Config{Name: "redis", Policy: breaker.Policy{Failures: 1}}))
	ask := func(context.Context) error { return errors.New("connection refused") }
	for range 2 {
		fmt.Println(redis.Do(context.Background(), ask))
	}
	// Output:
	// connection refused
	// unavailable: circuit_open: The service is not available; try again later.
}
