package routing

import (
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/gatemesh-go/gatemesh"
)

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
