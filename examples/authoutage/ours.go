package main

import (
	"net/http"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/breaker"
)

// ours remembers what it has verified, and leaves an auth service alone that
// does not answer: one in ten of its requests may have to ask, and no more.
func ours(url, id, secret string, client *http.Client, timeout time.Duration, broken string) (guard func(http.Handler) http.Handler, err error) {
	in, err := auth.NewIntrospection(auth.IntrospectionConfig{URL: url, ClientID: id, ClientSecret: secret, Client: client})
	if err != nil {
		return nil, err
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
		return nil, err
	}
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
	if err != nil {
		return nil, err
	}
	chain, err := gatemesh.NewChain(entry, who.Layer())
	if err != nil {
		return nil, err
	}
	return chain.Handler, nil
}
