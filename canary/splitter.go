package canary

import (
	"context"
	"net/http"
	"strings"

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
// The point at which a user stands between 0 and 1 is a hash of salt, service
// and user, and each target has a part of that line as long as its share. When
// weights change, users move only across the ends that moved: of two targets,
// raising the second one's share moves users to it and nobody away from it,
// and lowering it moves the last ones that came back first. The same holds for
// a second and a third target that grow and shrink at the cost of the first,
// which is why the stable version stands first.
//
// Different services deal the same users differently. [Config.Salt] makes
// different installations do so, too.
type Splitter struct {
	state gatemesh.Live[state]
}

// New returns a Splitter for cfg. It reports every fault at once, each with the
// position of the rule or split it was found in.
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
	denyNoRule    = gatemesh.Deny(gatemesh.NotFound, "no_version", "No version of the service takes this request.")
	denyNoBackend = gatemesh.Deny(gatemesh.Internal, "no_backend", "The request could not be processed.")
)

// Admit stamps Lane and Destination.
//
// If the route has several backends, one is chosen by weight first, in the
// same way as versions are. A destination that names a subset is final. If
// there is a Split for the destination's service, the first rule that matches
// decides, by the weights of its targets; if none matches, the call is NotFound.
// Without a Split the destination stays as it is.
//
// A call that comes with a lane, because another service or an earlier gateway
// has chosen one and a signed identity carried it here, keeps it if some target
// of the Split has a subset of that name and a weight. The lane then takes
// precedence over the rules, so that a tree of calls stays in one version.
func (s *Splitter) Admit(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	state := s.state.For(c)
	d := c.Destination()
	adm := gatemesh.Admission{}
	if d == (gatemesh.Destination{}) && c.Route() != nil && len(c.Route().Backends) > 0 {
		backends := c.Route().Backends
		i := choose(state.salt.add("route").add(c.Route().Name).user(c).point(), backends, backendWeight)
		if i < 0 {
			return gatemesh.Admission{}, denyNoBackend
		}
		adm.Destination = &backends[i].Destination
		d = backends[i].Destination
	}
	if d.Subset != "" {
		adm.Lane = d.Subset
		return adm, nil
	}
	split := state.splits[serviceKey{d.Service, d.Namespace}]
	if split == nil {
		return adm, nil
	}
	t := split.target(c)
	if t == nil {
		return gatemesh.Admission{}, denyNoRule
	}
	return gatemesh.Admission{Lane: t.destination.Subset, Destination: t.to(d.Port)}, nil
}

func backendWeight(b *gatemesh.WeightedDestination) uint32 { return b.Weight }

// target returns the target for c, or nil if no rule matches.
func (s *split) target(c *gatemesh.Call) *target {
	if lane := c.Lane(); lane != "" {
		if t := s.lanes[lane]; t != nil {
			return t
		}
	}
	for i := range s.rules {
		r := &s.rules[i]
		if !r.holds(c) {
			continue
		}
		if len(r.targets) == 1 {
			return &r.targets[0]
		}
		return &r.targets[choose(s.seed.user(c).point(), r.targets, weightOf)]
	}
	return nil
}

func (r *rule) holds(c *gatemesh.Call) bool {
	for i := range r.matches {
		if r.matches[i].holds(c) {
			return true
		}
	}
	return len(r.matches) == 0
}

func (m *Match) holds(c *gatemesh.Call) bool {
	for i := range m.Headers {
		h := &m.Headers[i]
		v, ok := c.Header().Only(h.Name)
		if ok && h.Kind == HeaderPrefix {
			ok = strings.HasPrefix(v, h.Value)
		} else if ok {
			ok = v == h.Value
		}
		if !ok {
			return false
		}
	}
	return true
}

// AdmitCached is [Splitter.Admit], which never waits.
func (s *Splitter) AdmitCached(ctx context.Context, c *gatemesh.Call) (adm gatemesh.Admission, ok bool, err error) {
	adm, err = s.Admit(ctx, c)
	return adm, true, err
}

// Layer returns the Splitter's place in a [gatemesh.Chain]: behind the route
// table, and behind authentication and policy where they are, so that users
// are dealt by name and only what is allowed is dealt at all.
func (s *Splitter) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name:  "canary",
		Needs: []gatemesh.Fact{gatemesh.FactRoute},
		Gives: []gatemesh.Fact{gatemesh.FactLane},
		After: []gatemesh.Fact{gatemesh.FactPrincipal, gatemesh.FactPolicy},
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
