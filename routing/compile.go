package routing

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// faults collects what is wrong with a Config, and has what the parts of it are
// checked against.
type faults struct {
	errs    []error
	cfg     *Config
	places  places // to ask who serves a destination
	retries bool   // there is a layer that does
}

func (f *faults) add(at gatemesh.Position, format string, args ...any) {
	prefix := "routing: "
	if at != (gatemesh.Position{}) {
		prefix += at.String() + ": "
	}
	f.errs = append(f.errs, fmt.Errorf(prefix+format, args...))
}

// compile copies cfg into a table. It reports every fault at once.
func compile(r *Router, cfg Config) (*table, error) {
	t := &table{router: r, headless: cfg.Headless, observer: cfg.Observer}
	f := faults{cfg: &cfg}
	if cfg.Headless {
		f.withoutProxy(&cfg)
	}
	members := f.upstreams(cfg.Upstreams, r.transport)
	f.subsets(cfg.Subsets)
	t.places = newPlaces(members, cfg.Subsets)
	f.places = t.places
	f.retries = slices.ContainsFunc(cfg.Outbound, func(l gatemesh.Layer) bool { return l.Retry != nil })
	t.versions = f.versionings(cfg.Versions)

	f.routes(t)
	f.services(t)
	out, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: chosen, Layers: t.router.bracketed(cfg.Outbound), Observer: cfg.Observer})
	if err != nil {
		f.add(gatemesh.Position{}, "Config.Outbound: %w", err)
	}
	if err := errors.Join(f.errs...); err != nil {
		return nil, err
	}
	t.outbound = out.Transport(r.transport)
	return t, nil
}

// routes compiles Config.Routes into the tables of the listeners.
func (f *faults) routes(t *table) {
	all := f.listeners(f.cfg.Listeners)
	if len(all) == 0 {
		all = []*listener{{hosts: newHosts()}}
		t.all = all[0].hosts
	} else {
		t.listeners = newListeners(all)
	}
	names := map[string]bool{}
	for i := range f.cfg.Routes {
		in, field := &f.cfg.Routes[i], fmt.Sprintf("Config.Routes[%d]", i)
		f.name(in, in.Position, field, names)
		r := f.rule(t, in, in.Position, field, false)
		matches := f.matches(in, in.Position, field)
		hostnames := f.hostnames(in, field)
		for _, l := range f.attached(in, field, hostnames, all) {
			for _, hostname := range hostnames {
				if !intersect(l.hostname, hostname) {
					continue
				}
				// By the hostname of the route also where that of the listener
				// leaves less of it: precedence goes by what the route says.
				p := l.hosts.of(hostname)
				for _, m := range matches {
					p.add(m.path, m.conditions, r)
				}
			}
		}
	}
	for _, l := range all {
		f.tooMany(l.hosts.seal())
	}
}

// services compiles Config.Services.
func (f *faults) services(t *table) {
	t.services = map[serviceKey]*service{}
	first := map[serviceKey]int{}
	for i := range f.cfg.Services {
		in, field := &f.cfg.Services[i], fmt.Sprintf("Config.Services[%d]", i)
		if in.Service == "" {
			f.add(in.Position, "%s.Service is required", field)
		}
		if len(in.Rules) == 0 {
			f.add(in.Position, "%s.Rules is required", field)
		}
		key := serviceKey{in.Service, in.Namespace}
		if earlier, twice := first[key]; twice {
			f.add(in.Position, "%s: service %s has rules already, Config.Services[%d]", field,
				gatemesh.Destination{Service: in.Service, Namespace: in.Namespace}, earlier)
			continue
		}
		first[key] = i
		s, names := &service{}, map[string]bool{}
		var rules []*rule
		for j := range in.Rules {
			rule, field := &in.Rules[j], fmt.Sprintf("%s.Rules[%d]", field, j)
			at := rule.Position
			if at == (gatemesh.Position{}) {
				at = in.Position
			}
			f.name(rule, at, field, names)
			if len(rule.Hostnames) > 0 {
				f.add(at, "%s.Hostnames must be empty in a Service", field)
			}
			if len(rule.Listeners) > 0 {
				f.add(at, "%s.Listeners must be empty in a Service", field)
			}
			r := f.rule(t, rule, at, field, true)
			rules = append(rules, r)
			for _, m := range f.matches(rule, at, field) {
				s.paths.add(m.path, m.conditions, r)
			}
		}
		lanes(rules)
		f.tooMany(s.paths.seal())
		t.services[key] = s
	}
}

func (f *faults) name(in *Route, at gatemesh.Position, field string, names map[string]bool) {
	switch {
	case in.Name == "":
		f.add(at, "%s.Name is required", field)
	case names[in.Name]:
		f.add(at, "%s.Name %q is taken by an earlier route", field, in.Name)
	}
	names[in.Name] = true
}

func (f *faults) tooMany(excess []*rule) {
	for _, r := range excess {
		f.add(r.position, "route %q has one of more than %d regular expressions for paths that begin alike, or of more than %d instructions in all regular expressions for them, each of which would be tried", r.route.Name, maxAlike, maxAlikeCost)
	}
}

// rule compiles all of a route but what it matches.
func (f *faults) rule(t *table, in *Route, at gatemesh.Position, field string, ofService bool) *rule {
	r := &rule{table: t, position: at, cors: in.CORS != nil, filters: f.filters(at, field, &in.Filters, in)}
	if f.cfg.Headless {
		f.needsProxy(at, field, &in.Filters)
	}
	r.route = gatemesh.Route{Name: in.Name, Timeout: in.Timeout, AttemptTimeout: in.AttemptTimeout, Rule: r}
	f.duration(at, field+".Timeout", in.Timeout)
	f.duration(at, field+".AttemptTimeout", in.AttemptTimeout)
	if in.Timeout > 0 && in.AttemptTimeout > in.Timeout {
		f.add(at, "%s.AttemptTimeout %v is longer than Timeout, %v", field, in.AttemptTimeout, in.Timeout)
	}
	r.route.Retry = f.retry(at, field+".Retry", in.Retry)
	switch answers := in.answers(); {
	case len(in.Backends) == 0 && !answers:
		f.add(at, "%s.Backends is required", field)
	case len(in.Backends) > 0 && answers:
		f.add(at, "%s.Backends must be empty where a Redirect or Response answers", field)
	}
	weights := uint64(0)
	for i := range in.Backends {
		b, of := &in.Backends[i], fmt.Sprintf("%s.Backends[%d]", field, i)
		if f.cfg.Headless {
			f.needsProxy(at, of, &b.Filters)
		}
		weights += uint64(b.Weight)
		switch filtered := !b.Filters.none(); {
		case !b.Unserved:
			f.destination(at, of, b.Destination, ofService)
		case filtered:
			f.add(at, "%s is Unserved, so that its filters would be in vain", of)
		}
		r.ported.needed = r.ported.needed || ofService && b.Destination.Port == 0
		r.route.Backends = append(r.route.Backends, gatemesh.WeightedDestination{
			Destination: b.Destination, Weight: b.Weight,
			Rule: &backend{rule: r, unserved: b.Unserved, filters: f.backendFilters(at, of, &b.Filters, in)},
		})
	}
	if len(in.Backends) > 0 && weights == 0 {
		f.add(at, "%s.Backends: the weights must not all be 0", field)
	}
	r.only = onlyOf(r.route.Backends)
	return r
}

// destination checks that somebody serves d, with anyPort whatever the port if
// it names none.
func (f *faults) destination(at gatemesh.Position, field string, d gatemesh.Destination, anyPort bool) {
	switch {
	case d.Service == "":
		f.add(at, "%s.Destination.Service is required", field)
	case f.cfg.Headless: // whoever finds endpoints knows
	case f.places.find(d) != nil, anyPort && f.places.somePort(d):
	case d.Subset != "" && !definesSubset(*f.cfg, d):
		f.add(at, "%s: subset %q of %s is not defined", field, d.Subset, withoutSubset(d))
	default:
		f.add(at, "%s: no upstream serves %s", field, d)
	}
}

func (f *faults) duration(at gatemesh.Position, field string, d time.Duration) {
	if d < 0 {
		f.add(at, "%s must not be negative", field)
	}
}

func (f *faults) retry(at gatemesh.Position, field string, in *gatemesh.RetryPolicy) *gatemesh.RetryPolicy {
	if in == nil {
		return nil
	}
	out := *in
	out.Statuses, out.Codes = slices.Clone(in.Statuses), slices.Clone(in.Codes)
	if !f.retries && !f.cfg.Headless {
		f.add(at, "%s needs a layer that retries in Config.Outbound", field)
	}
	if in.Attempts < 0 {
		f.add(at, "%s.Attempts must not be negative", field)
	}
	f.duration(at, field+".Backoff", in.Backoff)
	for i, s := range in.Statuses {
		if s < 400 || s > 599 {
			f.add(at, "%s.Statuses[%d] %d is not the status of a failure, 400 to 599", field, i, s)
		}
	}
	for i, c := range in.Codes {
		if c == gatemesh.OK || strings.HasPrefix(c.String(), "code_") {
			f.add(at, "%s.Codes[%d] %d is not the code of a failure, 1 to 16", field, i, c)
		}
	}
	return &out
}
