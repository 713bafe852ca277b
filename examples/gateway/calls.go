package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/routing/pool"
	"github.com/gatemesh-go/gatemesh/trace"
)

// byDNS is where Kubernetes answers for a service: over TLS if we are a member
// of the mesh. Of a headless service, every pod gets its share, at the port of
// the service: its address records do not say that the pods listen at another
// one (targetPort). For such a service there is -upstream with its SRV record.
func (o *options) byDNS(d gatemesh.Destination, policy manifest.TrafficPolicy, observer gatemesh.Observer) (*service, error) {
	scheme, port := "http", cmp.Or(d.Port, 80)
	if o.meshCert != "" && policy.TLS != manifest.TLSDisable {
		scheme = "https"
	}
	host := fmt.Sprintf("%s.%s.svc.cluster.local", d.Service, d.Namespace)
	u := routing.Upstream{
		Service: d.Service, Namespace: d.Namespace, Port: d.Port,
		URL: fmt.Sprintf("%s://%s:%d", scheme, host, port),
	}
	endpoints, err := o.balanceDNS(&u, pool.DNSConfig{Host: host + ".", Port: port}, policy, observer)
	if err != nil {
		return nil, err
	}
	return &service{host, policy, u, endpoints.pool}, nil
}

// bySRV has the upstreams with an SRV name in their URL, such as
// http://_http._tcp.orders.shop.svc.cluster.local, go to what it finds. That
// Kubernetes has one for every named port of a service, and for a headless one
// it says at which port the pods listen.
func (o *options) bySRV(b *built, observer gatemesh.Observer) error {
	var errs []error
	for i := range b.edge.Upstreams {
		u := &b.edge.Upstreams[i]
		to, err := url.Parse(u.URL)
		if err != nil || !strings.HasPrefix(to.Host, "_") {
			continue // checkUpstreams says what is wrong with a URL
		}
		if to.Port() != "" {
			errs = append(errs, fmt.Errorf("-upstream %s: the URL has a port, which its SRV record says", upstreamName(serves(u))))
			continue
		}
		endpoints, err := o.balanceDNS(u, pool.DNSConfig{SRV: to.Host}, manifest.TrafficPolicy{}, observer)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b.follow(u, endpoints)
		b.ready.pool(strings.TrimSuffix(to.Host, "."), endpoints.pool)
	}
	return errors.Join(errs...)
}

// balanceDNS has each call to u go to one of the endpoints that are found as cfg
// says, by policy.
func (o *options) balanceDNS(u *routing.Upstream, cfg pool.DNSConfig, policy manifest.TrafficPolicy, observer gatemesh.Observer) (*balanced, error) {
	cfg.Resolver = o.resolver
	dns, err := pool.NewDNS(cfg)
	if err != nil {
		return nil, err
	}
	return o.balance(u, dns, policy, observer)
}

// balance has each call to u go to one of the endpoints that who finds, by policy.
func (o *options) balance(u *routing.Upstream, who pool.Resolver, policy manifest.TrafficPolicy, observer gatemesh.Observer) (*balanced, error) {
	out := &balanced{cfg: pool.Config{Name: upstreamName(serves(u)), Resolver: who, Observer: observer}, policy: policy}
	cfg := out.cfg
	policy.Configure(&cfg)
	var err error
	if out.pool, err = pool.New(cfg); err != nil {
		return nil, err
	}
	u.Balance = out.pool.Transport
	return out, nil
}

// follow has what the manifests say about u reach its pool.
func (b *built) follow(u *routing.Upstream, endpoints *balanced) {
	b.closes = append(b.closes, endpoints.pool.Close)
	b.measured = append(b.measured, endpoints.pool)
	b.balanced[serves(u)] = endpoints
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
	b.measured = append(b.measured, again, health)
	b.edge.AfterRoute = []gatemesh.Layer{tracer.Layer()}
	b.edge.Outbound = []gatemesh.Layer{tracer.Span(), again.Layer(), health.Layer()}
	if b.minter != nil {
		b.edge.Outbound = append(b.edge.Outbound, b.minter.Layer())
	}
	b.edge.Outbound = append(b.edge.Outbound, tracer.Inject())
	return nil
}
