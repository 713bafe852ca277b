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
// for them; there are no more from then on. It closes the idle connections of the transport that upstreams without
// one of their own share. Call it when the proxy serves no more: for calls
// under way it waits a tenth of a second, and leaves their connections to end
// when they have been idle for 30 s.
func (r *Router) Close() error {
	r.mirrors.close()
	r.transport.close()
	return nil
}

var denyNoRoute = gatemesh.Deny(gatemesh.NotFound, "no_route", "No route matches the request.")

// Admit stamps the route of c by the precedence of the Gateway API, in which a
// tie is decided before the next criterion is looked at:
//
//  1. an exact hostname, the longest matching wildcard, no hostname;
//  2. an exact path, the longest matching prefix;
//  3. a match that names the method;
//  4. the match with the most header fields;
//  5. the route that stands first in [Config.Routes].
//
// If only one backend of the route has a weight, Admit stamps it as the
// destination. No match, and a host that no route knows, are NotFound.
//
// The time it takes does not depend on the number of routes, but for those
// with the same hostname and the same path, which are tried one by one.
func (r *Router) Admit(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	t := r.table.For(c)
	version, denial := t.version(c)
	if denial != nil {
		return gatemesh.Admission{}, denial
	}
	rule := t.match(c)
	if rule == nil {
		return gatemesh.Admission{}, denyNoRoute
	}
	adm := gatemesh.Admission{Route: &rule.route, Header: announced(version, rule.filters)}
	if rule.only != nil {
		adm.Backend, adm.Destination = rule.only, &rule.only.Destination
	}
	return adm, nil
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
