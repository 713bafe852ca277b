package main

import (
	"context"
	"crypto/tls"
	"embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing/fstest"
	"time"

	"github.com/gatemesh-go/gatemesh/internal/dnstest"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/meshtest"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

const (
	host      = "api.example.com"
	namespace = "production"
	edgeName  = "main-gateway"
)

//go:embed manifests
var manifests embed.FS

// config says how to start a platform.
type config struct {
	listen string    // of the gateway
	broken string    // the act whose guard is removed, or ""
	rolls  bool      // whether services are going to be rolled
	full   bool      // whether act h takes its full minute
	few    bool      // whether acts make do with fewer requests, for the race detector
	logs   io.Writer // where log lines go
}

// platform is the auth service, the gateway and the services behind it.
type platform struct {
	config
	auth      *authService
	mesh      *meshtest.Mesh
	dns       *dnstest.Server
	fleet     fleet
	logs      *logBook
	telemetry *telemetry
	keys      map[string]string // API keys by consumer
	set       *manifest.Set
	front     *front
	gateway   *gateway // the one that serves
	edge      *edgeSide
	http      *http.Client // of the gateway
	flaw      flaw         // of user-service v2

	mu     sync.Mutex
	closes []io.Closer
}

// start starts everything on loopback.
func start(ctx context.Context, cfg config) (p *platform, err error) {
	p = &platform{
		config: cfg, logs: &logBook{out: cfg.logs}, telemetry: newTelemetry(),
		fleet: fleet{replicas: map[string][]*replica{}, ports: map[string][2]uint16{}},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.set, err = loadManifests(nil); err != nil {
		return p, err
	}
	if p.auth, err = startAuthService(ctx); err != nil {
		return p, err
	}
	if p.dns, err = dnstest.New(); err != nil {
		return p, err
	}
	p.dns.SetTTL(ttl)
	if p.mesh, err = meshtest.New(meshtest.Config{Namespace: namespace, Policies: p.set.Policies()}); err != nil {
		return p, err
	}
	for _, s := range p.services() {
		for range 1 + s.more {
			if _, err := p.deploy(s.service); err != nil {
				return p, err
			}
		}
	}
	if p.front, err = newFront(); err != nil {
		return p, err
	}
	if p.edge, err = p.newEdge(); err != nil {
		return p, err
	}
	if p.gateway, err = p.startGateway(cfg.listen); err != nil {
		return p, err
	}
	p.http = p.client(false, false)
	return p, nil
}

// ttl is that of the DNS records.
const ttl = 5 * time.Second

// services are what is deployed, those that others call first.
func (p *platform) services() []struct {
	service
	more int // replicas beyond the first
} {
	log := p.logs.logger
	return []struct {
		service
		more int
	}{
		{service{name: "user-service", version: "v1", handler: userService(log("user-service"))}, 0},
		{service{name: "user-service", version: "v2", handler: p.flaw.in(userService(log("user-service")))}, 0},
		{paymentService(log("payment-service")), 1},
		{service{name: "inventory-service", handler: inventoryService(log("inventory-service"))}, 0},
		{service{name: "order-service", handler: orderService(log("order-service"))}, 0},
	}
}

// loadManifests reads the folder manifests, with the files in changed in place
// of those with their names.
func loadManifests(changed map[string]string) (*manifest.Set, error) {
	files := fstest.MapFS{}
	entries, err := manifests.ReadDir("manifests")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		data, err := manifests.ReadFile("manifests/" + e.Name())
		if err != nil {
			return nil, err
		}
		if text, ok := changed[e.Name()]; ok {
			data = []byte(text)
		}
		files[e.Name()] = &fstest.MapFile{Data: data}
	}
	return manifest.LoadFS(files)
}

// closing notes what is to be closed at the end.
func (p *platform) closing(c io.Closer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closes = append(p.closes, c)
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

// acceptStrangers takes the guard of act e away.
func acceptStrangers(config *tls.Config) {
	config.ClientAuth, config.VerifyConnection = tls.NoClientCert, nil
}

// close ends everything and waits until it has ended.
func (p *platform) close() error {
	var errs []error
	if p.front != nil {
		p.front.close()
	}
	if p.gateway != nil {
		errs = append(errs, p.gateway.stop())
	}
	if p.edge != nil {
		errs = append(errs, p.edge.close())
	}
	p.fleet.mu.Lock()
	all := p.fleet.all
	p.fleet.mu.Unlock()
	for _, r := range all {
		r.term()
	}
	for _, r := range all {
		<-r.ended
		if !r.killed.Load() {
			errs = append(errs, r.err)
		}
	}
	p.mu.Lock()
	closes := p.closes
	p.mu.Unlock()
	for _, c := range closes {
		errs = append(errs, c.Close())
	}
	if p.mesh != nil {
		errs = append(errs, p.mesh.Close())
	}
	if p.dns != nil {
		errs = append(errs, p.dns.Close())
	}
	if p.auth != nil {
		p.auth.stop()
	}
	p.telemetry.close()
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
