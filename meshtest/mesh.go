// Package meshtest runs a whole mesh in one process, for tests and for
// demonstrations: a development CA, an edge key that signs identities, and
// services on loopback listeners of their own with mutual TLS, peer gate,
// identity verification and AuthorizationPolicies, just as in production.
//
//	mesh := gatemesh.Must(meshtest.New(meshtest.Config{Policies: policies}))
//	defer mesh.Close()
//	payment := gatemesh.Must(mesh.Join("payment-service"))
//	_, err := payment.Serve(meshtest.ServiceConfig{Handler: app})
//	order := gatemesh.Must(mesh.Join("order-service"))
//	resp, err := order.Client().Post("https://payment-service/v1/payments/1", "", nil)
//
// Keys live in memory and die with the process. It is not for production.
package meshtest

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// Config configures a [Mesh]. The zero Config is valid: without policies,
// every call is refused.
type Config struct {
	// TrustDomain is the SPIFFE trust domain. Default: "cluster.local".
	TrustDomain string
	// Namespace is where all services live. Default: "production".
	Namespace string
	// Edge is the workload that may say who the client of a call is, in the
	// X-Forwarded fields. Default: "main-gateway".
	Edge string
	// Policies are the AuthorizationPolicies of all services. Workloads that
	// none selects refuse every call. Default: none.
	Policies []policy.Policy
}

// Mesh is a running mesh. Its methods are safe for concurrent use.
type Mesh struct {
	cfg    Config
	ca     *devca.CA
	minter *identity.Minter

	mu       sync.Mutex
	members  []*Member
	services map[string][]*Service // by name
}

// New returns a mesh without services.
func New(cfg Config) (*Mesh, error) {
	if cfg.TrustDomain == "" {
		cfg.TrustDomain = "cluster.local"
	}
	if cfg.Namespace == "" {
		cfg.Namespace = "production"
	}
	if cfg.Edge == "" {
		cfg.Edge = "main-gateway"
	}
	ca, err := devca.New(cfg.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("meshtest: %w", err)
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("meshtest: %w", err)
	}
	minter, err := identity.NewMinter(identity.MinterConfig{
		Issuer: issuer(cfg.TrustDomain), Audience: []string{cfg.TrustDomain}, Key: identity.SigningKey{Private: private},
	})
	if err != nil {
		return nil, fmt.Errorf("meshtest: %w", err)
	}
	return &Mesh{cfg: cfg, ca: ca, minter: minter, services: map[string][]*Service{}}, nil
}

// lifetime is that of the certificates. A mesh that is kept up is for a day's
// work; nothing here outlives the process.
const lifetime = 24 * time.Hour

func issuer(trustDomain string) string { return "https://edge." + trustDomain }

// CA returns the authority that signs the certificates of the mesh.
func (m *Mesh) CA() *devca.CA { return m.ca }

// Minter returns what signs identities. An edge puts its Layer into the
// Outbound gates of its router; nobody else may.
func (m *Mesh) Minter() *identity.Minter { return m.minter }

// Join returns the workload name as a member of the mesh, with a certificate
// for spiffe://TRUSTDOMAIN/ns/NAMESPACE/sa/NAME and the label app=name.
func (m *Mesh) Join(name string) (*Member, error) {
	w := m.workload(name)
	source, err := m.ca.Source(devca.WorkloadConfig{Workload: w, Lifetime: lifetime})
	if err != nil {
		return nil, fmt.Errorf("meshtest: %s: %w", name, err)
	}
	all, err := mtls.MemberOf(m.cfg.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("meshtest: %s: %w", name, err)
	}
	t, err := mtls.New(mtls.Config{Source: source, Authorize: all})
	if err != nil {
		return nil, fmt.Errorf("meshtest: %s: %w", name, err)
	}
	member := &Member{mesh: m, workload: w, tls: t, source: source}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.members = append(m.members, member)
	return member, nil
}

// Renew gives every member a new certificate.
func (m *Mesh) Renew() error {
	m.mu.Lock()
	members := slices.Clone(m.members)
	m.mu.Unlock()
	var errs []error
	for _, member := range members {
		errs = append(errs, member.Renew())
	}
	return errors.Join(errs...)
}

func (m *Mesh) workload(name string) gatemesh.Workload {
	return gatemesh.Workload{
		Name: name, TrustDomain: m.cfg.TrustDomain, Namespace: m.cfg.Namespace, ServiceAccount: name,
		Labels: map[string]string{"app": name},
	}
}

func (m *Mesh) isEdge(p *gatemesh.Peer) bool { return p.ID() == m.workload(m.cfg.Edge).SPIFFEID() }

// Close ends all services and connections.
func (m *Mesh) Close() error {
	m.mu.Lock()
	members, services := m.members, m.services
	m.members, m.services = nil, map[string][]*Service{}
	m.mu.Unlock()
	var errs []error
	for _, list := range services {
		for _, s := range list {
			errs = append(errs, s.server.Close())
			<-s.done
		}
	}
	for _, member := range members {
		member.closeIdle()
	}
	return errors.Join(errs...)
}

// pick returns the address of a service, a different one each time if there
// are several.
func (m *Mesh) pick(name string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.services[name]
	if len(list) == 0 {
		return "", fmt.Errorf("meshtest: nobody serves %s", name)
	}
	m.services[name] = append(list[1:], list[0])
	return list[0].Addr, nil
}

func (m *Mesh) serves(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.services[name]) > 0
}
