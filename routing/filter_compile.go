package routing

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// filters are compiled Filters. nil does nothing.
type filters struct {
	request, response *headerChange
	redirect          *redirect
	answer            *answer
	host              string // of Rewrite; "" changes nothing
	path              *pathChange
	mirrors           []mirror
	cors              *cors
	fault             *injection
	lifecycle         *lifecycle
}

// answers reports whether the filters answer by themselves.
func (in *Filters) answers() bool { return in.Redirect != nil || in.Response != nil }

func (in *Filters) none() bool {
	n := len(in.RequestHeader.Set) + len(in.RequestHeader.Add) + len(in.RequestHeader.Remove) +
		len(in.ResponseHeader.Set) + len(in.ResponseHeader.Add) + len(in.ResponseHeader.Remove) + len(in.Mirrors)
	return n == 0 && !in.answers() && in.Rewrite == nil && in.CORS == nil && in.Fault == nil && in.Lifecycle == nil
}

// filters checks and compiles the filters of the rule r, or returns nil if there
// are none.
func (f *faults) filters(at gatemesh.Position, field string, in *Filters, r *Route) *filters {
	if in.none() {
		return nil
	}
	c := &filters{
		request:  f.header(at, field+".RequestHeader", &in.RequestHeader),
		response: f.header(at, field+".ResponseHeader", &in.ResponseHeader),
	}
	if in.Redirect != nil {
		c.redirect = f.redirect(at, field+".Redirect", in.Redirect, r)
		f.alone(at, field, "Redirect", in)
	}
	if in.Response != nil {
		c.answer = f.answer(at, field+".Response", in.Response)
		f.alone(at, field, "Response", in)
	}
	if in.Rewrite != nil {
		if h := in.Rewrite.Hostname; h != "" && !isAuthority(h) {
			f.add(at, "%s.Rewrite.Hostname %q is not a host name in lower case, with or without a port", field, h)
		}
		c.host = in.Rewrite.Hostname
		c.path = f.pathChange(at, field+".Rewrite.Path", &in.Rewrite.Path, r)
		if c.host == "" && in.Rewrite.Path == (PathChange{}) {
			f.add(at, "%s.Rewrite changes nothing", field)
		}
	}
	for i := range in.Mirrors {
		c.mirrors = append(c.mirrors, f.mirror(at, fmt.Sprintf("%s.Mirrors[%d]", field, i), &in.Mirrors[i]))
	}
	if in.CORS != nil {
		c.cors = f.cors(at, field+".CORS", in.CORS)
		f.leftTo(at, field, "CORS", in, func(name string) bool { return strings.HasPrefix(name, corsFields) })
	}
	if in.Fault != nil {
		c.fault = f.injection(at, field+".Fault", in.Fault)
	}
	if in.Lifecycle != nil {
		c.lifecycle = f.lifecycle(at, field+".Lifecycle", in.Lifecycle)
		f.leftTo(at, field, "Lifecycle", in, func(name string) bool { return name == "Deprecation" || name == "Sunset" })
	}
	return c
}

// backendFilters is filters for what can stand at a backend of the rule r.
func (f *faults) backendFilters(at gatemesh.Position, field string, in *Filters, r *Route) *filters {
	for _, x := range [...]struct {
		name string
		set  bool
	}{{"Response", in.Response != nil}, {"CORS", in.CORS != nil}, {"Fault", in.Fault != nil}, {"Lifecycle", in.Lifecycle != nil}} {
		if x.set {
			f.add(at, "%s.%s can only stand at a route", field, x.name)
		}
	}
	kept := *in
	kept.Response, kept.CORS, kept.Fault, kept.Lifecycle = nil, nil, nil, nil
	return f.filters(at, field, &kept, r)
}

// alone reports what stands beside a filter that answers, and would be in vain.
func (f *faults) alone(at gatemesh.Position, field, name string, in *Filters) {
	for _, x := range [...]struct {
		name string
		set  bool
	}{
		{"Rewrite", in.Rewrite != nil}, {"Mirrors", len(in.Mirrors) > 0}, {"Fault", in.Fault != nil},
		{"RequestHeader", len(in.RequestHeader.Set)+len(in.RequestHeader.Add)+len(in.RequestHeader.Remove) > 0},
		{"Response", in.Response != nil && name != "Response"},
	} {
		if x.set {
			f.add(at, "%s.%s excludes %s", field, name, x.name)
		}
	}
}

// leftTo reports response fields that the filter name sets.
func (f *faults) leftTo(at gatemesh.Position, field, name string, in *Filters, its func(string) bool) {
	h := &in.ResponseHeader
	names := slices.Clone(h.Remove)
	for _, x := range slices.Concat(h.Set, h.Add) {
		names = append(names, x.Name)
	}
	for _, n := range names {
		if n = http.CanonicalHeaderKey(n); its(n) {
			f.add(at, "%s.ResponseHeader: %s is what %s sets", field, n, name)
		}
	}
}

// isAuthority reports whether h is a host in canonical form, maybe with a port.
func isAuthority(h string) bool {
	name, port, err := gatemesh.CanonicalHost(h)
	if err != nil || name == "" {
		return false
	}
	return h == authority(name, port)
}

func authority(name, port string) string {
	if strings.IndexByte(name, ':') >= 0 {
		name = "[" + name + "]"
	}
	if port == "" {
		return name
	}
	return name + ":" + port
}
