package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// balanced is the pool of an -upstream, which outlives the manifests. It is used
// as the DestinationRules say that are in use.
type balanced struct {
	cfg    pool.Config // without a policy
	pool   *pool.Pool
	policy manifest.TrafficPolicy // without its position
}

// policies returns what the DestinationRules of set say about each -upstream
// they say something about. One that serves several destinations has one pool,
// so that they must say the same about all of them.
func (o *options) policies(b *built, set *manifest.Set, self gatemesh.Workload) (map[gatemesh.Destination]manifest.TrafficPolicy, error) {
	out := map[gatemesh.Destination]manifest.TrafficPolicy{}
	var errs []error
	to := goesTo(set, self)
	for i := range b.flags {
		u := serves(&b.flags[i])
		var first *gatemesh.Destination
		var policy manifest.TrafficPolicy
		for _, d := range to {
			if !servedBy(u, d, b.flags) {
				continue
			}
			d.Subset = u.Subset
			p, _ := set.TrafficPolicy(d)
			if first == nil {
				first, policy = &d, p
			} else if withoutPosition(p) != withoutPosition(policy) {
				errs = append(errs, fmt.Errorf("-upstream %s: the DestinationRules say one thing about %s (%s) and another about %s (%s); give each an -upstream of its own",
					upstreamName(u), upstreamName(*first), where(policy), upstreamName(d), where(p)))
				break
			}
		}
		if policy.Position != (gatemesh.Position{}) {
			out[u] = policy
		}
		if fault := o.faultOfTLS(policy.TLS, b.flags[i].URL); fault != "" {
			errs = append(errs, fmt.Errorf("-upstream %s: %s, by the trafficPolicy at %s", upstreamName(u), fault, policy.Position))
		}
	}
	return out, errors.Join(errs...)
}

// faultOfTLS says what keeps an -upstream at url from being reached in mode.
func (o *options) faultOfTLS(mode manifest.TLSMode, url string) string {
	switch secure := strings.HasPrefix(url, "https://"); {
	case mode == manifest.TLSMesh && (!secure || o.meshCert == ""):
		return "tls mode ISTIO_MUTUAL takes an https URL and -mesh-cert"
	case mode == manifest.TLSDisable && secure:
		return "tls mode DISABLE takes an http URL"
	}
	return ""
}

// servedBy reports whether calls for d go to the -upstream u: of those in all
// that fit, the one that names the namespace, and then the port.
func servedBy(u, d gatemesh.Destination, all []routing.Upstream) bool {
	fits := func(u gatemesh.Destination) bool {
		return overlap(u, d) && (u.Subset != "" || d.Subset == "")
	}
	return fits(u) && !slices.ContainsFunc(all, func(other routing.Upstream) bool {
		o := serves(&other)
		return fits(o) && (u.Namespace == "" && o.Namespace != "" || u.Namespace == o.Namespace && u.Port == 0 && o.Port != 0)
	})
}

func withoutPosition(p manifest.TrafficPolicy) manifest.TrafficPolicy {
	p.Position = gatemesh.Position{}
	return p
}

func where(p manifest.TrafficPolicy) string {
	if p.Position == (gatemesh.Position{}) {
		return "nothing"
	}
	return p.Position.String()
}

// usePolicies has the pools of -upstream act by policies, and reports those that
// are for an -upstream with a single URL, where there is nothing to choose.
func (b *built) usePolicies(policies map[gatemesh.Destination]manifest.TrafficPolicy, observer gatemesh.Observer) error {
	var errs []error
	for _, u := range b.flags {
		d := serves(&u)
		policy := policies[d]
		to := b.balanced[d]
		if to == nil {
			policy.Position, policy.TLS = gatemesh.Position{}, manifest.TLSUnset // which the URL says, too
			if at := policies[d].Position; policy != (manifest.TrafficPolicy{}) && observer != nil {
				observer.Observe(context.Background(), gatemesh.Event{Kind: gatemesh.EventNotice, Layer: "gateway", Message: fmt.Sprintf(
					"the trafficPolicy at %s has no effect: -upstream %s is one URL, among which there is nothing to choose", at, upstreamName(d))})
			}
			continue
		}
		if policy = withoutPosition(policy); policy == to.policy {
			continue
		}
		cfg := to.cfg
		policy.Configure(&cfg)
		if err := to.pool.Update(cfg); err != nil {
			errs = append(errs, fmt.Errorf("-upstream %s: %w", upstreamName(d), err))
			continue
		}
		to.policy = policy
	}
	return errors.Join(errs...)
}
