package routing

import (
	"context"
	"math/rand/v2"
	"net/http"

	"github.com/gatemesh-go/gatemesh"
)

// Router is a route table and the proxy behind it; see [New]. Its zero value
// is not usable. It is safe for concurrent use.
type Router struct {
	table     gatemesh.Live[table]
	transport *ownTransport
	proxy     *proxy
	mirrors   *mirrors
	random    func() float64 // in [0, 1)
}

// New returns a Router for cfg. It reports every fault at once, each with the
// position of the route or subset it was found in.
func New(cfg Config) (*Router, error) {
	r := &Router{transport: newTransport(), mirrors: newMirrors(), random: rand.Float64}
	r.proxy = newProxy(r)
	if err := r.Update(cfg); err != nil {
		return nil, err
	}
	return r, nil
}

// Update replaces the whole configuration for the calls that are matched from
// now on; calls that were matched before are dispatched as they were. If cfg is
// invalid, the old configuration stays. Idle connections to upstreams are kept.
func (r *Router) Update(cfg Config) error { return gatemesh.Apply(r.Change(cfg)) }

// Change is [Router.Update] as a part of [gatemesh.Apply].
func (r *Router) Change(cfg Config) gatemesh.Change {
	return gatemesh.NewChange(&r.table, func(*table) (*table, error) { return compile(r, cfg) }, nil)
}

// Close cancels the copies of requests that are under way to mirrors and waits
// for them, and there are no more from then on. It closes the idle connections
// of the transport that upstreams without one of their own share. Call it when
// the proxy serves no more: for calls under way it waits a tenth of a second,
// and leaves their connections to end when they have been idle for 30 s.
func (r *Router) Close() error {
	r.mirrors.close()
	r.transport.close()
	return nil
}

// refusal is what callers of either protocol get where no route matches: gRPC
// has a code of its own for methods that nobody serves, which the Gateway API
// asks for.
type refusal struct{ http, grpc *gatemesh.Denial }

func newRefusal(reason, detail string) refusal {
	return refusal{gatemesh.Deny(gatemesh.NotFound, reason, detail), gatemesh.Deny(gatemesh.Unimplemented, reason, detail)}
}

func (r *refusal) of(c *gatemesh.Call) *gatemesh.Denial {
	if c.Protocol() == gatemesh.GRPC {
		return r.grpc
	}
	return r.http
}

var (
	denyNoRoute = newRefusal("no_route", "No route matches the request.")
	denyNoRule  = newRefusal("no_version", "No version of the service takes this request.")
)

// Admit stamps the route of c by the precedence of the Gateway API, in which a
// tie is decided before the next criterion is looked at:
//
//  1. the listener with the most specific hostname, of whose routes alone the
//     following choose;
//  2. an exact hostname, the longest matching wildcard, no hostname;
//  3. an exact path, the longest matching prefix of either type, a regular
//     expression, the prefix "/", which says nothing about the path;
//  4. a match that says something about the method;
//  5. the match with the most header fields;
//  6. the match with the most query parameters;
//  7. the match with the most of scheme, authority, port, protocol and version;
//  8. the route that stands first in [Config.Routes].
//
// Where regular expressions stand and what follows on query parameters is left
// to implementations by the Gateway API. A match that does not hold as a whole
// leaves the call to the next one, also that of a shorter path or hostname.
//
// If only one backend of the route has a weight, Admit stamps it, and its
// destination; unless [Config.Services] has rules for its service, in which case
// it stamps the one that matches and its destination, if that has no choice
// either. Where there is a choice, it is for another layer to choose.
//
// An OPTIONS that no route matches and that is a preflight request of CORS
// belongs to the route that the request it asks about would, if that has CORS.
//
// No match, and a host that no route knows, are NotFound, or Unimplemented for
// gRPC. A call on a connection that was made for the name of another listener is
// answered with 421; clients that name none when they connect are not asked.
//
// The time it takes does not depend on the number of routes, but for those
// with the same hostname and the same path, which are tried one by one, as are
// regular expressions that begin with the same literal text.
func (r *Router) Admit(_ context.Context, c *gatemesh.Call) (adm gatemesh.Admission, err error) {
	t := r.table.For(c)
	version, denial := t.version(c)
	if denial != nil {
		return adm, denial
	}
	rule, err := t.find(c, version)
	if err != nil {
		return adm, err
	}
	if rule == nil {
		return adm, denyNoRoute.of(c)
	}
	if rule.only != nil {
		if err := t.choose(&adm, c, rule.only); err != nil {
			return gatemesh.Admission{}, err
		}
	}
	adm.Route, adm.Header = &rule.route, announced(version, rule.filters)
	return adm, nil
}

// choose stamps the only backend of a route, if what is said about its service
// leaves no choice either.
func (t *table) choose(adm *gatemesh.Admission, c *gatemesh.Call, only *gatemesh.WeightedDestination) error {
	s := t.serviceOf(&only.Destination)
	if s == nil || unserved(only) {
		adm.Backend, adm.Destination = only, &only.Destination
		return nil
	}
	to, err := s.route(t, c, &only.Destination)
	switch {
	case err != nil:
		return err
	case len(to.route.Backends) == 0: // it answers
		adm.Backend, adm.ServiceRoute = only, &to.route
		return nil
	case to.only == nil:
		return nil
	}
	adm.Backend, adm.ServiceRoute, adm.ServiceBackend, adm.Destination = only, &to.route, to.only, &to.only.Destination
	return nil
}

// AdmitCached is [Router.Admit], which never waits.
func (r *Router) AdmitCached(ctx context.Context, c *gatemesh.Call) (adm gatemesh.Admission, ok bool, err error) {
	adm, err = r.Admit(ctx, c)
	return adm, true, err
}

// Serves reports whether some upstream serves d, for checking a split or
// another layer that chooses destinations when it is configured.
func (r *Router) Serves(d gatemesh.Destination) bool { return r.table.Latest().places.find(d) != nil }

// Layer returns the Router's place in a [gatemesh.Chain]: anywhere, and before
// everything that differs by route.
func (r *Router) Layer() gatemesh.Layer {
	return gatemesh.Layer{Name: "route", Gives: []gatemesh.Fact{gatemesh.FactRoute}, Gate: r}
}

// Handler matches requests before next, without a [gatemesh.Chain].
func (r *Router) Handler(next http.Handler) http.Handler {
	return gatemesh.GateHandler(r.Layer(), gatemesh.ObserverFunc(r.observe))(next)
}

// observe passes events to whom the current configuration names.
func (r *Router) observe(ctx context.Context, e gatemesh.Event) {
	if to := r.table.Latest().observer; to != nil {
		to.Observe(ctx, e)
	}
}
