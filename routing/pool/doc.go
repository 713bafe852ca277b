// Package pool says which of the endpoints of a service an attempt goes to,
// without a proxy: it follows a headless service in the DNS, measures each
// endpoint by the attempts that this process makes, and leaves alone what
// fails.
//
//	dns := gatemesh.Must(pool.NewDNS(pool.DNSConfig{Host: "orders.shop.svc.cluster.local.", Port: 8080}))
//	orders := gatemesh.Must(pool.New(pool.Config{Name: "orders.shop", Resolver: dns}))
//	defer orders.Close()
//	client := &http.Client{Transport: out.Transport(orders.Transport(base))}
//
// # Lookups
//
// The name is looked up every two seconds, whatever the TTL says, so that a pod
// that joins gets its share within seconds: also while every connection is
// healthy, which is when a client that looks up only on trouble never would.
// A failed connection brings the next lookup forward. Endpoints that are no
// longer found get no new attempts; those under way end undisturbed. What is
// known of them is kept for [Ejection.Max], in case an answer of the DNS has
// left them out for a moment.
//
// # Choice
//
// Two endpoints are drawn at random, and the attempt goes to the one that costs
// less: its latency, times the attempts in flight at it and the new one.
// Latency is an exponentially weighted average over ten seconds that follows
// peaks at once. It sinks while nothing is measured, so that an endpoint which
// was slow is tried again.
//
// An endpoint without a sample gets one attempt before all others. Until that
// is answered it counts as twice as slow as the one it is compared with, so
// that it is neither flooded nor starved.
//
// # Ejection
//
// An endpoint that fails [Ejection.Failures] times in a row, or cannot be
// connected to once, is out for [Ejection.Base], and longer at each repeat. If
// more than half of the endpoints fail it is no outlier, and stays in unless it
// cannot be connected to: the fault is that of the requests. No
// more than [Ejection.MaxPercent] are out at a time, and never all: a fault of
// the network or of our own must not leave nobody to ask. If more of those to
// choose from are out nevertheless, nobody is taken to be out.
//
// # Read it in this order
//
// resolver.go and dns.go say who serves; pool.go and learn.go keep the list,
// watch.go passes it on; endpoint.go and latency.go measure; eject.go and
// choose.go decide; transport.go does it for HTTP. gRPC stands on the same:
// [Pool.Watch], [Pool.Choose] and [Endpoint.Begin].
package pool
