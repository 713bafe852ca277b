package routing

import (
	"errors"
	"fmt"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// faults collects what is wrong with a Config.
type faults struct{ errs []error }

func (f *faults) add(at gatemesh.Position, format string, args ...any) {
	prefix := "routing: "
	if at != (gatemesh.Position{}) {
		prefix += at.String() + ": "
	}
	f.errs = append(f.errs, fmt.Errorf(prefix+format, args...))
}

// compile copies cfg into a table. It reports every fault at once.
func compile(r *Router, cfg Config) (*table, error) {
	t := &table{
		router: r, observer: cfg.Observer,
		hosts: map[string]*paths{}, wild: map[string]*paths{},
	}
	var f faults
	members := f.upstreams(cfg.Upstreams, r.transport)
	f.subsets(cfg.Subsets)
	t.places = newPlaces(members, cfg.Subsets)

	names := map[string]bool{}
	for i := range cfg.Routes {
		in, field := &cfg.Routes[i], fmt.Sprintf("Config.Routes[%d]", i)
		switch {
		case in.Name == "":
			f.add(in.Position, "%s.Name is required", field)
		case names[in.Name]:
			f.add(in.Position, "%s.Name %q is taken by an earlier route", field, in.Name)
		}
		names[in.Name] = true
		r := &rule{table: t, route: gatemesh.Route{Name: in.Name}}
		for _, b := range in.Backends {
			r.route.Backends = append(r.route.Backends, gatemesh.WeightedDestination{Destination: b.Destination, Weight: b.Weight})
		}
		r.route.Rule = r
		r.only = f.backends(t.places, in, field, r.route.Backends, cfg)
		matches := f.matches(in, field)
		for _, hostname := range f.hostnames(in, field) {
			for _, m := range matches {
				t.pathsOf(hostname).add(m.Path, candidate{m.Method, m.Headers, r})
			}
		}
	}

	out, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: chosen, Layers: cfg.Outbound, Observer: cfg.Observer})
	if err != nil {
		f.add(gatemesh.Position{}, "Config.Outbound: %w", err)
	}
	if err := errors.Join(f.errs...); err != nil {
		return nil, err
	}
	t.outbound = out.Transport(r.transport)
	return t, nil
}

func (f *faults) upstreams(in []Upstream, own *ownTransport) []member {
	members := make([]member, 0, len(in))
	for i := range in {
		u, field := &in[i], fmt.Sprintf("Config.Upstreams[%d]", i)
		if u.Service == "" {
			f.add(gatemesh.Position{}, "%s.Service is required", field)
		}
		compiled := &upstream{transport: u.Transport}
		if u.Balance != nil {
			base := u.Transport
			if base == nil {
				base = roundTripper(own.shared)
			}
			if compiled.transport = u.Balance(base); compiled.transport == nil {
				f.add(gatemesh.Position{}, "%s.Balance returned no transport", field)
			}
		}
		var err error
		if compiled.scheme, compiled.host, err = splitURL(u.URL); err != nil {
			f.add(gatemesh.Position{}, "%s.URL %w", field, err)
		}
		if compiled.scheme == "h2c" {
			compiled.scheme, compiled.h2c = "http", true
		}
		members = append(members, member{u, compiled})
	}
	return members
}

// splitURL never quotes its argument, which may hold a password.
func splitURL(raw string) (scheme, host string, err error) {
	if raw == "" {
		return "", "", errors.New("is required")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", "", errors.New("is malformed")
	}
	if u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c" {
		return "", "", errors.New("must start with http://, https:// or h2c://")
	}
	if _, _, err := gatemesh.CanonicalHost(u.Host); err != nil || u.Host == "" {
		return "", "", errors.New("must have a valid host")
	}
	if u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", "", errors.New("must be a scheme and a host alone: no user, path, query or fragment")
	}
	return u.Scheme, u.Host, nil
}

func (f *faults) subsets(in []Subset) {
	type key struct{ service, namespace, name string }
	seen := map[key]bool{}
	for i, s := range in {
		field := fmt.Sprintf("Config.Subsets[%d]", i)
		if s.Service == "" {
			f.add(s.Position, "%s.Service is required", field)
		}
		if s.Name == "" {
			f.add(s.Position, "%s.Name is required", field)
		}
		k := key{s.Service, s.Namespace, s.Name}
		if seen[k] {
			f.add(s.Position, "%s.Name %q is taken by an earlier subset of this service", field, s.Name)
		}
		seen[k] = true
	}
}

// backends checks the backends of a route and returns the only one that can be
// chosen, if there is only one.
func (f *faults) backends(p places, in *Route, field string, backends []gatemesh.WeightedDestination, cfg Config) (only *gatemesh.Destination) {
	if len(backends) == 0 {
		f.add(in.Position, "%s.Backends is required", field)
		return nil
	}
	choices := 0
	for i := range backends {
		b, at := &backends[i], fmt.Sprintf("%s.Backends[%d]", field, i)
		if b.Weight > 0 {
			choices, only = choices+1, &b.Destination
		}
		switch d := b.Destination; {
		case d.Service == "":
			f.add(in.Position, "%s.Destination.Service is required", at)
		case p.find(d) != nil:
		case d.Subset != "" && !definesSubset(cfg, d):
			f.add(in.Position, "%s: subset %q of %s is not defined", at, d.Subset, withoutSubset(d))
		default:
			f.add(in.Position, "%s: no upstream serves %s", at, d)
		}
	}
	if choices == 0 {
		f.add(in.Position, "%s.Backends: the weights must not all be 0", field)
	}
	if choices > 1 {
		only = nil
	}
	return only
}

func definesSubset(cfg Config, d gatemesh.Destination) bool {
	return slices.ContainsFunc(cfg.Subsets, func(s Subset) bool {
		return s.Service == d.Service && s.Namespace == d.Namespace && s.Name == d.Subset
	}) || slices.ContainsFunc(cfg.Upstreams, func(u Upstream) bool {
		return u.Service == d.Service && (u.Namespace == "" || u.Namespace == d.Namespace) && u.Subset == d.Subset
	})
}

func withoutSubset(d gatemesh.Destination) gatemesh.Destination {
	d.Subset = ""
	return d
}

// hostnames returns the valid hostnames of a route, or "" for every host.
func (f *faults) hostnames(in *Route, field string) []string {
	if len(in.Hostnames) == 0 {
		return []string{""}
	}
	valid := make([]string, 0, len(in.Hostnames))
	for i, h := range in.Hostnames {
		name := strings.TrimPrefix(h, "*.")
		canonical, port, err := gatemesh.CanonicalHost(name)
		switch {
		case err != nil || port != "" || name == "":
			f.add(in.Position, "%s.Hostnames[%d]: %q is not a host name, nor \"*.\" before one", field, i, h)
		case name == "["+canonical+"]" && name == h: // IPv6
			valid = append(valid, canonical)
		case name != canonical:
			f.add(in.Position, "%s.Hostnames[%d]: %q must be written %q", field, i, h, strings.TrimSuffix(h, name)+canonical)
		case !slices.Contains(valid, h):
			valid = append(valid, h)
		}
	}
	return valid
}

// matches returns copies of the valid matches of a route in canonical form.
func (f *faults) matches(in *Route, field string) []Match {
	all := in.Matches
	if len(all) == 0 {
		all = []Match{{}}
	}
	valid := make([]Match, 0, len(all))
	for i, m := range all {
		before := len(f.errs)
		at := fmt.Sprintf("%s.Matches[%d]", field, i)
		if m.Path.Type > PathExact {
			f.add(in.Position, "%s.Path.Type %d is unknown", at, m.Path.Type)
		}
		if m.Path.Value == "" {
			m.Path.Value = "/"
		}
		// Whether %2F is data is up to Entry; where it is not, a route with it
		// never matches.
		canonical, err := gatemesh.CanonicalPath(m.Path.Value, gatemesh.PathOptions{KeepEncodedSlash: true, KeepPathParameters: true})
		if err != nil {
			f.add(in.Position, "%s.Path.Value %q: %w", at, m.Path.Value, err)
		}
		m.Path.Value = gatemesh.MatchForm(canonical)
		if strings.Trim(m.Method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") != "" {
			f.add(in.Position, "%s.Method %q must be upper case", at, m.Method)
		}
		m.Headers = f.headers(in, at, m.Headers)
		if len(f.errs) == before {
			valid = append(valid, m)
		}
	}
	return valid
}

func (f *faults) headers(in *Route, at string, headers []HeaderMatch) []HeaderMatch {
	headers = slices.Clone(headers)
	seen := map[string]bool{}
	for i := range headers {
		h, at := &headers[i], fmt.Sprintf("%s.Headers[%d]", at, i)
		h.Name = textproto.CanonicalMIMEHeaderKey(h.Name) // as Call.Header looks it up
		switch {
		case h.Name == "":
			f.add(in.Position, "%s.Name is required", at)
		case !validFieldName(h.Name):
			f.add(in.Position, "%s.Name %q is not the name of a header field", at, h.Name)
		case h.Name == "Host":
			f.add(in.Position, "%s.Name is Host; match the host by Hostnames", at)
		case h.Name == "Connection" || gatemesh.CarriesIdentity(h.Name):
			f.add(in.Position, "%s.Name is %s, which no match ever sees", at, h.Name)
		case seen[h.Name]:
			f.add(in.Position, "%s.Name %s appears twice in one match", at, h.Name)
		}
		seen[h.Name] = true
	}
	return headers
}

// validFieldName reports whether name is a token of RFC 9110 §5.6.2.
func validFieldName(name string) bool {
	return strings.Trim(name, "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") == ""
}
