package main

import (
	"context"
	"errors"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/mtls/spire"
	"github.com/gatemesh-go/gatemesh/trace"
)

// trust is what the outside world gives us: certificates, the edge's keys, and
// what the manifests say.
type trust struct {
	source mtls.Source
	keys   identity.KeySource
	issuer string
	set    *manifest.Set // nil with -dev
	rules  []policy.Policy
	close  []func() error
}

func (t *trust) end() error {
	var errs []error
	for _, f := range t.close {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// load reads what the flags name. Whatever it returns has to be ended.
func (o *options) load(ctx context.Context, observer gatemesh.Observer) (t trust, err error) {
	t.issuer = o.identityIssuer
	if t.set, err = manifest.LoadDir(o.manifests); err != nil {
		return t, err
	}
	t.rules = t.set.Policies()
	keys, err := identity.NewJWKSFile(identity.JWKSFileConfig{Path: o.identityJWKS, Interval: o.reload, Observer: observer})
	if err != nil {
		return t, err
	}
	t.keys, t.close = keys, append(t.close, keys.Close)
	switch {
	case o.spire != "":
		source, err := spire.New(ctx, spire.Config{Addr: o.spire, ID: o.self().SPIFFEID(), Observer: observer})
		if err != nil {
			return t, err
		}
		t.source, t.close = source, append(t.close, source.Close)
	case o.devCA != "":
		source, err := devca.NewClient(ctx, devca.ClientConfig{Socket: o.devCA, Workload: o.self(), Observer: observer})
		if err != nil {
			return t, err
		}
		t.source, t.close = source, append(t.close, source.Close)
	default:
		source, err := mtls.NewFiles(mtls.FilesConfig{
			Cert: o.cert, Key: o.key, Bundle: o.ca, TrustDomain: o.trustDomain, Interval: o.reload, Observer: observer,
		})
		if err != nil {
			return t, err
		}
		t.source, t.close = source, append(t.close, source.Close)
	}
	return t, nil
}

// mesh is the layers in front of the application: who calls, for whom, may
// they. What manifests say of them can be replaced while calls run.
type mesh struct {
	self     gatemesh.Workload
	members  mtls.Authorizer
	source   mtls.Source
	observer gatemesh.Observer

	peers *mtls.TLS
	rules *policy.Engine
	chain *gatemesh.Chain
}

// newMesh puts the layers together. Spans appear as soon as the program sets an
// OpenTelemetry provider.
func newMesh(self gatemesh.Workload, t trust, edge func(*gatemesh.Peer) bool, observer gatemesh.Observer) (*mesh, error) {
	m := &mesh{self: self, source: t.source, observer: observer}
	var err error
	if m.members, err = mtls.MemberOf(self.TrustDomain); err != nil {
		return nil, err
	}
	peers, err := m.peersOf(t.set)
	if err != nil {
		return nil, err
	}
	if m.peers, err = mtls.New(peers); err != nil {
		return nil, err
	}
	users, err := identity.NewVerifier(identity.VerifierConfig{
		Issuer: t.issuer, Audience: []string{self.TrustDomain}, Keys: t.keys, Observer: observer,
	})
	if err != nil {
		return nil, err
	}
	if m.rules, err = policy.New(m.rulesOf(t.rules)); err != nil {
		return nil, err
	}
	spans, err := trace.New(trace.Config{Observer: observer})
	if err != nil {
		return nil, err
	}
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{
		Peer: m.peers.Peer, TrustPeer: edge, TrustRequestID: gatemesh.AnyPeer, Observer: observer,
	})
	if err != nil {
		return nil, err
	}
	m.chain, err = gatemesh.NewChain(entry, spans.Layer(), m.peers.Layer(), users.Layer(), m.rules.Layer())
	return m, err
}

// apply puts manifests in use, for all layers at once: no call sees the
// policies of one set and the modes of another.
func (m *mesh) apply(set *manifest.Set) error {
	peers, err := m.peersOf(set)
	if err != nil {
		return err
	}
	return gatemesh.Apply(m.peers.Change(peers), m.rules.Change(m.rulesOf(set.Policies())))
}

func (m *mesh) peersOf(set *manifest.Set) (mtls.Config, error) {
	cfg := mtls.Config{Source: m.source, Authorize: m.members, Observer: m.observer}
	var err error
	if set != nil {
		cfg.Modes, err = mtls.ResolveModes(mtls.ModesConfig{Workload: m.self, Policies: set.PeerAuthentications()})
	}
	return cfg, err
}

func (m *mesh) rulesOf(policies []policy.Policy) policy.Config {
	return policy.Config{Workload: m.self, Policies: policies, Unselected: policy.Deny, Observer: m.observer}
}
