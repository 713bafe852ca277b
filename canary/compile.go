package canary

import (
	"errors"
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/gatemesh-go/gatemesh"
)

// state is one version of a Config, compiled. Nothing in it changes but the
// destinations that it has met.
type state struct {
	salt     hash
	services gatemesh.ServiceRouter // or nil
	splits   map[service]*split
	observer gatemesh.Observer
	// met are destinations to stamp, by what they are. Configurations name few.
	met atomic.Pointer[map[gatemesh.Destination]*gatemesh.Destination]
}

type service struct{ name, namespace string }

func serviceOf(d gatemesh.Destination) service { return service{d.Service, d.Namespace} }

// split is a compiled Split.
type split struct{ rules []rule }

type rule struct {
	matches []Match
	route   gatemesh.Route
}

// maxMet bounds the destinations that are remembered: a caller may choose the
// port of one.
const maxMet = 256

// stamped returns d for an Admission. It allocates only when it meets d for the
// first time.
func (s *state) stamped(d gatemesh.Destination) *gatemesh.Destination {
	for {
		known := s.met.Load()
		var old map[gatemesh.Destination]*gatemesh.Destination
		if known != nil {
			old = *known
		}
		if met := old[d]; met != nil {
			return met
		}
		add := d
		if len(old) >= maxMet {
			return &add
		}
		grown := make(map[gatemesh.Destination]*gatemesh.Destination, len(old)+1)
		maps.Copy(grown, old)
		grown[d] = &add
		if s.met.CompareAndSwap(known, &grown) {
			return &add
		}
	}
}

// faults collects what is wrong with a Config.
type faults struct{ errs []error }

func (f *faults) add(at gatemesh.Position, format string, args ...any) {
	prefix := "canary: "
	if at != (gatemesh.Position{}) {
		prefix += at.String() + ": "
	}
	f.errs = append(f.errs, fmt.Errorf(prefix+format, args...))
}

// compile copies cfg into a state. It reports every fault at once.
func compile(cfg Config) (*state, error) {
	if cfg.Salt == "" {
		cfg.Salt = DefaultSalt
	}
	s := &state{salt: fnvOffset.add(cfg.Salt), services: cfg.Services, splits: map[service]*split{}, observer: cfg.Observer}
	first := map[service]int{}
	var f faults
	for i := range cfg.Splits {
		in, field := &cfg.Splits[i], fmt.Sprintf("Config.Splits[%d]", i)
		if in.Service == "" {
			f.add(in.Position, "%s.Service is required", field)
		}
		key := service{in.Service, in.Namespace}
		if earlier, ok := first[key]; ok {
			f.add(in.Position, "%s: service %s has a split already, Config.Splits[%d]", field,
				gatemesh.Destination{Service: in.Service, Namespace: in.Namespace}, earlier)
			continue
		}
		first[key] = i
		if len(in.Rules) == 0 {
			f.add(in.Position, "%s.Rules is required", field)
		}
		out := &split{rules: make([]rule, len(in.Rules))}
		for j := range in.Rules {
			f.rule(&out.rules[j], &in.Rules[j], in, fmt.Sprintf("%s.Rules[%d]", field, j))
			out.rules[j].route.Name = fmt.Sprintf("%s/%d", gatemesh.Destination{Service: in.Service, Namespace: in.Namespace}, j)
		}
		out.lanes()
		s.splits[key] = out
	}
	if err := errors.Join(f.errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func (f *faults) rule(out *rule, in *Rule, of *Split, field string) {
	at := in.Position
	if at == (gatemesh.Position{}) {
		at = of.Position
	}
	out.matches = make([]Match, len(in.Matches))
	for i, m := range in.Matches {
		field := fmt.Sprintf("%s.Matches[%d].Headers", field, i)
		if len(m.Headers) == 0 {
			f.add(at, "%s is required", field)
		}
		headers := slices.Clone(m.Headers)
		for j := range headers {
			f.header(at, &headers[j], fmt.Sprintf("%s[%d]", field, j))
		}
		out.matches[i] = Match{Headers: headers}
	}

	if len(in.Targets) == 0 {
		f.add(at, "%s.Targets is required", field)
	}
	backends := make([]gatemesh.WeightedDestination, len(in.Targets))
	sum := uint64(0)
	for i, t := range in.Targets {
		sum += uint64(t.Weight)
		if t.Service == "" {
			if t.Namespace != "" {
				f.add(at, "%s.Targets[%d].Namespace must be empty without a Service", field, i)
			}
			t.Service, t.Namespace = of.Service, of.Namespace
		}
		backends[i].Weight = t.Weight
		backends[i].Destination = gatemesh.Destination{
			Service: t.Service, Namespace: t.Namespace, Subset: t.Subset, Port: t.Port,
		}
	}
	switch {
	case sum > 0:
	case len(in.Targets) == 1:
		backends[0].Weight = 1
	case len(in.Targets) > 1:
		f.add(at, "%s.Targets: the weights must not all be 0", field)
	}
	out.route.Backends = backends
}

// lanes gives each rule those of the other rules.
func (s *split) lanes() {
	has := func(backends []gatemesh.WeightedDestination, subset string) bool {
		return slices.ContainsFunc(backends, func(b gatemesh.WeightedDestination) bool { return b.Destination.Subset == subset })
	}
	for i := range s.rules {
		r := &s.rules[i].route
		for _, other := range s.rules {
			for _, b := range other.route.Backends {
				if subset := b.Destination.Subset; subset != "" && b.Weight > 0 && !has(r.Backends, subset) && !has(r.Lanes, subset) {
					r.Lanes = append(r.Lanes, b)
				}
			}
		}
	}
}

func (f *faults) header(at gatemesh.Position, h *HeaderMatch, field string) {
	h.Name = textproto.CanonicalMIMEHeaderKey(h.Name) // as Call.Header looks it up
	switch {
	case h.Name == "":
		f.add(at, "%s.Name is required", field)
	case strings.Trim(h.Name, tokenBytes) != "":
		f.add(at, "%s.Name %q is not the name of a header field", field, h.Name)
	case h.Name == "Host" || h.Name == "Connection" || gatemesh.CarriesIdentity(h.Name):
		f.add(at, "%s.Name is %s, which no match ever sees", field, h.Name)
	}
	if h.Kind > HeaderPrefix {
		f.add(at, "%s.Kind %d is unknown", field, h.Kind)
	}
}

// tokenBytes are those of a field name, RFC 9110 §5.6.2.
const tokenBytes = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
