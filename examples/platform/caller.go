package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/examples/service/paymentspb"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/meshtest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing/pool"
	"github.com/gatemesh-go/gatemesh/trace"
)

// caller is how a service calls the others: by name, over mutual TLS pinned to
// the callee, at the replicas that the DNS knows, with retries of what may be
// retried.
type caller struct {
	p        *platform
	name     string
	member   *meshtest.Member
	out      *gatemesh.Outbound
	client   *http.Client
	observer gatemesh.Observer

	mu     sync.Mutex
	routes map[string]http.RoundTripper // by callee
	conns  map[string]*grpc.ClientConn  // by callee
	closes []io.Closer                  // in the order of closing
}

// caller returns the outbound side of the service name.
func (p *platform) caller(name string, member *meshtest.Member, tracer *trace.Tracer) (*caller, error) {
	c := &caller{
		p: p, name: name, member: member, observer: p.logs.observer(name),
		routes: map[string]http.RoundTripper{}, conns: map[string]*grpc.ClientConn{},
	}
	deadline, err := breaker.NewDeadline(breaker.DeadlineConfig{Timeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	layers, err := p.perAttempt(tracer, identity.Forward(), c.observer)
	if err != nil {
		return nil, err
	}
	c.out, err = gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: func(_ context.Context, host string) (gatemesh.Destination, bool) {
			callee, _, err := gatemesh.CanonicalHost(host)
			_, known := callees[callee]
			return gatemesh.Destination{Service: callee, Namespace: namespace}, err == nil && known
		},
		Layers:   append([]gatemesh.Layer{tracer.Span(), deadline.Layer()}, layers...),
		Observer: c.observer,
	})
	if err != nil {
		return nil, err
	}
	c.client = &http.Client{Transport: c.out.Transport(roundTripper(c.roundTrip))}
	p.closing(c)
	return c, nil
}

// perAttempt returns the layers from the retries on.
func (p *platform) perAttempt(tracer *trace.Tracer, who gatemesh.Layer, observer gatemesh.Observer) ([]gatemesh.Layer, error) {
	health, err := breaker.NewGate(breaker.GateConfig{Observer: observer})
	if err != nil {
		return nil, err
	}
	again, err := breaker.NewRetry(breaker.RetryConfig{Idempotent: func(c *gatemesh.Call) bool {
		return c.Protocol() == gatemesh.GRPC && c.Path() == paymentspb.Payments_Charge_FullMethodName // it names its payment
	}})
	if err != nil {
		return nil, err
	}
	layers := []gatemesh.Layer{again.Layer(), health.Layer(), who, tracer.Inject()}
	switch p.broken {
	case "i":
		layers = layers[:3]
	case "m":
		layers = layers[1:]
	}
	return layers, nil
}

// callees are the services that are called by name, and the version at which.
var callees = map[string]string{"user-service": "v1", "order-service": "", "inventory-service": "", "payment-service": "", "echo-service": ""}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// roundTrip sends a request to its callee.
func (c *caller) roundTrip(r *http.Request) (*http.Response, error) {
	name := r.URL.Hostname()
	c.mu.Lock()
	rt, err := c.routes[name], error(nil)
	if rt == nil {
		rt, err = c.transport(name, callees[name])
		if err == nil {
			c.routes[name] = rt
		}
	}
	c.mu.Unlock()
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // the contract of RoundTripper; its error changes nothing
		}
		return nil, err
	}
	return rt.RoundTrip(r)
}

// transport returns connections to a version of a service. The caller holds
// the lock, or is alone.
func (c *caller) transport(name, version string) (http.RoundTripper, error) {
	callee, err := mtls.Exactly(spiffeID(name))
	if err != nil {
		return nil, err
	}
	t, err := c.member.TLS().Transport(callee)
	if err != nil {
		return nil, err
	}
	endpoints, err := c.pool(name, version, 0)
	if err != nil {
		return nil, err
	}
	c.closes = append(c.closes, closer(func() error { t.CloseIdleConnections(); return nil }))
	return endpoints.Transport(t), nil
}

// pool follows the replicas of a service at its HTTP port, 0, or its gRPC port, 1.
func (c *caller) pool(name, version string, kind int) (*pool.Pool, error) {
	host := service{name: name, version: version}.host()
	c.p.fleet.mu.Lock()
	port := c.p.fleet.ports[host][kind]
	c.p.fleet.mu.Unlock()
	dns, err := pool.NewDNS(pool.DNSConfig{Host: host, Port: port, Network: "ip4", Resolver: c.p.dns.Resolver()})
	if err != nil {
		return nil, fmt.Errorf("%s → %s: %w", c.name, name, err)
	}
	interval := lookup
	if c.p.broken == "m" {
		interval = time.Hour
	}
	endpoints, err := pool.New(pool.Config{Name: name, Resolver: dns, Interval: interval, Observer: c.observer})
	if err != nil {
		return nil, err
	}
	c.closes = append(c.closes, endpoints)
	return endpoints, nil
}

// dial returns the gRPC connection to a service.
func (c *caller) dial(name string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.conns[name]; conn != nil {
		return conn, nil
	}
	callee, err := mtls.Exactly(spiffeID(name))
	if err != nil {
		return nil, err
	}
	endpoints, err := c.pool(name, callees[name], 1)
	if err != nil {
		return nil, err
	}
	conn, err := grpcmesh.Dial(grpcmesh.DialConfig{
		Service: name, Outbound: c.out, Pool: endpoints, TLS: c.member.TLS(), Callee: callee,
	})
	if err != nil {
		return nil, err
	}
	c.conns[name] = conn
	return conn, nil
}

// Close ends all connections and lookups.
func (c *caller) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range slices.Collect(maps.Values(c.conns)) {
		_ = conn.Close() // the platform ends
	}
	for _, x := range c.closes {
		_ = x.Close() // the platform ends
	}
	return nil
}

type closer func() error

func (f closer) Close() error { return f() }

func spiffeID(name string) string {
	return gatemesh.Workload{TrustDomain: "cluster.local", Namespace: namespace, ServiceAccount: name}.SPIFFEID()
}
