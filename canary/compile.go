package canary

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"

	"github.com/gatemesh-go/gatemesh"
)

// state is one version of a Config, compiled. Nothing in it changes but the
// destinations that it has met.
type state struct {
	salt     hash
	services gatemesh.ServiceRouter // or nil
	rollouts map[service]*Rollout
	observer gatemesh.Observer
	// met are destinations to stamp, by what they are. Configurations name few.
	met atomic.Pointer[map[gatemesh.Destination]*gatemesh.Destination]
}

type service struct{ name, namespace string }

func (s service) String() string {
	return gatemesh.Destination{Service: s.name, Namespace: s.namespace}.String()
}

func serviceOf(d gatemesh.Destination) service { return service{d.Service, d.Namespace} }

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

// compile copies cfg into a state. It reports every fault at once.
func compile(cfg Config) (*state, error) {
	s := &state{
		salt: fnvOffset.add(cmp.Or(cfg.Salt, DefaultSalt)), services: cfg.Services,
		rollouts: map[service]*Rollout{}, observer: cfg.Observer,
	}
	var errs []error
	for i, r := range cfg.Rollouts {
		switch {
		case r == nil:
			errs = append(errs, fmt.Errorf("canary: Config.Rollouts[%d] is nil", i))
		case s.rollouts[r.service] != nil:
			errs = append(errs, fmt.Errorf("canary: Config.Rollouts[%d]: service %s has a rollout already", i, r.service))
		default:
			s.rollouts[r.service] = r
		}
	}
	return s, errors.Join(errs...)
}
