package devca_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

func ExampleCA_Source() {
	ca := gatemesh.Must(devca.New("cluster.local"))
	source := gatemesh.Must(ca.Source(devca.WorkloadConfig{Workload: gatemesh.Workload{
		Name: "payment-service", TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: "payment-service",
	}}))
	defer source.Close()
	fmt.Println(source.Credentials().ID)
	// Output: spiffe://cluster.local/ns/production/sa/payment-service
}

// A server would be the command cmd/devca, and each client a process of its own.
func ExampleNewClient() {
	dir := gatemesh.Must(os.MkdirTemp("", "devca"))
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "devca.sock") // both have the same default

	ca := gatemesh.Must(devca.New("cluster.local"))
	server := gatemesh.Must(devca.NewServer(devca.ServerConfig{CA: ca, Socket: socket}))
	defer server.Close()

	source, err := devca.NewClient(context.Background(), devca.ClientConfig{
		ID: "spiffe://cluster.local/ns/production/sa/order-service", Socket: socket,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer source.Close()
	fmt.Println(source.Credentials().ID)
	// Output: spiffe://cluster.local/ns/production/sa/order-service
}
