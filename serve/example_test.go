package serve_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/serve"
)

// A service moves from plain text to mutual TLS while it runs: on one port, as
// the PeerAuthentication of its namespace says.
func ExampleServer_permissive() {
	us := gatemesh.Workload{
		Name: "payment-service", TrustDomain: "cluster.local", Namespace: "production", ServiceAccount: "payment-service",
	}
	ca := gatemesh.Must(devca.New("cluster.local"))
	cfg := mtls.Config{
		Source:    gatemesh.Must(ca.Source(devca.WorkloadConfig{Workload: us})),
		Authorize: gatemesh.Must(mtls.MemberOf("cluster.local")),
	}
	policy := func(mode string) mtls.Modes {
		set := gatemesh.Must(manifest.Parse("peers.yaml", []byte(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: production}
spec:
  mtls: {mode: `+mode+`}
`)))
		return gatemesh.Must(mtls.ResolveModes(mtls.ModesConfig{Workload: us, Policies: set.PeerAuthentications()}))
	}
	cfg.Modes = policy("PERMISSIVE")
	mesh := gatemesh.Must(mtls.New(cfg))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Peer: mesh.Peer}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, mesh.Layer()))

	ctx, stop := context.WithCancel(context.Background())
	addr, done := make(chan string), make(chan error)
	go func() {
		done <- serve.Run(ctx, serve.Config{
			Servers: []serve.Server{{
				Name: "mesh", Addr: "127.0.0.1:0",
				Wrap: func(l net.Listener) net.Listener { return mesh.Listener(l, nil) },
				Handler: chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					fmt.Fprint(w, gatemesh.FromContext(r.Context()).Peer() != nil)
				})),
			}},
			Logger:  slog.New(slog.DiscardHandler),
			Started: func(addrs map[string]net.Addr) { addr <- addrs["mesh"].String() },
		})
	}()
	target := <-addr
	ask := func(client *http.Client, scheme string) {
		resp := gatemesh.Must(client.Get(scheme + "://" + target))
		body := gatemesh.Must(io.ReadAll(resp.Body))
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			body = []byte("refused")
		}
		fmt.Println(scheme, resp.StatusCode, string(body))
	}
	order := gatemesh.Must(mtls.New(mtls.Config{
		Source:    gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: "spiffe://cluster.local/ns/production/sa/order-service"})),
		Authorize: cfg.Authorize,
	}))
	mutual := &http.Client{Transport: gatemesh.Must(order.Transport(gatemesh.Must(mtls.Exactly(us.SPIFFEID()))))}
	plain := &http.Client{Transport: &http.Transport{}}
	ask(mutual, "https")
	ask(plain, "http")
	fmt.Println("calls in plain text:", mesh.Status().PlainText)

	cfg.Modes = policy("STRICT") // once that number stands still
	if err := mesh.Update(cfg); err != nil {
		fmt.Println(err)
	}
	ask(mutual, "https")
	ask(plain, "http")

	mutual.CloseIdleConnections()
	plain.CloseIdleConnections()
	stop()
	fmt.Println("stopped:", <-done)
	// Output:
	// https 200 true
	// http 200 false
	// calls in plain text: 1
	// https 200 true
	// http 401 refused
	// stopped: <nil>
}
