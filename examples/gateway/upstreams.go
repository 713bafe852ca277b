package main

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
)

// parseUpstream reads name[.namespace][/subset][:port]=URL.
func parseUpstream(s string) (u routing.Upstream, err error) {
	name, url, ok := strings.Cut(s, "=")
	if !ok || name == "" || url == "" {
		return u, errors.New("must be name[.namespace][/subset][:port]=URL")
	}
	u.URL = url
	if n, port, ok := strings.Cut(name, ":"); ok {
		p, err := strconv.ParseUint(port, 10, 16)
		if err != nil || p == 0 {
			return u, fmt.Errorf("%q is not a port", port)
		}
		name, u.Port = n, uint16(p)
	}
	name, u.Subset, _ = strings.Cut(name, "/")
	u.Service, u.Namespace, _ = strings.Cut(name, ".")
	if u.Service == "" {
		return u, errors.New("the service has no name")
	}
	return u, nil
}

// upstreamName writes d as -upstream names it.
func upstreamName(d gatemesh.Destination) string {
	name := d.Service
	if d.Namespace != "" {
		name += "." + d.Namespace
	}
	if d.Subset != "" {
		name += "/" + d.Subset
	}
	if d.Port != 0 {
		name += fmt.Sprintf(":%d", d.Port)
	}
	return name
}

func serves(u *routing.Upstream) gatemesh.Destination {
	return gatemesh.Destination{Service: u.Service, Namespace: u.Namespace, Subset: u.Subset, Port: u.Port}
}

// checkUpstreams reports what is wrong with the flags, by the names that the
// operator gave, and those that would never be used, as a name with a slip in
// it would not.
func (o *options) checkUpstreams(b *built) error {
	var errs []error
	fault := func(u *routing.Upstream, text string) {
		errs = append(errs, fmt.Errorf("-upstream %s: %s", upstreamName(serves(u)), text))
	}
	known := destinations(b)
	for i := range o.upstreams {
		u := &o.upstreams[i]
		if text := faultOfURL(u.URL); text != "" {
			fault(u, text)
		}
		d := serves(u)
		if slices.ContainsFunc(o.upstreams[:i], func(before routing.Upstream) bool { return serves(&before) == d }) {
			continue // what is wrong with the name is said once
		}
		if known != nil && !slices.ContainsFunc(known, func(to gatemesh.Destination) bool { return overlap(d, to) }) {
			if b.plain {
				fault(u, "nothing goes there: without -manifests, everything goes to default")
			} else {
				fault(u, "no route goes there; routes go to "+names(known))
			}
		}
	}
	return errors.Join(errs...)
}

// faultOfURL never quotes the URL, which may hold a password.
func faultOfURL(raw string) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return "the URL is malformed"
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return "the URL must start with http://, https:// or h2c://"
	case u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "the URL must be a scheme and a host alone: no user, path, query or fragment"
	}
	if _, _, err := gatemesh.CanonicalHost(u.Host); err != nil || u.Host == "" {
		return "the URL must have a valid host"
	}
	return ""
}

// destinations returns where calls can go, or nil if that is not known because
// the manifests cannot be read.
func destinations(b *built) (all []gatemesh.Destination) {
	if b.edge.Manifests == nil {
		if b.plain {
			all = []gatemesh.Destination{{Service: "default"}}
		}
		return all
	}
	return goesTo(b.edge.Manifests, b.edge.Workload)
}

// goesTo returns where calls and copies of them go by set: what the rules for
// the service of a route say, and else the service itself.
func goesTo(set *manifest.Set, self gatemesh.Workload) (all []gatemesh.Destination) {
	type key struct{ service, namespace string }
	services := map[key]*routing.Service{}
	list := set.Services(self)
	for i := range list {
		services[key{list[i].Service, list[i].Namespace}] = &list[i]
	}
	mirrors := func(f *routing.Filters) {
		for _, m := range f.Mirrors {
			all = append(all, m.Destination)
		}
	}
	for _, r := range set.Routes() {
		mirrors(&r.Filters)
		for i := range r.Backends {
			mirrors(&r.Backends[i].Filters)
			if r.Backends[i].Unserved {
				continue
			}
			d := r.Backends[i].Destination
			s := services[key{d.Service, d.Namespace}]
			if s == nil {
				s = services[key{"*", d.Namespace}]
			}
			if s == nil {
				all = append(all, d)
				continue
			}
			for _, rule := range s.Rules {
				mirrors(&rule.Filters)
				for j := range rule.Backends {
					to := rule.Backends[j].Destination
					if to.Port == 0 {
						to.Port = d.Port
					}
					all = append(all, to)
					mirrors(&rule.Backends[j].Filters)
				}
			}
		}
	}
	return all
}

// overlap reports whether an upstream that serves d may get calls for to.
func overlap(d, to gatemesh.Destination) bool {
	return d.Service == to.Service &&
		(d.Namespace == "" || d.Namespace == to.Namespace) &&
		(d.Subset == "" || to.Subset == "" || d.Subset == to.Subset) &&
		(d.Port == 0 || to.Port == 0 || d.Port == to.Port)
}

// names lists destinations, but not so many that the fault is lost in them.
func names(all []gatemesh.Destination) string {
	const enough = 20
	list := make([]string, len(all))
	for i, d := range all {
		list[i] = upstreamName(d)
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if more := len(list) - enough; more > 0 {
		list = append(list[:enough], fmt.Sprintf("%d more", more))
	}
	return strings.Join(list, ", ")
}
