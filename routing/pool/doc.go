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
// A [File] and [StaticTargets] say besides in which zone an endpoint runs, what
// its share is and which labels it has, and so may a [TargetResolver] of your
// own. An endpoint of which that changes keeps what is known of it.
//
// # Choice
//
// [Config.Balancer] says by what an endpoint is chosen, and all of them do so by
// the weights of the endpoints. It is the same code for HTTP and gRPC, see
// [Chooser], and for each of its tries a call goes to an endpoint that it has not
// tried, as far as there are any.
//
// [P2C] is the default. Two endpoints are drawn at random, and the attempt goes
// to the one that costs less: its latency, times the attempts in flight at it and
// the new one. Latency is an exponentially weighted average over ten seconds that
// follows peaks at once. It sinks while nothing is measured, so that an endpoint
// which was slow is tried again. Making a connection is no part of it, and less
// than a quarter is no difference, so that equal endpoints get about equal shares,
// also when little is asked of them. Choose another one only for a reason: the
// others do not see that an endpoint is slow, or, [LeastRequest], not until calls
// wait at it.
//
// An endpoint without a sample gets one attempt before all others. Until that
// is answered it counts as twice as slow as the one it is compared with, so
// that it is neither flooded nor starved. Where one attempt says little, because
// an endpoint has to fill its caches first, [Config.Warmup] has its share grow.
//
// # Zones
//
// With [Config.Zone] calls stay in the zone of their caller, as long as its
// endpoints are enough for what comes from there: no endpoint gets more than
// [Config.ZoneLoad] because of where it is. What is too much, as when some are
// out, goes to the other zones, to each endpoint of them alike.
//
// # Ejection, health checks, and panic
//
// An endpoint that fails [Ejection.Failures] times in a row, whose failures are
// [Ejection.FailurePercent] of its attempts and twice those of the others, or
// that cannot be connected to once, is out for [Ejection.Base], and longer at
// each repeat. If more than half of the endpoints fail it is no outlier, and
// stays in unless it cannot be connected to: the fault is that of the requests.
// No more than [Ejection.MaxPercent] are out at a time, and never all: a fault of
// the network or of our own must not leave nobody to ask.
//
// [Config.Health] asks endpoints actively, and keeps those out that fail. It is
// for services that so little is asked of that failures are seen late, and for
// those that know themselves when they are not well.
//
// An endpoint is in if neither keeps it out. Those that are unhealthy count
// against MaxPercent, so that ejections do not add to a fault that the checks
// have seen; nothing holds an unhealthy one in. If a smaller share than
// [Config.MinHealthPercent] is in nevertheless, nobody is taken to be out. Of
// the three, this is the last word; then comes the zone, and then the balancer.
//
// The names in Istio and Envoy: Failures is consecutiveGatewayErrors, and with
// [Ejection.Server5xx] consecutive5xxErrors; Base is baseEjectionTime, Max
// max_ejection_time, MaxPercent maxEjectionPercent, FailurePercent
// failure_percentage_threshold with its minimum_hosts and request_volume,
// MinHealthPercent minHealthPercent, Warmup warmup, and HashKey consistentHash.
//
// # Connections
//
// [Pool.Transport] uses the connections of any transport. [Pool.NewTransport]
// has its own to each endpoint: they are closed before the server closes them,
// and when the endpoint is out. The transport of package mtls goes with the
// former, as it keeps its connections by itself.
//
// # Read it in this order
//
// resolver.go, target.go, dns.go and file.go say who serves; pool.go and learn.go
// keep the list, watch.go passes it on; endpoint.go, latency.go and window.go
// measure; eject.go, health.go and healthask.go say who is out, tell.go tells of
// it, and status.go shows it; view.go puts that together, choose.go, balance.go,
// ring.go and key.go choose from it; transport.go and connections.go do it for
// HTTP. gRPC stands on the same: [Pool.Watch], [Pool.Chooser] and
// [Endpoint.Begin]. What there is to set is in config.go, healthconfig.go and
// defaults.go.
package pool
