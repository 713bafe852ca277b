package spire_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/mtls/spire"
)

func ExampleNew() {
	addr, stop := exampleAgent() // in production SPIFFE_ENDPOINT_SOCKET says where it is
	defer stop()

	source, err := spire.New(context.Background(), spire.Config{Addr: addr})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer source.Close()
	gatemesh.Must(mtls.New(mtls.Config{
		Source:    source,
		Authorize: gatemesh.Must(mtls.MemberOf("example.org")),
	}))
	fmt.Println(source.Credentials().ID)
	// Output: spiffe://example.org/ns/production/sa/payment-service
}

func exampleAgent() (addr string, stop func()) {
	ca := gatemesh.Must(devca.New("example.org"))
	cert := gatemesh.Must(ca.Issue("spiffe://example.org/ns/production/sa/payment-service", time.Hour))
	dir := gatemesh.Must(os.MkdirTemp("", "agent"))
	a := &agent{path: filepath.Join(dir, "s"), changed: make(chan struct{}), answer: response(&workload.X509SVID{
		SpiffeId: "spiffe://example.org/ns/production/sa/payment-service", X509Svid: cert.Certificate[0],
		X509SvidKey: gatemesh.Must(x509.MarshalPKCS8PrivateKey(cert.PrivateKey)), Bundle: raw(ca.Bundle()),
	})}
	if err := a.serve(); err != nil {
		panic(err)
	}
	return a.addr(), func() { a.stop(); _ = os.RemoveAll(dir) }
}
