package routing

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

var (
	errNotHeadless = errors.New("routing: Outbound stands in something else than a gatemesh.Outbound, or Config.Headless is not set")
	errNoVersion   = errors.New("routing: the rule of the service has several backends, and no layer before has chosen one")
)

// Outbound returns the layer of a [gatemesh.Outbound] that does what
// [Config.Services] says of the calls that a service makes by itself, without a
// proxy: for a Router with [Config.Headless]. It stands behind the layer that
// chooses among the backends of a rule, if there is one, and before the Retrier;
// [Router.Attempt] stands last.
//
// It takes the rule that a layer before has chosen, or else the first one that
// matches, of which only one backend may have a weight then; stamps it as the
// Route, so that the Retrier finds its Retry; bounds the call by its Timeout, and
// does its faults and changes of request fields, of which an added one is
// appended to what is there behind a comma, and others go by their exact name.
// A call that no rule takes is NotFound, or Unimplemented for gRPC; one to a
// service of which nothing is said goes on as it is. A response is the caller's
// to read: CORS and the announcements of a Lifecycle are for pages and clients of
// a proxy, and do nothing here.
func (r *Router) Outbound() gatemesh.Layer {
	return gatemesh.Layer{Name: "route", After: []gatemesh.Fact{gatemesh.FactLane}, Gate: gatemesh.GateFunc(r.admitOutbound)}
}

// Attempt returns the layer that bounds each attempt of a call by the
// AttemptTimeout of the rule that [Router.Outbound] has found. It stands behind
// the Retrier.
func (r *Router) Attempt() gatemesh.Layer {
	return gatemesh.Layer{Name: "attempt", Gate: gatemesh.GateFunc(attempt)}
}

func (r *Router) admitOutbound(ctx context.Context, c *gatemesh.Call) (adm gatemesh.Admission, err error) {
	t := r.table.For(c)
	if !c.Outbound() || !t.headless {
		return adm, denyNoCall.WithCause(errNotHeadless)
	}
	route, backend := c.ServiceRoute(), c.ServiceBackend()
	if route == nil {
		d := c.Destination()
		service := t.serviceOf(&d)
		if service == nil {
			return adm, nil
		}
		to, err := service.route(t, c, &d)
		if err != nil {
			return adm, err
		}
		if to.only == nil {
			return adm, denyNoChoice.WithCause(errNoVersion)
		}
		route, backend = &to.route, to.only
		adm.ServiceRoute, adm.ServiceBackend, adm.Destination = route, backend, &backend.Destination
	}
	if unserved(backend) {
		return gatemesh.Admission{}, denyUnserved.of(c)
	}
	var s stages
	s.add(route.Rule)
	if backend != nil {
		s.add(backend.Rule)
	}
	for _, f := range s.all[:s.n] {
		if f.lifecycle.gone(time.Now()) {
			return gatemesh.Admission{}, denyGone
		}
	}
	adm.Route, adm.Header = together(c.Route(), route), s.outgoing(c.Header())
	if err := r.limit(ctx, c, &adm, &s); err != nil {
		return gatemesh.Admission{}, err
	}
	return adm, nil
}

// outgoing returns what becomes of the fields of a request that the stages
// change, each once; an empty one is taken off.
func (s *stages) outgoing(from gatemesh.Header) (fields []gatemesh.Field) {
	at := func(name string) *gatemesh.Field {
		for i := range fields {
			if fields[i].Name == name {
				return &fields[i]
			}
		}
		fields = append(fields, gatemesh.Field{Name: name, Value: strings.Join(from.Values(name), ", ")})
		return &fields[len(fields)-1]
	}
	for _, f := range s.all[:s.n] {
		if f.request == nil {
			continue
		}
		for _, x := range f.request.set {
			at(x.Name).Value = x.Value
		}
		for _, x := range f.request.add {
			if field := at(x.Name); field.Value == "" {
				field.Value = x.Value
			} else {
				field.Value += ", " + x.Value
			}
		}
		for _, name := range f.request.remove {
			at(name).Value = ""
		}
	}
	return fields
}

// withoutProxy reports what of cfg only a proxy could carry out.
func (f *faults) withoutProxy(cfg *Config) {
	for _, x := range [...]struct {
		name string
		set  bool
	}{
		{"Listeners", len(cfg.Listeners) > 0}, {"Routes", len(cfg.Routes) > 0}, {"Upstreams", len(cfg.Upstreams) > 0},
		{"Subsets", len(cfg.Subsets) > 0}, {"Outbound", len(cfg.Outbound) > 0},
	} {
		if x.set {
			f.add(gatemesh.Position{}, "Config.%s must be empty where Headless is set", x.name)
		}
	}
}

// needsProxy reports filters that only a proxy could carry out.
func (f *faults) needsProxy(at gatemesh.Position, field string, in *Filters) {
	h := &in.ResponseHeader
	for _, x := range [...]struct {
		name string
		set  bool
	}{
		{"Redirect", in.Redirect != nil}, {"Response", in.Response != nil}, {"Rewrite", in.Rewrite != nil},
		{"Mirrors", len(in.Mirrors) > 0}, {"ResponseHeader", len(h.Set)+len(h.Add)+len(h.Remove) > 0},
	} {
		if x.set {
			f.add(at, "%s.%s needs a proxy, and Config.Headless says that there is none", field, x.name)
		}
	}
}
