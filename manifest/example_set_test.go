package manifest_test

import (
	"fmt"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

const twoGateways = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec: {gatewayClassName: gatemesh, listeners: [{name: web, port: 443, protocol: HTTPS, hostname: "*.example.com"}, {name: old, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: internal, namespace: edge}
spec: {gatewayClassName: gatemesh, listeners: [{name: web, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: edge}
spec: {parentRefs: [{name: public, sectionName: web}, {name: internal, sectionName: web}], rules: [{backendRefs: [{name: shop, port: 8080}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reports, namespace: edge}
spec: {parentRefs: [{name: internal}], rules: [{matches: [{path: {value: /reports}}], backendRefs: [{name: reports, port: 8080}]}]}
`

// A folder with several Gateways is read for one of them: what is meant for the
// internal one is not served by the public one.
func ExampleSet_For() {
	set := gatemesh.Must(manifest.Parse("edge.yaml", []byte(twoGateways)))
	fmt.Println(set.Gateways(), len(set.Routes()))
	for _, name := range []string{"public", "internal"} {
		fmt.Print(name, ":")
		for _, r := range gatemesh.Must(set.For("edge", name)).Routes() {
			fmt.Print(" ", r.Name)
		}
		fmt.Println()
	}
	_, err := set.For("edge", "partner")
	fmt.Println(err)
	// Output:
	// [edge/internal edge/public] 0
	// public: edge/shop/0
	// internal: edge/reports/0 edge/shop/0
	// manifest: there is no Gateway edge/partner; there are: [edge/internal edge/public]
}

// A Service of Kubernetes maps port 443 to 8443 here. Calls are told apart by
// the local port, and redirects name the port of the Gateway.
func ExampleSet_RouteListeners() {
	set := gatemesh.Must(gatemesh.Must(manifest.Parse("edge.yaml", []byte(twoGateways))).For("edge", "public"))
	for _, l := range set.RouteListeners(map[uint16]uint16{443: 8443}) {
		fmt.Printf("%s: %q, local port %d, public port %d, TLS %v\n", l.Name, l.Hostname, l.Port, l.PublicPort, l.TLS)
	}
	// Output:
	// web: "*.example.com", local port 8443, public port 443, TLS true
	// old: "", local port 80, public port 80, TLS false
}

// A pool that acts as a DestinationRule says.
func ExampleSet_TrafficPolicy() {
	set := gatemesh.Must(manifest.Parse("orders.yaml", []byte(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  trafficPolicy:
    tls: {mode: ISTIO_MUTUAL}
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 1m}
`)))
	policy, said := set.TrafficPolicy(gatemesh.Destination{Service: "orders", Namespace: "shop", Port: 8080})
	cfg := pool.Config{Name: "orders.shop", Resolver: pool.Static("127.0.0.1:8080")}
	policy.Configure(&cfg)
	orders := gatemesh.Must(pool.New(cfg))
	defer orders.Close()
	fmt.Println(said, policy.Position, cfg.Balancer == pool.RoundRobin, cfg.Ejection.Failures, cfg.Ejection.Base, policy.TLS == manifest.TLSMesh)
	// Output:
	// true orders.yaml:7 true 3 1m0s true
}
