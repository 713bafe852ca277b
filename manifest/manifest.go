package manifest

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing"
)

// Set is what a folder of manifests says. It is complete and consistent: there
// is no Set of a folder in which something is wrong. A Set never changes and is
// safe for concurrent use. The zero Set is empty.
type Set struct {
	gateways         []*object[gatewaySpec]
	httpRoutes       []*object[httpRouteSpec]
	virtualServices  []*object[virtualServiceSpec]
	destinationRules []*object[destinationRuleSpec]
	policies         []*object[authorizationSpec]
	requestAuths     []*object[requestAuthSpec]

	peerAuthentications []*object[peerAuthenticationSpec]

	read      [sha256.Size]byte                   // sum of the files it was read from
	hostnames map[*object[httpRouteSpec]][]string // under which a listener serves a route
	broken    map[string]bool                     // objects with faults, "kind namespace/name"
	unread    bool                                // there are objects that nobody knows the names of
}

// Listener is a listener of the Gateway: what the server is asked to listen for.
type Listener struct {
	// Position is where the listener was written.
	Position gatemesh.Position
	// Name is unique in the Gateway.
	Name string
	// Hostname is the host that is served, "" for every one. [Set.Routes]
	// accounts for it.
	Hostname string
	// Port is where callers connect.
	Port uint16
	// HTTPS says that callers must use TLS. The certificate is the server's own
	// configuration.
	HTTPS bool
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
// begin with ".#" are locks of an editor and no files.
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
		hostnames: make(map[*object[httpRouteSpec]][]string),
		broken:    make(map[string]bool),
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
	unique(seen, "Gateway", set.gateways)
	unique(seen, "HTTPRoute", set.httpRoutes)
	unique(seen, "VirtualService", set.virtualServices)
	unique(seen, "DestinationRule", set.destinationRules)
	unique(seen, "AuthorizationPolicy", set.policies)
	unique(seen, "PeerAuthentication", set.peerAuthentications)
	set.linkPeerAuthentications()
	unique(seen, "RequestAuthentication", set.requestAuths)
	linkTargets(set, set.policies, func(s *authorizationSpec) targetRefs { return s.Targets })
	linkTargets(set, set.requestAuths, func(s *requestAuthSpec) targetRefs { return s.Targets })
	for i, g := range set.gateways {
		// A route of an internal Gateway must not be served by another one.
		if i > 0 {
			first := set.gateways[0]
			g.scope.fault(mark{line: g.line}, "a second Gateway is not supported by gatemesh: a set describes one server, and %s (%s) is it already",
				first.name(), first.scope.position(first.mark))
		}
	}
	sortRoutes(set.httpRoutes)
	for _, r := range set.httpRoutes {
		set.linkRoute(r)
	}
	set.linkServices()
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
	for name := range set.broken {
		if strings.HasPrefix(name, kind) {
			return true
		}
	}
	return set.unread
}

// verify asks the packages that will get the configuration whether they take
// it, so that a Set that loads cannot fail later.
func (set *Set) verify(f *faults) {
	routes := routing.Config{Routes: set.Routes(), Subsets: set.Subsets()}
	for _, r := range routes.Routes {
		for _, b := range r.Backends {
			routes.Upstreams = append(routes.Upstreams, routing.Upstream{
				Service: b.Destination.Service, Namespace: b.Destination.Namespace, URL: "http://" + b.Destination.Service,
			})
		}
	}
	router, err := routing.New(routes)
	f.keep(err)
	if err == nil {
		f.keep(router.Close())
	}
	_, err = canary.New(canary.Config{Splits: set.Splits()})
	f.keep(err)
	_, err = newEngine(set.Policies()...)
	f.keep(err)
	_, err = mtls.ResolveModes(mtls.ModesConfig{Workload: nobody, RootNamespace: noNamespace, Policies: set.PeerAuthentications()})
	f.keep(err)
	for _, a := range set.RequestAuthentications() {
		for _, r := range a.Rules {
			f.keep(r.verify())
		}
	}
}

func (f *faults) keep(err error) {
	if err != nil {
		f.add(fault{text: err.Error()})
	}
}

// Listeners returns the listeners of the Gateway, so that a server can listen
// as it is told. Without a Gateway there are none.
func (set *Set) Listeners() []Listener {
	var out []Listener
	for _, g := range set.gateways {
		for i := range g.Spec.Listeners {
			l := &g.Spec.Listeners[i]
			out = append(out, Listener{
				Position: g.scope.position(l.mark), Name: l.Name.V, Hostname: l.Hostname.V,
				Port: uint16(l.Port.V), HTTPS: l.Protocol.V == "HTTPS",
			})
		}
	}
	return out
}
