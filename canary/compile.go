package canary

import (
	"errors"
	"fmt"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/gatemesh-go/gatemesh"
)

// state is one version of a Config, compiled. Nothing in it changes but what
// targets remember.
type state struct {
	salt     hash
	splits   map[serviceKey]*split
	observer gatemesh.Observer
}

type serviceKey struct{ service, namespace string }

type split struct {
	seed  hash
	rules []rule
	lanes map[string]*target // by subset, those that can be chosen at all
}

type rule struct {
	matches []Match
	targets []target
}

// target is a compiled Target.
type target struct {
	destination gatemesh.Destination
	weight      uint32
	// ports are copies of destination with the ports of routes, if it has none
	// of its own. There are as many as routes to the service have ports.
	ports atomic.Pointer[[]*gatemesh.Destination]
}

func weightOf(t *target) uint32 { return t.weight }

// to returns where a call to port goes. It allocates only when it meets a port
// for the first time.
func (t *target) to(port uint16) *gatemesh.Destination {
	if t.destination.Port != 0 || port == 0 {
		return &t.destination
	}
	for {
		known := t.ports.Load()
		var old []*gatemesh.Destination
		if known != nil {
			old = *known
		}
		for _, d := range old {
			if d.Port == port {
				return d
			}
		}
		d := t.destination
		d.Port = port
		grown := append(old[:len(old):len(old)], &d)
		if t.ports.CompareAndSwap(known, &grown) {
			return &d
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
	s := &state{salt: fnvOffset.add(cfg.Salt), splits: map[serviceKey]*split{}, observer: cfg.Observer}
	first := map[serviceKey]int{}
	var f faults
	for i := range cfg.Splits {
		in, field := &cfg.Splits[i], fmt.Sprintf("Config.Splits[%d]", i)
		if in.Service == "" {
			f.add(in.Position, "%s.Service is required", field)
		}
		key := serviceKey{in.Service, in.Namespace}
		if earlier, ok := first[key]; ok {
			f.add(in.Position, "%s: service %s has a split already, Config.Splits[%d]", field,
				gatemesh.Destination{Service: in.Service, Namespace: in.Namespace}, earlier)
			continue
		}
		first[key] = i
		if len(in.Rules) == 0 {
			f.add(in.Position, "%s.Rules is required", field)
		}
		out := &split{
			seed:  s.salt.add("split").add(in.Service).add(in.Namespace),
			rules: make([]rule, len(in.Rules)), lanes: map[string]*target{},
		}
		for j := range in.Rules {
			f.rule(&out.rules[j], &in.Rules[j], in, fmt.Sprintf("%s.Rules[%d]", field, j))
			for k := range out.rules[j].targets {
				t := &out.rules[j].targets[k]
				if subset := t.destination.Subset; subset != "" && t.weight > 0 && out.lanes[subset] == nil {
					out.lanes[subset] = t
				}
			}
		}
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
	out.targets = make([]target, len(in.Targets))
	sum := uint64(0)
	for i, t := range in.Targets {
		sum += uint64(t.Weight)
		if t.Service == "" {
			if t.Namespace != "" {
				f.add(at, "%s.Targets[%d].Namespace must be empty without a Service", field, i)
			}
			t.Service, t.Namespace = of.Service, of.Namespace
		}
		out.targets[i].weight = t.Weight
		out.targets[i].destination = gatemesh.Destination{
			Service: t.Service, Namespace: t.Namespace, Subset: t.Subset, Port: t.Port,
		}
	}
	switch {
	case sum > 0:
	case len(in.Targets) == 1:
		out.targets[0].weight = 1
	case len(in.Targets) > 1:
		f.add(at, "%s.Targets: the weights must not all be 0", field)
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
