package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/examples/gateway/edge"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/meshtest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/serve"
)

const (
	host      = "api.example.com"
	namespace = "production"
	gateway   = "main-gateway"
)

//go:embed manifests
var manifests embed.FS

// config says how to start a platform.
type config struct {
	listen string    // of the gateway
	broken string    // the act whose guard is removed, or ""
	logs   io.Writer // where log lines go
}

// platform is the auth service, the gateway and the services behind it.
type platform struct {
	auth     *authService
	mesh     *meshtest.Mesh
	logs     *logBook
	keys     map[string]string // API keys by consumer
	services map[string]string // addresses by name
	gateway  string            // address
	roots    *x509.CertPool    // for the gateway's certificate
	rootPEM  []byte
	client   *http.Client
	jwks     *auth.JWKS
	end      context.CancelFunc
	ended    chan error
}

// start starts everything on loopback.
func start(ctx context.Context, cfg config) (p *platform, err error) {
	folder, err := fs.Sub(manifests, "manifests")
	if err != nil {
		return nil, err
	}
	set, err := manifest.LoadFS(folder)
	if err != nil {
		return nil, err
	}
	p = &platform{logs: &logBook{out: cfg.logs}, services: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.auth, err = startAuthService(ctx); err != nil {
		return p, err
	}
	if p.mesh, err = meshtest.New(meshtest.Config{Namespace: namespace, Policies: set.Policies()}); err != nil {
		return p, err
	}
	upstreams, err := p.startServices(cfg.broken)
	if err != nil {
		return p, err
	}
	return p, p.startGateway(ctx, cfg, set, upstreams)
}

// startServices starts the services, each on its own listener, and returns
// where the gateway finds those that it routes to.
func (p *platform) startServices(broken string) ([]routing.Upstream, error) {
	edgeMember, err := p.mesh.Join(gateway)
	if err != nil {
		return nil, err
	}
	var upstreams []routing.Upstream
	for _, s := range []struct {
		name, version string
		handler       func(*http.Client, *slog.Logger) http.Handler
		behindGateway bool
	}{
		{"user-service", "v1", func(_ *http.Client, l *slog.Logger) http.Handler { return userService("v1", l) }, true},
		{"user-service", "v2", func(_ *http.Client, l *slog.Logger) http.Handler { return userService("v2", l) }, true},
		{"order-service", "", orderService, true},
		{"inventory-service", "", inventoryService, false},
		{"payment-service", "", func(_ *http.Client, l *slog.Logger) http.Handler { return paymentService(l) }, false},
	} {
		member, err := p.mesh.Join(s.name)
		if err != nil {
			return nil, err
		}
		service, err := member.Serve(meshtest.ServiceConfig{
			Handler:                 s.handler(member.Client(), p.logs.logger(s.name)),
			Observer:                p.logs.observer(s.name),
			InsecureAcceptStrangers: broken == "e", DisablePolicy: broken == "d",
		})
		if err != nil {
			return nil, err
		}
		p.services[strings.TrimSpace(s.name+" "+s.version)] = service.Addr
		if !s.behindGateway {
			continue
		}
		transport, err := edgeMember.Transport(s.name)
		if err != nil {
			return nil, err
		}
		upstreams = append(upstreams, routing.Upstream{
			Service: s.name, Namespace: namespace, URL: "https://" + service.Addr,
			Labels: map[string]string{"version": s.version}, Transport: transport,
		})
	}
	return upstreams, nil
}

func (p *platform) startGateway(ctx context.Context, cfg config, set *manifest.Set, upstreams []routing.Upstream) (err error) {
	observer := p.logs.observer("gateway")
	if p.jwks, err = auth.NewJWKS(auth.JWKSConfig{URL: p.auth.addr + "/jwks.json", Observer: observer}); err != nil {
		return err
	}
	p.keys = map[string]string{}
	var stored []auth.Key
	for _, consumer := range []string{"acme", "globex"} {
		secret, hash := auth.GenerateKey()
		p.keys[consumer] = secret
		stored = append(stored, auth.Key{ID: consumer + "-1", Hash: hash, Consumer: consumer})
	}
	keys, err := auth.NewKeySet(stored)
	if err != nil {
		return err
	}
	c := edge.Config{
		Manifests: set, Upstreams: upstreams,
		Workload: gatemesh.Workload{
			Name: gateway, TrustDomain: "cluster.local", Namespace: namespace, ServiceAccount: gateway,
			Labels: map[string]string{"app": gateway},
		},
		Auth: &auth.Config{
			Issuers: []auth.Issuer{{
				Issuer: p.auth.issuer, Audience: []string{audience}, Algorithms: []string{"RS256"}, Keys: p.jwks,
			}},
			APIKeys: keys, Observer: observer,
		},
		ClientLimit:   ratelimit.Limit{Requests: 10_000, Per: time.Second, Burst: 20_000},
		ConsumerLimit: ratelimit.Limit{Requests: 1000, Per: time.Minute},
		Outbound:      []gatemesh.Layer{p.mesh.Minter().Layer()},
		Observer:      observer,
	}
	switch cfg.broken {
	case "a":
		c.Outbound = nil
	case "b":
		c.Replace = map[string]gatemesh.Gate{"auth": gatemesh.GateFunc(unverified)}
	case "c":
		c.Replace = map[string]gatemesh.Gate{"canary": nil}
	case "f":
		c.Replace = map[string]gatemesh.Gate{"ratelimit consumer": nil}
	}
	g, err := edge.New(c)
	if err != nil {
		return err
	}
	return p.listen(ctx, cfg, g)
}

// listen serves the gateway on TLS with a certificate made for it.
func (p *platform) listen(ctx context.Context, cfg config, g *edge.Gateway) error {
	cert, err := p.mesh.CA().ServerCertificate(host)
	if err != nil {
		return err
	}
	tlsConfig, err := mtls.Edge(mtls.EdgeConfig{Certificates: []tls.Certificate{cert}})
	if err != nil {
		return err
	}
	p.roots, p.rootPEM = p.mesh.CA().Pool(), p.mesh.CA().BundlePEM()
	ctx, p.end = context.WithCancel(ctx)
	p.ended = make(chan error, 1)
	started := make(chan net.Addr, 1)
	go func() {
		p.ended <- serve.Run(ctx, serve.Config{
			Servers: []serve.Server{{Name: "gateway", Addr: cfg.listen, Handler: g, TLS: tlsConfig}},
			Logger:  p.logs.logger("gateway"), Drain: 5 * time.Second,
			Started: func(addrs map[string]net.Addr) { started <- addrs["gateway"] },
		})
	}()
	select {
	case addr := <-started:
		p.gateway = addr.String()
	case err := <-p.ended:
		p.ended <- nil // close looks there too
		return err
	}
	var d net.Dialer
	p.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: p.roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, p.gateway)
		},
	}}
	return nil
}

const orderID = "spiffe://cluster.local/ns/production/sa/order-service"

// stranger returns a certificate with order-service's id from another CA.
func stranger() (tls.Certificate, error) {
	other, err := devca.New("cluster.local")
	if err != nil {
		return tls.Certificate{}, err
	}
	return other.Issue(orderID, time.Hour)
}

// close ends everything and waits until it has ended.
func (p *platform) close() error {
	var errs []error
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
	if p.end != nil {
		p.end()
		errs = append(errs, <-p.ended)
	}
	if p.jwks != nil {
		errs = append(errs, p.jwks.Close())
	}
	if p.mesh != nil {
		errs = append(errs, p.mesh.Close())
	}
	if p.auth != nil {
		p.auth.stop()
	}
	return errors.Join(errs...)
}

// play plays the acts, or the one that is named, and reports what it saw.
func (p *platform) play(ctx context.Context, only string, progress io.Writer) (*report, error) {
	r := &report{}
	var once sync.Once
	for _, a := range acts {
		if only != "" && a.id != only {
			continue
		}
		once.Do(func() { fmt.Fprintln(progress) })
		fmt.Fprintf(progress, "act (%s) %s\n", a.id, a.title)
		if err := a.play(ctx, p, r); err != nil {
			return r, fmt.Errorf("act (%s): %w", a.id, err)
		}
	}
	return r, nil
}
