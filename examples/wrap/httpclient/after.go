package httpclient

import (
	"net/http"

	// gatemesh: begin
	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing/pool"
	// gatemesh: end
)

// After calls payment-service over mutual TLS, with the request id and the user
// of the request that it is made for, and everybody else as before. peers is
// our side of mutual TLS, payments the endpoints of payment-service; see pool.
func (s settings) After(
	// gatemesh: begin
	peers *mtls.TLS, payments *pool.Pool,
	// gatemesh: end
) *http.Client {
	client := &http.Client{
		Timeout: s.timeout, CheckRedirect: checkRedirect, Jar: s.jar, Transport: s.transport(),
	}
	// gatemesh: begin
	callee := gatemesh.Must(mtls.Exactly("spiffe://cluster.local/ns/production/sa/payment-service"))
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"payment-service": {Service: "payment-service", Namespace: "production"}}),
		Layers: []gatemesh.Layer{gatemesh.Must(breaker.NewRetry(breaker.RetryConfig{})).Layer(),
			gatemesh.Must(breaker.NewGate(breaker.GateConfig{})).Layer(), identity.Forward()},
	}))
	client.Transport = out.Transport(gatemesh.HostTransports(map[string]http.RoundTripper{
		"payment-service": payments.Transport(gatemesh.Must(peers.Transport(callee))),
	}, client.Transport))
	// gatemesh: end
	return client
}
