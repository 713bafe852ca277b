package manifest

import (
	"context"
	"crypto/sha256"
	"io/fs"
	"os"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing"
)

// Set is what a folder of manifests says. It is complete and consistent: there
// is no Set of a folder in which something is wrong. A Set never changes and is
// safe for concurrent use. The zero Set is empty.
type Set struct {
	namespaces       []*object[namespaceSpec]
	referenceGrants  []*object[referenceGrantSpec]
	gateways         []*object[gatewaySpec]
	httpRoutes       []*object[httpRouteSpec]
	grpcRoutes       []*object[grpcRouteSpec]
	virtualServices  []*object[virtualServiceSpec]
	destinationRules []*object[destinationRuleSpec]
	policies         []*object[authorizationSpec]
	requestAuths     []*object[requestAuthSpec]

	peerAuthentications []*object[peerAuthenticationSpec]

	chosen      *object[gatewaySpec]              // by For
	namespaceOf map[string]*object[namespaceSpec] // by name
	gatewayOf   map[string]*object[gatewaySpec]   // by namespace/name
	attached    map[any][]attachment              // by HTTPRoute or GRPCRoute

	ruleOf map[service]*object[destinationRuleSpec]

	read   [sha256.Size]byte // sum of the files it was read from
	broken map[string]bool   // kinds of which an object has faults
	unread bool              // there are objects that nobody knows the names of
}

// LoadDir reads every file of the folder dir whose name ends in .yaml or .yml,
// in the order of names, and not those of folders in it. It reports the faults
// of all files at once, up to 50, each as
//
//	file:line: kind namespace/name: field: what is wrong
//
// and returns no Set if there is one; who reloads keeps the Set from before, as
// a [Watcher] does. A folder without such a file is an error, and so are a file
// above 1 MiB, more than 1000 files, and more than 64 MiB of them. Names that
// begin with ".#" are locks of an editor and no files. What files amount to is
// bounded as well: matches of routes, counted for each listener and hostname
// that they are for, by 500,000, those of VirtualServices, counted for each host,
// by 100,000, and what regular expressions compile to.
func LoadDir(dir string) (*Set, error) {
	return loaded(readFS(os.DirFS(dir), dir))
}

// LoadFS is [LoadDir] for the root of fsys.
func LoadFS(fsys fs.FS) (*Set, error) {
	return loaded(readFS(fsys, ""))
}

// Parse reads data as the only file of a folder. The file name is for
// positions and errors; nothing is opened.
func Parse(file string, data []byte) (*Set, error) {
	l := newLoader()
	l.file(file, data)
	return l.finish()
}

// loader reads files into a Set.
type loader struct {
	faults *faults
	set    *Set
}

func newLoader() *loader {
	return &loader{&faults{}, &Set{
		namespaceOf: make(map[string]*object[namespaceSpec]),
		gatewayOf:   make(map[string]*object[gatewaySpec]),
		attached:    make(map[any][]attachment),
		ruleOf:      make(map[service]*object[destinationRuleSpec]),
		broken:      make(map[string]bool),
	}}
}

func (l *loader) file(name string, data []byte) {
	s := scope{faults: l.faults, file: name}
	roots, all := documents(s, data)
	for _, n := range roots {
		all = load(l.set, s, n) && all
	}
	l.set.unread = l.set.unread || !all
}

func (l *loader) finish() (*Set, error) {
	l.set.link()
	if l.faults.count == 0 {
		l.set.verify(l.faults)
	}
	if err := l.faults.err(); err != nil {
		return nil, err
	}
	return l.set, nil
}

// link checks what objects say about each other.
func (set *Set) link() {
	seen := make(map[string]scope)
	unique(seen, "Namespace", set.namespaces)
	unique(seen, "ReferenceGrant", set.referenceGrants)
	unique(seen, "Gateway", set.gateways)
	unique(seen, "HTTPRoute", set.httpRoutes)
	unique(seen, "GRPCRoute", set.grpcRoutes)
	unique(seen, "VirtualService", set.virtualServices)
	unique(seen, "DestinationRule", set.destinationRules)
	unique(seen, "AuthorizationPolicy", set.policies)
	unique(seen, "PeerAuthentication", set.peerAuthentications)
	set.linkPeerAuthentications()
	unique(seen, "RequestAuthentication", set.requestAuths)
	linkTargets(set, set.policies, func(s *authorizationSpec) targetRefs { return s.Targets })
	linkTargets(set, set.requestAuths, func(s *requestAuthSpec) targetRefs { return s.Targets })
	set.linkRoutes()
	set.boundServices()
	set.linkServices()
}

// linkRoutes checks what Gateways and their routes refer to.
func (set *Set) linkRoutes() {
	set.linkNamespaces()
	allowed := set.grants()
	set.linkGateways(allowed)
	sortRoutes(set.httpRoutes)
	sortRoutes(set.grpcRoutes)
	var http, grpc []aRoute
	matches := make(map[any]int)
	for _, r := range set.httpRoutes {
		http = append(http, asRoute("HTTPRoute", r, r.Spec.ParentRefs, r.Spec.Hostnames))
		set.linkHTTPRoute(r, allowed)
		matches[r] = r.Spec.matches()
	}
	for _, r := range set.grpcRoutes {
		grpc = append(grpc, asRoute("GRPCRoute", r, r.Spec.ParentRefs, r.Spec.Hostnames))
		set.linkGRPCRoute(r, allowed)
		matches[r] = r.Spec.matches()
	}
	places := 0
	for _, list := range [][]aRoute{http, grpc} {
		for i := range list {
			r := &list[i]
			set.attached[r.key] = set.attach(r)
			set.boundRoutes(r, matches[r.key], &places)
		}
	}
	set.linkKinds(http, grpc)
}

func unique[S any](seen map[string]scope, kind string, list []*object[S]) {
	for _, o := range list {
		key := kind + " " + o.name()
		if first, twice := seen[key]; twice {
			o.scope.fault(o.Metadata.Name.mark, "there is another one of this name, in %s", first.file)
			continue
		}
		seen[key] = o.scope
	}
}

// mayLack reports whether an object of a kind may be missing because it has
// faults. Then nothing is said about references to it.
func (set *Set) mayLack(kind string) bool {
	return set.broken[kind] || set.unread
}

// verify asks the packages that will get the configuration whether they take
// it, so that a Set that loads cannot fail later.
func (set *Set) verify(f *faults) {
	verifyRoutes(f, routing.Config{
		Subsets: set.Subsets(), Services: set.services(func(*httpMatch) bool { return true }),
	})
	for _, g := range set.gateways {
		one := *set
		one.chosen = g
		verifyRoutes(f, routing.Config{Listeners: one.RouteListeners(nil), Routes: one.Routes()})
	}
	_, err := newEngine(set.Policies()...)
	f.keep(err)
	_, err = mtls.ResolveModes(mtls.ModesConfig{Workload: nobody, RootNamespace: noNamespace, Policies: set.PeerAuthentications()})
	f.keep(err)
	for _, a := range set.RequestAuthentications() {
		for _, r := range a.Rules {
			f.keep(r.verify())
		}
	}
}

// verifyRoutes asks package routing. Which upstreams there are is up to the
// server, so that there is one for each destination here.
func verifyRoutes(f *faults, cfg routing.Config) {
	cfg.Outbound = []gatemesh.Layer{{Name: "retry", Retry: never{}}} // or else routes could not ask for retries
	known := make(map[service]bool)
	for _, d := range destinations(cfg) {
		if s := (service{d.Service, d.Namespace}); !known[s] {
			known[s] = true
			cfg.Upstreams = append(cfg.Upstreams, routing.Upstream{Service: s.name, Namespace: s.namespace, URL: "http://" + s.name})
		}
	}
	for i := range cfg.Subsets {
		s := &cfg.Subsets[i]
		cfg.Upstreams = append(cfg.Upstreams, routing.Upstream{Service: s.Service, Namespace: s.Namespace, Subset: s.Name, URL: "http://" + s.Service})
	}
	router, err := routing.New(cfg)
	f.keep(err)
	if err == nil {
		f.keep(router.Close())
	}
}

// never is a Retrier for a table that carries no calls.
type never struct{}

func (never) Retry(context.Context, *gatemesh.Call, gatemesh.Attempt) (time.Duration, bool) {
	return 0, false
}

// destinations returns where calls and copies of them go by cfg.
func destinations(cfg routing.Config) (all []gatemesh.Destination) {
	mirrors := func(filters *routing.Filters) {
		for _, m := range filters.Mirrors {
			all = append(all, m.Destination)
		}
	}
	add := func(rules []routing.Route) {
		for i := range rules {
			mirrors(&rules[i].Filters)
			for j := range rules[i].Backends {
				if !rules[i].Backends[j].Unserved {
					all = append(all, rules[i].Backends[j].Destination)
				}
				mirrors(&rules[i].Backends[j].Filters)
			}
		}
	}
	add(cfg.Routes)
	for i := range cfg.Services {
		add(cfg.Services[i].Rules)
	}
	return all
}

func (f *faults) keep(err error) {
	if err != nil {
		f.add(fault{text: err.Error()})
	}
}
