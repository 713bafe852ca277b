package mtls_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// Two services of one mesh, with certificates of an authority in memory. In a
// cluster, NewFiles takes its place.
func Example() {
	ca := gatemesh.Must(devca.New("cluster.local"))
	workload := func(name string) gatemesh.Workload {
		return gatemesh.Workload{Name: name, TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: name}
	}

	// payment-service lets the workloads of its own namespace in.
	payment := gatemesh.Must(mtls.New(mtls.Config{
		Source:    gatemesh.Must(ca.Source(devca.WorkloadConfig{Workload: workload("payment-service")})),
		Authorize: gatemesh.Must(mtls.PathPrefix("cluster.local", "/ns/production")),
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Peer: payment.Peer}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, payment.Layer()))
	server := &http.Server{
		TLSConfig: payment.ServerConfig(),
		ErrorLog:  log.New(io.Discard, "", 0),
		Handler: chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "hello, %s", gatemesh.FromContext(r.Context()).Peer().ServiceAccount())
		})),
	}
	listener := gatemesh.Must(net.Listen("tcp", "127.0.0.1:0"))
	go func() { _ = server.ServeTLS(listener, "", "") }()
	defer func() { _ = server.Close() }()

	// order-service talks to payment-service and to nobody who pretends to be it.
	order := gatemesh.Must(mtls.New(mtls.Config{
		Source:    gatemesh.Must(ca.Source(devca.WorkloadConfig{Workload: workload("order-service")})),
		Authorize: gatemesh.Must(mtls.MemberOf("cluster.local")),
	}))
	client := &http.Client{Transport: gatemesh.Must(order.Transport(
		gatemesh.Must(mtls.Exactly(workload("payment-service").SPIFFEID())),
	))}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + listener.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	body := gatemesh.Must(io.ReadAll(resp.Body))
	_ = resp.Body.Close()
	fmt.Println(resp.Status, string(body))

	// A client without a certificate does not get as far as that.
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	_, err = stranger.Get("https://" + listener.Addr().String())
	fmt.Println("stranger refused:", err != nil)

	// Output:
	// 200 OK hello, order-service
	// stranger refused: true
}
