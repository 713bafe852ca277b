package routing

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// listeners returns the listeners with tables to be filled.
func (f *faults) listeners(in []Listener) []*listener {
	type key struct {
		hostname string
		port     uint16
		tls      bool
	}
	out, names, places := make([]*listener, 0, len(in)), map[string]bool{}, map[key]string{}
	for i := range in {
		l, field := &in[i], fmt.Sprintf("Config.Listeners[%d]", i)
		switch {
		case l.Name == "":
			f.add(l.Position, "%s.Name is required", field)
		case names[l.Name]:
			f.add(l.Position, "%s.Name %q is taken by an earlier listener", field, l.Name)
		}
		names[l.Name] = true
		compiled := &listener{name: l.Name, port: l.Port, public: l.PublicPort, tls: l.TLS, hosts: newHosts()}
		valid := true
		if l.Hostname != "" {
			compiled.hostname, valid = f.hostname(l.Position, field+".Hostname", l.Hostname)
		}
		k := key{compiled.hostname, l.Port, l.TLS}
		if other, twice := places[k]; twice && valid {
			f.add(l.Position, "%s serves the same port and hostname as %q", field, other)
		}
		places[k] = l.Name
		out = append(out, compiled)
	}
	return out
}

// attached returns the listeners that serve a route.
func (f *faults) attached(in *Route, field string, hostnames []string, all []*listener) (serve []*listener) {
	serves := func(l *listener) bool {
		return slices.ContainsFunc(hostnames, func(h string) bool { return intersect(l.hostname, h) })
	}
	if len(in.Listeners) == 0 {
		for _, l := range all {
			if serves(l) {
				serve = append(serve, l)
			}
		}
		if len(serve) == 0 && len(hostnames) > 0 {
			f.add(in.Position, "%s.Hostnames: no listener serves any of them", field)
		}
		return serve
	}
	for i, name := range in.Listeners {
		at := slices.IndexFunc(all, func(l *listener) bool { return l.name == name && name != "" })
		switch {
		case at < 0:
			f.add(in.Position, "%s.Listeners[%d]: there is no listener %q", field, i, name)
		case slices.Contains(serve, all[at]):
			f.add(in.Position, "%s.Listeners[%d]: %q appears twice", field, i, name)
		case len(hostnames) > 0 && !serves(all[at]):
			f.add(in.Position, "%s.Listeners[%d]: %q, which is for %q, serves none of the hostnames", field, i, name, all[at].hostname)
		default:
			serve = append(serve, all[at])
		}
	}
	return serve
}

// intersect reports whether there is a host that both hostnames match, where ""
// is every host.
func intersect(a, b string) bool {
	if a == "" || b == "" || a == b {
		return true
	}
	below := func(name, suffix string) bool { return strings.HasSuffix(name, "."+suffix) }
	as, aWild := wildcard(a)
	bs, bWild := wildcard(b)
	return aWild && below(bs, as) || bWild && below(as, bs)
}

// wildcard returns what follows "*." in a hostname, or the name itself.
func wildcard(hostname string) (suffix string, is bool) { return strings.CutPrefix(hostname, "*.") }

// hostnames returns the valid hostnames of a route, or "" for every host.
func (f *faults) hostnames(in *Route, field string) []string {
	if len(in.Hostnames) == 0 {
		return []string{""}
	}
	valid := make([]string, 0, len(in.Hostnames))
	for i, h := range in.Hostnames {
		name, ok := f.hostname(in.Position, fmt.Sprintf("%s.Hostnames[%d]", field, i), h)
		if ok && !slices.Contains(valid, name) {
			valid = append(valid, name)
		}
	}
	return valid
}

// hostname returns a hostname as calls have it.
func (f *faults) hostname(at gatemesh.Position, field, h string) (string, bool) {
	name, isWild := wildcard(h)
	canonical, port, err := gatemesh.CanonicalHost(name)
	switch {
	case err != nil || port != "" || name == "":
		f.add(at, "%s: %q is not a host name, nor \"*.\" before one", field, h)
	case name == "["+canonical+"]" && !isWild: // IPv6
		return canonical, true
	case name != canonical:
		f.add(at, "%s: %q must be written %q", field, h, strings.TrimSuffix(h, name)+canonical)
	default:
		return h, true
	}
	return "", false
}
