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
	// Replace puts a gate of another kind in the place of a layer; a nil Gate
	// leaves the layer out. The platform uses it to show what happens without.
	Replace map[string]gatemesh.Gate
	// Observer receives events of all layers.
	Observer gatemesh.Observer
}

// Gateway is a chain and the proxy behind it.
type Gateway struct {
	http.Handler
	chain  *gatemesh.Chain
	routes []routing.Route
	splits []canary.Split
	rules  []policy.Policy
}

// New returns the gateway. It reports every fault at once.
func New(cfg Config) (*Gateway, error) {
	g := &Gateway{}
	var b builder
	b.replace = maps.Clone(cfg.Replace)

	routes := routing.Config{Upstreams: cfg.Upstreams, Outbound: cfg.Outbound, Observer: cfg.Observer}
	if cfg.Manifests != nil {
		routes.Routes, routes.Subsets = cfg.Manifests.Routes(), cfg.Manifests.Subsets()
		g.splits, g.rules = cfg.Manifests.Splits(), cfg.Manifests.Policies()
	} else {
		routes.Routes = []routing.Route{{Name: "default", Backends: []gatemesh.WeightedDestination{
			{Destination: gatemesh.Destination{Service: "default"}, Weight: 1},
		}}}
	}
	g.routes = routes.Routes
	router, err := routing.New(routes)
	b.fault(err)

	// What is cheap and keyed by address first, so that guessing routes is
	// limited too; then who, how much for whom, whether, and which version.
	if cfg.ClientLimit != (ratelimit.Limit{}) {
		l, err := ratelimit.New(ratelimit.Config{Name: "client", Key: ratelimit.ByClient(0), Limit: cfg.ClientLimit, DisableFields: true, Observer: cfg.Observer})
		if b.fault(err) {
			b.add(l.Layer())
		}
	}
	if router != nil {
		b.add(router.Layer())
	}
	if cfg.Auth != nil {
		a, err := auth.New(*cfg.Auth)
		if b.fault(err) {
			b.add(a.Layer())
		}
	}
	if cfg.ConsumerLimit != (ratelimit.Limit{}) {
		l, err := ratelimit.New(ratelimit.Config{Name: "consumer", Key: ratelimit.ByConsumer(), Limit: cfg.ConsumerLimit, Observer: cfg.Observer})
		if b.fault(err) {
			b.add(l.Layer())
		}
	}
	if cfg.Manifests != nil {
		p, err := policy.New(policy.Config{Workload: cfg.Workload, Policies: g.rules, Unselected: policy.Deny, Observer: cfg.Observer})
		if b.fault(err) {
			b.add(p.Layer())
		}
		c, err := canary.New(canary.Config{Splits: g.splits, Observer: cfg.Observer})
		if b.fault(err) {
			b.add(c.Layer())
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
	g.Handler = g.chain.Handler(router.Proxy())
	return g, nil
}

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
	var config struct {
		Layers   []string
		Routes   []route
		Splits   []string
		Policies []rule
	}
	config.Layers = append([]string{"entry"}, g.chain.Layers()...)
	for _, r := range g.routes {
		to := route{Name: r.Name, Position: r.Position.String(), Hostnames: r.Hostnames}
		for _, b := range r.Backends {
			to.Backends = append(to.Backends, fmt.Sprintf("%s weight %d", b.Destination, b.Weight))
		}
		config.Routes = append(config.Routes, to)
	}
	for _, s := range g.splits {
		config.Splits = append(config.Splits, fmt.Sprintf("%s.%s (%s)", s.Service, s.Namespace, s.Position))
	}
	for _, p := range g.rules {
		config.Policies = append(config.Policies, rule{p.Namespace + "/" + p.Name, p.Position.String(), p.Action.String()})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(config) // the operator may be gone
	})
	return mux
}
