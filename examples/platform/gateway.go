package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/examples/gateway/edge"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/serve"
	"github.com/gatemesh-go/gatemesh/trace"
)

// edgeSide is what the instances of the gateway share, as it comes from files
// and secrets: certificates, API keys, where services are.
type edgeSide struct {
	ca     *devca.CA // a public authority, as browsers know it; the mesh does not
	tls    *mtls.Edge
	jwks   *auth.JWKS
	config edge.Config
	tracer *trace.Tracer
}

func (p *platform) newEdge() (*edgeSide, error) {
	e := &edgeSide{}
	var err error
	if e.ca, err = devca.New("public.example"); err != nil {
		return nil, err
	}
	member, err := p.mesh.Join(edgeName)
	if err != nil {
		return nil, err
	}
	if e.tracer, err = p.telemetry.tracer("gateway"); err != nil {
		return nil, err
	}
	calls, err := p.caller("gateway", member, e.tracer)
	if err != nil {
		return nil, err
	}
	observer := p.logs.observer("gateway")
	if e.jwks, err = auth.NewJWKS(auth.JWKSConfig{
		URL: p.auth.addr + "/jwks.json", FetchTimeout: fetchTimeout, Cooldown: cooldown, Observer: observer,
	}); err != nil {
		return nil, err
	}
	p.keys = map[string]string{}
	var stored []auth.Key
	for _, consumer := range []string{"acme", "globex", "initech"} {
		secret, hash := auth.GenerateKey()
		p.keys[consumer] = secret
		stored = append(stored, auth.Key{ID: consumer + "-1", Hash: hash, Consumer: consumer})
	}
	keys, err := auth.NewKeySet(stored)
	if err != nil {
		return nil, err
	}
	upstreams, err := upstreams(calls)
	if err != nil {
		return nil, err
	}
	layers, err := p.perAttempt(e.tracer, p.mesh.Minter().Layer(), observer)
	if err != nil {
		return nil, err
	}
	e.config = edge.Config{
		Manifests: p.set, Upstreams: upstreams, AfterRoute: []gatemesh.Layer{e.tracer.Layer()},
		Workload: gatemesh.Workload{
			Name: edgeName, TrustDomain: "cluster.local", Namespace: namespace, ServiceAccount: edgeName,
			Labels: map[string]string{"app": edgeName},
		},
		Auth: &auth.Config{
			Issuers: []auth.Issuer{{
				Issuer: p.auth.issuer, Audience: []string{audience}, Algorithms: []string{"RS256"}, Keys: e.jwks,
			}},
			APIKeys: keys, Observer: observer,
		},
		ClientLimit:   ratelimit.Limit{Requests: 10_000, Per: time.Second, Burst: 20_000},
		ConsumerLimit: ratelimit.Limit{Requests: 1000, Per: time.Minute},
		Outbound:      append([]gatemesh.Layer{e.tracer.Span()}, layers...),
		Observer:      observer,
	}
	p.breakGateway(&e.config)
	return e, e.renew()
}

// upstreams are where the gateway finds what it routes to.
func upstreams(calls *caller) ([]routing.Upstream, error) {
	var all []routing.Upstream
	for _, s := range []service{{name: "user-service", version: "v1"}, {name: "user-service", version: "v2"}, {name: "order-service"}} {
		t, err := calls.transport(s.name, s.version)
		if err != nil {
			return nil, err
		}
		all = append(all, routing.Upstream{
			Service: s.name, Namespace: namespace, URL: "https://" + s.name,
			Labels: map[string]string{"version": s.version}, Transport: t,
		})
	}
	return all, nil
}

func (p *platform) breakGateway(c *edge.Config) {
	switch p.broken {
	case "a":
		c.Outbound = nil
	case "b":
		c.Replace = map[string]gatemesh.Gate{"auth": gatemesh.GateFunc(unverified)}
	case "c":
		c.Replace = map[string]gatemesh.Gate{"canary": nil}
	case "f":
		c.Replace = map[string]gatemesh.Gate{"ratelimit consumer": nil}
	case "g":
		c.Replace = map[string]gatemesh.Gate{"auth": p.auth.asking()}
	}
}

// renew gives the gateway a new certificate.
func (e *edgeSide) renew() error {
	cert, err := e.ca.ServerCertificate(host)
	if err != nil {
		return err
	}
	cfg := mtls.EdgeConfig{Certificates: []tls.Certificate{cert}}
	if e.tls != nil {
		return e.tls.Update(cfg)
	}
	e.tls, err = mtls.NewEdge(cfg)
	return err
}

func (e *edgeSide) close() error {
	var errs []error
	if e.tls != nil {
		errs = append(errs, e.tls.Close())
	}
	if e.jwks != nil {
		errs = append(errs, e.jwks.Close())
	}
	return errors.Join(errs...)
}

// gateway is one instance of the front door.
type gateway struct {
	*edge.Gateway
	addr, health string
	term         context.CancelFunc // what SIGTERM does
	ended        chan error
}

// startGateway starts an instance and puts it behind the front.
func (p *platform) startGateway(listen string) (*gateway, error) {
	e, err := edge.New(p.edge.config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &gateway{Gateway: e, term: cancel, ended: make(chan error, 1)}
	deadline := drain
	if p.broken == "k" {
		deadline = time.Nanosecond
	}
	started := make(chan map[string]net.Addr, 1)
	go func() {
		g.ended <- serve.Run(ctx, serve.Config{
			Servers: []serve.Server{{Name: "gateway", Addr: listen, Handler: g, TLS: p.edge.tls.TLSConfig()}}, Health: "127.0.0.1:0",
			Logger: p.logs.logger("gateway"), LameDuck: p.lameDuck(), Drain: deadline,
			Started: func(addrs map[string]net.Addr) { started <- addrs },
		})
	}()
	select {
	case addrs := <-started:
		g.addr, g.health = addrs["gateway"].String(), addrs["health"].String()
		return g, p.front.add(g)
	case err := <-g.ended:
		cancel()
		return nil, errors.Join(err, e.Close())
	}
}

// stop ends the instance as SIGTERM does, and waits.
func (g *gateway) stop() error {
	g.term()
	return errors.Join(<-g.ended, g.Close())
}

// withWeight returns the configuration with another weight for v2, in percent.
func (p *platform) withWeight(percent int) (edge.Config, error) {
	c := p.edge.config
	set, err := loadManifests(map[string]string{"virtualservice.yaml": weighted(percent)})
	if err != nil {
		return c, err
	}
	c.Manifests = set
	if p.broken == "l" {
		c.Salt = canary.DefaultSalt + "/another"
	}
	return c, nil
}
