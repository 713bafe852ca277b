package meshtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// Member is a workload of a [Mesh]: it can serve, and call others.
type Member struct {
	mesh     *Mesh
	workload gatemesh.Workload
	tls      *mtls.TLS
	source   *devca.Source

	mu         sync.Mutex
	transports map[string]*mtls.Transport // by callee: a pool never serves two
}

// Workload returns who the member is.
func (m *Member) Workload() gatemesh.Workload { return m.workload.Clone() }

// TLS returns the member's side of mutual TLS.
func (m *Member) TLS() *mtls.TLS { return m.tls }

// Renew gives the member a new certificate, as its authority would in time.
func (m *Member) Renew() error { return m.source.Renew() }

// ServiceConfig configures [Member.Serve].
type ServiceConfig struct {
	// Handler answers what the layers admit. Required.
	Handler http.Handler
	// First are layers that stand before those of the mesh, such as tracing.
	// Default: none.
	First []gatemesh.Layer
	// Observer receives the events of the service's layers. Default: nobody.
	Observer gatemesh.Observer
	// InsecureAcceptStrangers takes the client certificates away,
	// DisableIdentity the verification of the internal identity, and
	// DisablePolicy the AuthorizationPolicies: to see what each guards.
	InsecureAcceptStrangers, DisableIdentity, DisablePolicy bool
}

// Service is a service that listens on loopback.
type Service struct {
	Addr   string // host:port
	server *http.Server
	done   chan struct{}
}

// layers returns the layers that stand in front of the service's handler, in order.
func (m *Member) layers(cfg ServiceConfig) (layers []gatemesh.Layer, err error) {
	layers = slices.Clone(cfg.First)
	if !cfg.InsecureAcceptStrangers {
		layers = append(layers, m.tls.Layer())
	}
	if !cfg.DisableIdentity {
		v, err := identity.NewVerifier(identity.VerifierConfig{
			Issuer: issuer(m.workload.TrustDomain), Audience: []string{m.workload.TrustDomain}, Keys: m.mesh.minter,
		})
		if err != nil {
			return nil, err
		}
		layers = append(layers, v.Layer())
	}
	if !cfg.DisablePolicy {
		p, err := policy.New(policy.Config{Workload: m.workload, Policies: m.mesh.cfg.Policies, Unselected: policy.Deny})
		if err != nil {
			return nil, err
		}
		layers = append(layers, p.Layer())
	}
	return layers, nil
}

// Chain returns the chain that the service is served behind, for tests that
// bring a server of their own, such as a gRPC server.
func (m *Member) Chain(cfg ServiceConfig) (*gatemesh.Chain, error) {
	layers, err := m.layers(cfg)
	if err != nil {
		return nil, err
	}
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{
		Peer: m.tls.Peer, TrustPeer: m.mesh.isEdge, TrustRequestID: gatemesh.AnyPeer, Observer: cfg.Observer,
	})
	if err != nil {
		return nil, err
	}
	return gatemesh.NewChain(entry, layers...)
}

// Serve starts the service on a loopback port of its own. A member may serve
// several times, as replicas.
func (m *Member) Serve(cfg ServiceConfig) (*Service, error) {
	if cfg.Handler == nil {
		return nil, errors.New("meshtest: ServiceConfig.Handler is required")
	}
	chain, err := m.Chain(cfg)
	if err != nil {
		return nil, fmt.Errorf("meshtest: %s: %w", m.workload.Name, err)
	}
	tlsConfig := m.tls.ServerConfig()
	if cfg.InsecureAcceptStrangers {
		tlsConfig.ClientAuth, tlsConfig.VerifyConnection = tls.NoClientCert, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("meshtest: %s: %w", m.workload.Name, err)
	}
	s := &Service{Addr: l.Addr().String(), done: make(chan struct{}), server: &http.Server{
		Handler: chain.Handler(cfg.Handler), TLSConfig: tlsConfig, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: log.New(io.Discard, "", 0), // refused handshakes are what tests are about
	}}
	go func() {
		defer close(s.done)
		_ = s.server.ServeTLS(l, "", "") // ends with Close
	}()
	m.mesh.mu.Lock()
	defer m.mesh.mu.Unlock()
	m.mesh.services[m.workload.Name] = append(m.mesh.services[m.workload.Name], s)
	return s, nil
}

// closeIdle closes connections that nobody uses.
func (m *Member) closeIdle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.transports {
		t.CloseIdleConnections()
	}
}

// Client returns a client for calls to other members by name, as in
// https://payment-service/v1/payments/1, directly and with mutual TLS pinned to
// the callee. Made in the context of an inbound call, a call carries its
// request id and, unchanged, its identity; outbound gates see it before.
func (m *Member) Client(gates ...gatemesh.Layer) *http.Client {
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: func(_ context.Context, host string) (gatemesh.Destination, bool) {
			name, _, err := gatemesh.CanonicalHost(host)
			return gatemesh.Destination{Service: name, Namespace: m.workload.Namespace}, err == nil && m.mesh.serves(name)
		},
		Layers: append(slices.Clone(gates), identity.Forward()),
	}))
	return &http.Client{Transport: out.Transport(roundTripper{m})}
}

// roundTripper sends each request to an instance of its callee.
type roundTripper struct{ m *Member }

func (t roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	name := r.URL.Hostname()
	addr, err := t.m.mesh.pick(name)
	var pool *mtls.Transport
	if err == nil {
		pool, err = t.m.Transport(name)
	}
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // the contract of RoundTripper; its error changes nothing
		}
		return nil, err
	}
	r2, url := r.WithContext(r.Context()), *r.URL
	url.Host, r2.URL = addr, &url
	if r2.Host == "" {
		r2.Host = r.URL.Host
	}
	return pool.RoundTrip(r2)
}

// Transport returns the member's connections to the service name, pinned to
// its SPIFFE id. URLs give an address, such as [Service.Addr].
func (m *Member) Transport(name string) (*mtls.Transport, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t, ok := m.transports[name]; ok {
		return t, nil
	}
	callee, err := mtls.Exactly(m.mesh.workload(name).SPIFFEID())
	if err != nil {
		return nil, fmt.Errorf("meshtest: %w", err)
	}
	t, err := m.tls.Transport(callee)
	if err != nil {
		return nil, fmt.Errorf("meshtest: %w", err)
	}
	if m.transports == nil {
		m.transports = map[string]*mtls.Transport{}
	}
	m.transports[name] = t
	return t, nil
}
