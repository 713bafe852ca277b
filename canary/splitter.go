package canary

import (
	"context"
	"net/http"

	"github.com/gatemesh-go/gatemesh"
)

// Splitter chooses the version that a call goes to; see [New]. Its zero value
// is not usable. It is safe for concurrent use.
//
// Whom it deals to a version is, by what is known first, the subject of the
// Principal with its issuer, the consumer, or the client's address, IPv6 by
// /64. A user therefore keeps one version for as long as the weights stay, on
// every replica, and may get another one by signing in.
//
// Where the backends of a Route are services and not versions of one, as those of
// an HTTPRoute are, the calls of nobody who is known are dealt one by one instead
// of by address: the Gateway API counts requests, and behind one address there
// may be a thousand users.
//
// The point at which a user stands between 0 and 1 is a hash of salt, service
// and user, and each backend has a part of that line as long as its share. When
// weights change, users move only across the ends that moved: of two backends,
// raising the second one's share moves users to it and nobody away from it,
// and lowering it moves the last ones that came back first. The same holds for
// a second and a third backend that grow and shrink at the cost of the first,
// which is why the stable version stands first.
//
// Different services deal the same users differently. [Config.Salt] makes
// different installations do so, too.
type Splitter struct {
	state gatemesh.Live[state]
}

// New returns a Splitter for cfg. It reports every fault at once.
func New(cfg Config) (*Splitter, error) {
	s := &Splitter{}
	if err := s.Update(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// Update replaces the whole configuration for the calls that are admitted from
// now on. If cfg is invalid, the old one stays. As nothing is stored, users
// keep their version as far as the weights let them.
func (s *Splitter) Update(cfg Config) error { return gatemesh.Apply(s.Change(cfg)) }

// Change is [Splitter.Update] as a part of [gatemesh.Apply].
func (s *Splitter) Change(cfg Config) gatemesh.Change {
	return gatemesh.NewChange(&s.state, func(*state) (*state, error) { return compile(cfg) }, nil)
}

var (
	denyNoBackend = gatemesh.Deny(gatemesh.Internal, "no_backend", "The request could not be processed.")
	denyNoRoute   = gatemesh.Deny(gatemesh.Internal, "no_route_table", "The request could not be processed.")
)

// Admit stamps Backend, ServiceRoute, ServiceBackend, Lane and Destination.
//
// Two decisions follow one another, and both are made by weight. Unless the
// call has a destination already, as one that we make has, one of the backends
// of its Route is chosen. Then [Config.Services] says which rule there is for
// calls like this one to that service, and one of the rule's backends is chosen;
// a backend without a port gets the port that the first decision gave. A service
// of which nothing is said stays as it is, and so does a destination that names
// a subset: it is final, unless it is one that the table took because no other
// backend has a weight; rollouts still say theirs about that, and lanes if it is
// of a service's rule. A route or a rule without backends is answered by whoever
// stands behind, and has no destination.
//
// A call that comes with a lane, because another service or an earlier gateway
// has chosen one and a signed identity carried it here, keeps it if a backend
// has a subset of that name and a weight, or if the rule has none of that name
// and another rule of the service has. The lane goes before the weights, so
// that a tree of calls stays in one version. A lane that nobody serves means
// nothing.
//
// An inbound call that no route table has seen is refused as Internal.
func (s *Splitter) Admit(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	state := s.state.For(c)
	adm := gatemesh.Admission{}
	d, dealt := c.Destination(), state.rolloutOf(c.Route())
	if d == (gatemesh.Destination{}) || dealt != nil && c.Backend() != nil && c.ServiceRoute() == nil {
		r := c.Route()
		switch {
		case r == nil && !c.Outbound():
			return gatemesh.Admission{}, denyNoRoute
		case r == nil || len(r.Backends) == 0:
			return adm, nil
		}
		if adm.Backend = pick(state.salt.add("route").add(r.Name), c, r, dealt); adm.Backend == nil {
			return gatemesh.Admission{}, denyNoBackend
		}
		adm.Destination = &adm.Backend.Destination
		d = adm.Backend.Destination
	}
	r := c.ServiceRoute()
	if r != nil && c.Backend() != nil { // the table has chosen, for want of a choice by weight alone
		d = c.Backend().Destination
	}
	if d.Subset != "" {
		adm.Lane = d.Subset
		return adm, nil
	}
	if r == nil && state.services != nil {
		var err error
		if r, err = state.services.RouteTo(c, d); err != nil {
			return gatemesh.Admission{}, err
		}
	}
	rollout := state.rollouts[serviceOf(d)]
	if r == nil && rollout != nil {
		r = &rollout.route
	}
	if r == nil {
		return adm, nil
	}
	adm.ServiceRoute = r
	if len(r.Backends) == 0 { // it goes nowhere
		adm.Destination = nil
		return adm, nil
	}
	if adm.ServiceBackend = pick(state.salt.add("split").add(d.Service).add(d.Namespace), c, r, rollout); adm.ServiceBackend == nil {
		return gatemesh.Admission{}, denyNoBackend
	}
	to := adm.ServiceBackend.Destination
	if to.Port == 0 {
		to.Port = d.Port
	}
	adm.Lane, adm.Destination = to.Subset, state.stamped(to)
	return adm, nil
}

// rolloutOf returns the rollout whose versions are among the backends of r itself.
func (s *state) rolloutOf(r *gatemesh.Route) *Rollout {
	if r == nil || len(s.rollouts) == 0 {
		return nil
	}
	for i := range r.Backends {
		if of := s.rollouts[serviceOf(r.Backends[i].Destination)]; of != nil {
			if _, ok := of.among(r.Backends); ok {
				return of
			}
		}
	}
	return nil
}

// AdmitCached is [Splitter.Admit], which never waits.
func (s *Splitter) AdmitCached(ctx context.Context, c *gatemesh.Call) (adm gatemesh.Admission, ok bool, err error) {
	adm, err = s.Admit(ctx, c)
	return adm, true, err
}

// Layer returns the Splitter's place in a [gatemesh.Chain]: behind the route
// table, and behind authentication and policy where they are, so that users
// are dealt by name and only what is allowed is dealt at all.
//
// It is a layer of a [gatemesh.Outbound] as well, for services that call one
// another without a proxy. The users are those of the calls that ours are made
// for, and the lane is theirs.
func (s *Splitter) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name:  "canary",
		Gives: []gatemesh.Fact{gatemesh.FactLane},
		After: []gatemesh.Fact{gatemesh.FactRoute, gatemesh.FactPrincipal, gatemesh.FactPolicy},
		Gate:  s,
	}
}

// Handler chooses a version before next, without a [gatemesh.Chain].
func (s *Splitter) Handler(next http.Handler) http.Handler {
	return gatemesh.GateHandler(s.Layer(), gatemesh.ObserverFunc(s.observe))(next)
}

// observe passes events to whom the current configuration names.
func (s *Splitter) observe(ctx context.Context, e gatemesh.Event) {
	if to := s.state.Latest().observer; to != nil {
		to.Observe(ctx, e)
	}
}
