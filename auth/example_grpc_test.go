package auth_test

import (
	"fmt"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
)

// The same gate in front of a gRPC server.
func ExampleAuthenticator_gRPC() {
	secret, hash := auth.GenerateKey()
	keys := gatemesh.Must(auth.NewKeySet([]auth.Key{{ID: "acme-1", Consumer: "acme", Hash: hash}}))
	who := gatemesh.Must(auth.New(auth.Config{APIKeys: keys}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, who.Layer()))

	server := grpc.NewServer(gatemesh.Must(grpcmesh.NewServer(chain)).Options()...)
	service := grpctest.Serve(server, nil)
	defer service.Close()
	fmt.Println(service.Check("x-api-key", secret))
	fmt.Println(service.Check())
	// Output:
	// OK
	// Unauthenticated: The request carries no credential.
}
