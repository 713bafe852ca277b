package pool

import "time"

// State is whether an endpoint is used, and if not, why.
type State uint8

// The states of endpoints. An ejected one may be unhealthy besides.
const (
	// In is used.
	In State = iota
	// Warming is used, with a part of its weight.
	Warming
	// Ejected has failed.
	Ejected
	// Unhealthy has failed its health checks.
	Unhealthy
)

// String returns the name of s, such as "ejected".
func (s State) String() string {
	names := [...]string{"in", "warming", "ejected", "unhealthy"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// MarshalText implements [encoding.TextMarshaler].
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// EndpointStatus is what a pool knows of an endpoint at one moment, for pages
// and tests. As JSON it is what an admin page needs.
type EndpointStatus struct {
	Address string `json:"address"`
	Zone    string `json:"zone,omitempty"`
	Weight  int    `json:"weight"`
	State   State  `json:"state"`
	// Reason says why the State is Ejected or Unhealthy, or is empty.
	Reason string `json:"reason,omitempty"`
	// Ignored says that the endpoint is used in spite of its State, because too
	// few would be in otherwise; see [Config.MinHealthPercent].
	Ignored  bool `json:"ignored,omitempty"`
	InFlight int  `json:"inFlight"`
	// Latency is the peak EWMA of the time to an answer, as JSON in ns; 0 is not
	// known yet.
	Latency time.Duration `json:"latency"`
	// Failures is how many attempts in a row have failed.
	Failures int `json:"failures"`
	// Ejections is how often the endpoint was ejected.
	Ejections int `json:"ejections"`
	// EjectedUntil is when the endpoint is used again. It is zero if it is in use.
	EjectedUntil time.Time `json:"ejectedUntil,omitzero"`
}

// Endpoints returns what is known of each endpoint, in the order of their
// addresses.
func (p *Pool) Endpoints() []EndpointStatus {
	s := p.state.Load()
	if s == nil {
		return nil
	}
	now := time.Now()
	all, in := make([]EndpointStatus, len(s.endpoints)), 0
	for i, e := range s.endpoints {
		all[i] = e.status(now)
		if all[i].State <= Warming {
			in++
		}
	}
	if s.version.panics(in, len(all)) {
		for i := range all {
			all[i].Ignored = all[i].State > Warming
		}
	}
	return all
}

func (e *Endpoint) status(now time.Time) EndpointStatus {
	at := e.pool.clock(now)
	s := EndpointStatus{
		Address: e.addr, Zone: e.zone, Weight: e.weight,
		InFlight: int(e.inflight.Load()), Failures: int(e.failures.Load()), Ejections: int(e.ejections.Load()),
		Latency: time.Duration(e.latency.at(at)),
	}
	switch out := e.out.Load(); {
	case out > at:
		s.State, s.Reason = Ejected, reason(e.reason.Load()).String()
		s.EjectedUntil = now.Add(time.Duration(out - at))
	case e.unhealthy.Load():
		s.State, s.Reason = Unhealthy, "health checks have failed"
	default:
		w := &e.pool.state.Load().version.Warmup
		if part, _ := w.part(at - e.warmSince(at)); part < 1 {
			s.State = Warming
		}
	}
	return s
}
