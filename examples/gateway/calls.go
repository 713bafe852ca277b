package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/routing/pool"
	"github.com/gatemesh-go/gatemesh/trace"
)

// byDNS is where Kubernetes answers for a service: over TLS if we are a member
// of the mesh. Of a headless service, every pod gets its share.
func (o *options) byDNS(b *built, d gatemesh.Destination, observer gatemesh.Observer) (routing.Upstream, error) {
	scheme, port := "http", cmp.Or(d.Port, 80)
	if o.meshCert != "" {
		scheme = "https"
	}
	host := fmt.Sprintf("%s.%s.svc.cluster.local", d.Service, d.Namespace)
	u := routing.Upstream{
		Service: d.Service, Namespace: d.Namespace, Port: d.Port,
		URL: fmt.Sprintf("%s://%s:%d", scheme, host, port),
	}
	dns, err := pool.NewDNS(pool.DNSConfig{Host: host + ".", Port: port, Resolver: o.resolver})
	if err != nil {
		return u, err
	}
	endpoints, err := pool.New(pool.Config{Name: d.Service + "." + d.Namespace, Resolver: dns, Observer: observer})
	if err != nil {
		return u, err
	}
	b.closes = append(b.closes, endpoints.Close)
	b.ready.pool(host, endpoints)
	u.Balance = endpoints.Transport
	return u, nil
}

// buildCalls says what happens to each call to an upstream: a span around it,
// retries of what may safely be made twice, no calls to who is down, and, for
// each attempt, who the caller is. Spans appear as soon as the program sets an
// OpenTelemetry provider.
func (b *built) buildCalls(observer gatemesh.Observer) error {
	tracer, err := trace.New(trace.Config{Observer: observer})
	again, err2 := breaker.NewRetry(breaker.RetryConfig{})
	health, err3 := breaker.NewGate(breaker.GateConfig{Observer: observer})
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	b.edge.AfterRoute = []gatemesh.Layer{tracer.Layer()}
	b.edge.Outbound = []gatemesh.Layer{tracer.Span(), again.Layer(), health.Layer()}
	if b.minter != nil {
		b.edge.Outbound = append(b.edge.Outbound, b.minter.Layer())
	}
	b.edge.Outbound = append(b.edge.Outbound, tracer.Inject())
	return nil
}
