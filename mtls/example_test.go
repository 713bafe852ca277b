package mtls_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

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

// A front door whose certificates are mounted as Kubernetes Secrets, one folder
// for each host. They are renewed while it serves.
func ExampleEdge() {
	dir := gatemesh.Must(os.MkdirTemp("", "secrets"))
	defer func() { _ = os.RemoveAll(dir) }()
	ca := gatemesh.Must(devca.New("public.example"))
	for _, host := range []string{"shop.example", "*.api.example"} {
		certPEM, keyPEM, err := devca.EncodePEM(gatemesh.Must(ca.ServerCertificate(host)))
		if err != nil {
			log.Fatal(err)
		}
		secret := filepath.Join(dir, strings.TrimPrefix(host, "*."))
		if err := errors.Join(
			os.Mkdir(secret, 0o700),
			os.WriteFile(filepath.Join(secret, "tls.crt"), certPEM, 0o600),
			os.WriteFile(filepath.Join(secret, "tls.key"), keyPEM, 0o600),
		); err != nil {
			log.Fatal(err)
		}
	}

	edge := gatemesh.Must(mtls.NewEdge(mtls.EdgeConfig{Folder: dir, Default: "shop.example"}))
	defer func() { _ = edge.Close() }()
	server := &http.Server{TLSConfig: edge.TLSConfig(), Handler: http.NotFoundHandler()}
	listener := gatemesh.Must(net.Listen("tcp", "127.0.0.1:0"))
	go func() { _ = server.ServeTLS(listener, "", "") }()
	defer func() { _ = server.Close() }()

	for _, host := range []string{"v1.api.example", "shop.example"} {
		conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{RootCAs: ca.Pool(), ServerName: host})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(host, "is served with", conn.ConnectionState().PeerCertificates[0].DNSNames)
		_ = conn.Close()
	}

	// Output:
	// v1.api.example is served with [*.api.example]
	// shop.example is served with [shop.example]
}
