package breaker_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
)

// A service that works on no more than it can, for the time that its callers
// wait. One call at a time, here.
func ExampleLimiter() {
	limiter := gatemesh.Must(breaker.NewLimiter(breaker.LimiterConfig{
		Min: 1, Max: 1, MaxWait: time.Millisecond,
		Priority: func(c *gatemesh.Call) breaker.Priority {
			if c.Path() == "/healthz" {
				return breaker.Exempt
			}
			return breaker.Normal
		},
	}))
	deadline := gatemesh.Must(breaker.NewDeadline(breaker.DeadlineConfig{Timeout: 30 * time.Second}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	began, end := make(chan struct{}), make(chan struct{})
	service := httptest.NewServer(gatemesh.Must(gatemesh.NewChain(entry, deadline.Layer(), limiter.Layer())).Handler(
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(began)
				<-end
			}
		})))
	defer service.Close()
	get := func(path string) int {
		resp, err := http.Get(service.URL + path)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	slow := make(chan int)
	go func() { slow <- get("/slow") }()
	<-began
	fmt.Println(get("/orders"), get("/healthz"))
	close(end)
	fmt.Println(<-slow, limiter.Stats().Refused)
	// Output:
	// 503 200
	// 200 1
}

// The same layers in front of a gRPC server: health checks are exempt.
func ExampleLimiter_gRPC() {
	limiter := gatemesh.Must(breaker.NewLimiter(breaker.LimiterConfig{}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, limiter.Layer()))
	service := grpctest.Serve(grpc.NewServer(gatemesh.Must(grpcmesh.NewServer(chain)).Options()...), nil)
	defer service.Close()
	fmt.Println(service.Check())
	fmt.Println(limiter.Stats().Exempt)
	// Output:
	// OK
	// 1
}

// A replica that takes long is not waited for.
func ExampleHedgeConfig() {
	end := make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Gatemesh-Hop") == "attempt=2, retries=1" {
			fmt.Fprint(w, "fast")
			return
		}
		<-end
	}))
	defer service.Close()
	defer close(end)
	retry := gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{Hedge: breaker.HedgeConfig{After: 5 * time.Millisecond}}))
	orders := gatemesh.Destination{Service: "orders"}
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   func(context.Context, string) (gatemesh.Destination, bool) { return orders, true },
		Layers: []gatemesh.Layer{retry.Layer()},
	}))
	resp, err := (&http.Client{Transport: out.Transport(nil)}).Get(service.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = resp.Body.Close()
	fmt.Println(resp.StatusCode, retry.Stats()[orders].Hedged)
	// Output: 200 1
}

// Less is sent to a callee that refuses.
func ExampleThrottle() {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
	defer service.Close()
	throttle := gatemesh.Must(breaker.NewThrottle(breaker.ThrottleConfig{}))
	orders := gatemesh.Destination{Service: "orders"}
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   func(context.Context, string) (gatemesh.Destination, bool) { return orders, true },
		Layers: []gatemesh.Layer{throttle.Layer()},
	}))
	client := &http.Client{Transport: out.Transport(nil)}
	for range 200 {
		if resp, err := client.Get(service.URL); err == nil {
			_ = resp.Body.Close()
		}
	}
	fmt.Println(throttle.Stats()[orders].Refused > 50)
	// Output: true
}
