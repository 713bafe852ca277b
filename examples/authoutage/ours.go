package main

import (
	"errors"
	"net/http"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/breaker"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// ours remembers what it has verified, and leaves an auth service alone that
// does not answer: one in ten of its requests may have to ask, and no more. It
// knows the replicas at addrs, and asks one that is well.
func ours(addrs []string, id, secret string, base http.RoundTripper, timeout time.Duration, broken string) (_ guard, err error) {
	replicas, err := pool.New(pool.Config{Name: "auth", Resolver: pool.Static(addrs...)})
	if err != nil {
		return guard{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, replicas.Close())
		}
	}()
	out, err := outbound(broken)
	if err != nil {
		return guard{}, err
	}
	in, err := auth.NewIntrospection(auth.IntrospectionConfig{
		URL: introspectionURL, InsecureHTTP: true, // which is loopback all the same
		ClientID: id, ClientSecret: secret, Client: &http.Client{Transport: out.Transport(replicas.Transport(base))},
	})
	if err != nil {
		return guard{}, err
	}
	cfg := auth.Config{Opaque: &auth.Opaque{
		Verifier: in, Issuer: issuer, Audience: []string{audience}, Timeout: timeout,
		// Five failures in a row are an outage. Whether it is over, one call a
		// second may find out.
		Breaker: breaker.Policy{Failures: 5, Delay: time.Second},
	}}
	switch broken {
	case "cache":
		cfg.CacheTTL = time.Nanosecond
	case "breaker":
		cfg.Opaque.Breaker = breaker.Policy{FailureRate: 1, MinCalls: 1_000_000, Window: time.Second} // never
	}
	who, err := auth.New(cfg)
	if err != nil {
		return guard{}, err
	}
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
	if err != nil {
		return guard{}, err
	}
	chain, err := gatemesh.NewChain(entry, who.Layer())
	if err != nil {
		return guard{}, err
	}
	return guard{chain.Handler, replicas.Close}, nil
}

// outbound is what stands around the calls of the auth service: what got no
// answer at one replica is asked at another. To ask twice does no harm.
func outbound(broken string) (*gatemesh.Outbound, error) {
	again, err := breaker.NewRetry(breaker.RetryConfig{
		Idempotent: func(c *gatemesh.Call) bool { return c.Path() == introspectionPath },
	})
	if err != nil {
		return nil, err
	}
	layers := []gatemesh.Layer{again.Layer()}
	if broken == "retry" {
		layers = nil
	}
	return gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{authHost: {Service: "auth"}}), Layers: layers,
	})
}
