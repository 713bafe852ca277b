package identity_test

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
)

// A gRPC service that demands the edge's word for who the user is.
func ExampleVerifier_gRPC() {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	edge := gatemesh.Must(identity.NewMinter(identity.MinterConfig{
		Issuer: "https://edge.example.internal", Audience: []string{"cluster.local"}, Key: identity.SigningKey{Private: private},
	}))
	verifier := gatemesh.Must(identity.NewVerifier(identity.VerifierConfig{
		Issuer: "https://edge.example.internal", Audience: []string{"cluster.local"}, Keys: edge,
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, verifier.Layer()))
	server := grpc.NewServer(gatemesh.Must(grpcmesh.NewServer(chain)).Options()...)
	service := grpctest.Serve(server, nil)
	defer service.Close()

	// What the edge would send along with the call of a user.
	user := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
		Issuer: "https://auth.example.com/", Subject: "user-1", Method: "jwt",
	})}))
	call := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Protocol: gatemesh.GRPC, Parent: user}))
	admission := gatemesh.Must(edge.Admit(context.Background(), call))
	fmt.Println(service.Check(admission.Header[0].Name, admission.Header[0].Value))
	fmt.Println(service.Check())
	// Output:
	// OK
	// Unauthenticated: The call carries no internal identity.
}
