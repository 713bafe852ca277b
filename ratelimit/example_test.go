package ratelimit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/ratelimit"
)

func ExampleLimiter_Handler() {
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	limiter := gatemesh.Must(ratelimit.New(ratelimit.Config{
		Name:  "client",
		Key:   ratelimit.ByClient(0),
		Limit: ratelimit.Limit{Requests: 2, Per: time.Hour},
	}))
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	server := httptest.NewServer(entry.Handler(limiter.Handler(hello)))
	defer server.Close()

	for range 3 {
		resp, err := server.Client().Get(server.URL)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Println(resp.StatusCode, resp.Header.Get("RateLimit"))
	}
	// Output:
	// 200 "client";r=1;t=3600
	// 200 "client";r=0;t=3600
	// 429 "client";r=0;t=3600
}

func ExampleParseLimit() {
	quota, err := ratelimit.ParseLimit("1000/1m")
	fmt.Println(quota.Requests, quota.Per, err)
	bucket, err := ratelimit.ParseLimit("100/1s,burst=200")
	fmt.Println(bucket.Requests, bucket.Per, bucket.Burst, err)
	// Output:
	// 1000 1m0s <nil>
	// 100 1s 200 <nil>
}
