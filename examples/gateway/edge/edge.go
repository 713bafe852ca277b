// Package edge puts the layers of the front door together: it is the gateway
// of examples/gateway and of examples/platform. Copy it and change what your
// front door does differently.
package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
)

// Config configures a Gateway. Upstreams are required, and either Manifests or
// a service named "default" among them.
type Config struct {
	// Manifests say what is routed where, split how, and allowed to whom.
	// Default: everything goes to the upstream "default".
	Manifests *manifest.Set
	// Upstreams say where services are.
	Upstreams []routing.Upstream
	// Ports say at which local port calls arrive that are for a port of the
	// Gateway; see [manifest.Set.RouteListeners]. Default: the same.
	Ports map[uint16]uint16
	// Workload is who we are for AuthorizationPolicies. Required with Manifests.
	Workload gatemesh.Workload
	// Auth says who may call from outside. nil: anybody.
	Auth *auth.Config
	// ClientLimit is charged by address before authentication. Zero: none.
	ClientLimit ratelimit.Limit
	// ConsumerLimit is charged by consumer after it. Zero: none. Requires Auth.
	ConsumerLimit ratelimit.Limit
	// TrustedProxies may say who the client is.
	TrustedProxies []netip.Prefix
	// Outbound gates judge calls to services, such as the identity minter.
	Outbound []gatemesh.Layer
	// Rollouts decide the shares of the subsets that they are about, and learn
	// from every attempt, behind Outbound. They need Manifests, and are closed by
	// whoever made them. Default: none.
	Rollouts []*canary.Rollout
	// Replace puts a gate of another kind in the place of a layer; a nil Gate
	// leaves the layer out. The platform uses it to show what happens without.
	Replace map[string]gatemesh.Gate
	// Salt is canary.Config.Salt. Default: the canary's.
	Salt string
	// AfterRoute are layers that stand behind the route, such as tracing.
	AfterRoute []gatemesh.Layer
	// Observer receives events of all layers. Update keeps that of New.
	Observer gatemesh.Observer
}

// Gateway is a chain and the proxy behind it.
type Gateway struct {
	http.Handler
	chain *gatemesh.Chain
	shown atomic.Pointer[parts] // for Admin

	router    *routing.Router
	client    *ratelimit.Limiter // these may be nil
	auth      *auth.Authenticator
	consumer  *ratelimit.Limiter
	policy    *policy.Engine
	canary    *canary.Splitter
	observer  gatemesh.Observer
	manifests bool
}

// parts are the configurations of the components that Config amounts to.
type parts struct {
	routes           routing.Config
	client, consumer ratelimit.Config
	policy           policy.Config
	canary           canary.Config
}

func (cfg *Config) parts() *parts {
	outbound := slices.Clone(cfg.Outbound)
	for _, r := range cfg.Rollouts { // last, where they also see what a retry hides
		outbound = append(outbound, r.Layer())
	}
	p := &parts{
		routes:   routing.Config{Upstreams: cfg.Upstreams, Outbound: outbound, Observer: cfg.Observer},
		client:   ratelimit.Config{Name: "client", Key: ratelimit.ByClient(0), Limit: cfg.ClientLimit, DisableFields: true, Observer: cfg.Observer},
		consumer: ratelimit.Config{Name: "consumer", Key: ratelimit.ByConsumer(), Limit: cfg.ConsumerLimit, Observer: cfg.Observer},
	}
	if cfg.Manifests == nil {
		p.routes.Routes = []routing.Route{{Name: "default", Backends: []routing.Backend{
			{Destination: gatemesh.Destination{Service: "default"}, Weight: 1},
		}}}
		return p
	}
	p.routes.Listeners, p.routes.Routes = cfg.Manifests.RouteListeners(cfg.Ports), cfg.Manifests.Routes()
	p.routes.Services, p.routes.Subsets = cfg.Manifests.Services(cfg.Workload), cfg.Manifests.Subsets()
	p.policy = policy.Config{Workload: cfg.Workload, Policies: cfg.Manifests.Policies(), Unselected: policy.Deny, Observer: cfg.Observer}
	p.canary = canary.Config{Salt: cfg.Salt, Rollouts: cfg.Rollouts, Observer: cfg.Observer}
	return p
}

// checkRollouts refuses rollouts where nothing is dealt.
func (cfg *Config) checkRollouts() error {
	if cfg.Manifests == nil && len(cfg.Rollouts) > 0 {
		return errors.New("edge: Config.Rollouts need Manifests")
	}
	return nil
}

// New returns the gateway. It reports every fault at once.
func New(cfg Config) (*Gateway, error) {
	g := &Gateway{observer: cfg.Observer, manifests: cfg.Manifests != nil}
	b := builder{replace: maps.Clone(cfg.Replace)}
	p := cfg.parts()
	var err error
	b.fault(cfg.checkRollouts())

	// What is cheap and keyed by address first, so that guessing routes is
	// limited too; then who, how much for whom, whether, and which version.
	if cfg.ClientLimit != (ratelimit.Limit{}) {
		if g.client, err = ratelimit.New(p.client); b.fault(err) {
			b.add(g.client.Layer())
		}
	}
	if g.router, err = routing.New(p.routes); b.fault(err) {
		// Preflight requests carry no credential, and a page has to be able to
		// read a refusal, too.
		b.add(g.router.Layer())
		b.add(g.router.CORS())
		p.canary.Services = g.router
	}
	b.layers = append(b.layers, cfg.AfterRoute...)
	if cfg.Auth != nil {
		if g.auth, err = auth.New(*cfg.Auth); b.fault(err) {
			b.add(g.auth.Layer())
		}
	}
	if cfg.ConsumerLimit != (ratelimit.Limit{}) {
		if g.consumer, err = ratelimit.New(p.consumer); b.fault(err) {
			b.add(g.consumer.Layer())
		}
	}
	if g.manifests {
		if g.policy, err = policy.New(p.policy); b.fault(err) {
			b.add(g.policy.Layer())
		}
		if g.canary, err = canary.New(p.canary); b.fault(err) {
			b.add(g.canary.Layer())
		}
	}
	for name := range b.replace {
		b.fault(fmt.Errorf("edge: Config.Replace: there is no layer %q", name))
	}
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{TrustedProxies: cfg.TrustedProxies, Observer: cfg.Observer})
	b.fault(err)
	if err := errors.Join(b.errs...); err != nil {
		return nil, err
	}
	if g.chain, err = gatemesh.NewChain(entry, b.layers...); err != nil {
		return nil, err
	}
	g.shown.Store(p)
	g.Handler = g.chain.Handler(g.router.Proxy())
	return g, nil
}

// Update changes everything at once: no request sees the routes of one
// configuration and the policies of another. Counters, buckets and verified
// tokens stay. If anything in cfg is wrong, all stays as it is. Which layers
// there are cannot change, nor who the gateway trusts.
func (g *Gateway) Update(cfg Config) error {
	cfg.Observer = g.observer
	p := cfg.parts()
	if g.manifests != (cfg.Manifests != nil) || (g.auth != nil) != (cfg.Auth != nil) ||
		(g.client != nil) != (cfg.ClientLimit != ratelimit.Limit{}) || (g.consumer != nil) != (cfg.ConsumerLimit != ratelimit.Limit{}) {
		return errors.New("edge: Update cannot add or remove layers")
	}
	if err := cfg.checkRollouts(); err != nil {
		return err
	}
	changes := []gatemesh.Change{g.router.Change(p.routes)}
	if g.client != nil {
		changes = append(changes, g.client.Change(p.client))
	}
	if g.auth != nil {
		changes = append(changes, g.auth.Change(*cfg.Auth))
	}
	if g.consumer != nil {
		changes = append(changes, g.consumer.Change(p.consumer))
	}
	if g.manifests {
		p.canary.Services = g.router
		changes = append(changes, g.policy.Change(p.policy), g.canary.Change(p.canary))
	}
	if err := gatemesh.Apply(changes...); err != nil {
		return err
	}
	g.shown.Store(p)
	return nil
}

// Measurables returns the components that tell metrics about themselves.
func (g *Gateway) Measurables() (all []gatemesh.Measurable) {
	if g.client != nil {
		all = append(all, g.client)
	}
	if g.consumer != nil {
		all = append(all, g.consumer)
	}
	if g.auth != nil {
		all = append(all, g.auth)
	}
	return all
}

// Close closes idle connections to upstreams.
func (g *Gateway) Close() error { return g.router.Close() }

// builder collects layers and faults.
type builder struct {
	replace map[string]gatemesh.Gate
	layers  []gatemesh.Layer
	errs    []error
}

func (b *builder) add(l gatemesh.Layer) {
	if gate, ok := b.replace[l.Name]; ok {
		delete(b.replace, l.Name)
		if gate == nil {
			return
		}
		l.Gate = gate
	}
	b.layers = append(b.layers, l)
}

// fault keeps err and reports whether there is none.
func (b *builder) fault(err error) bool {
	if err != nil {
		b.errs = append(b.errs, err)
	}
	return err == nil
}

// Admin serves what is loaded, as JSON, on the admin port.
func (g *Gateway) Admin() http.Handler {
	type route struct {
		Name, Position string
		Hostnames      []string
		Backends       []string
	}
	type rule struct{ Name, Position, Action string }
	type shown struct {
		Layers   []string
		Routes   []route
		Services []string
		Policies []rule
	}
	show := func(p *parts) (config shown) {
		config.Layers = append([]string{"entry"}, g.chain.Layers()...)
		for _, r := range p.routes.Routes {
			to := route{Name: r.Name, Position: r.Position.String(), Hostnames: r.Hostnames}
			for _, b := range r.Backends {
				where := b.Destination.String()
				if b.Unserved {
					where = "nobody"
				}
				to.Backends = append(to.Backends, fmt.Sprintf("%s weight %d", where, b.Weight))
			}
			config.Routes = append(config.Routes, to)
		}
		for _, s := range p.routes.Services {
			config.Services = append(config.Services, fmt.Sprintf("%s.%s (%s)", s.Service, s.Namespace, s.Position))
		}
		for _, p := range p.policy.Policies {
			config.Policies = append(config.Policies, rule{p.Namespace + "/" + p.Name, p.Position.String(), p.Action.String()})
		}
		return config
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(show(g.shown.Load())) // the operator may be gone
	})
	return mux
}
