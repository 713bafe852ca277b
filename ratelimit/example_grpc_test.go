package ratelimit_test

import (
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
	"github.com/gatemesh-go/gatemesh/ratelimit"
)

// The same limiter in front of a gRPC server. It refuses in the tap handle,
// before a message is read.
func ExampleLimiter_gRPC() {
	limit := gatemesh.Must(ratelimit.New(ratelimit.Config{
		Name: "client", Key: ratelimit.ByClient(0), Limit: ratelimit.Limit{Requests: 2, Per: time.Minute},
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, limit.Layer()))

	server := grpc.NewServer(gatemesh.Must(grpcmesh.NewServer(chain)).Options()...)
	service := grpctest.Serve(server, nil)
	defer service.Close()
	for range 3 {
		fmt.Println(service.Check())
	}
	// Output:
	// OK
	// OK
	// ResourceExhausted: Too many requests; try again later.
}
