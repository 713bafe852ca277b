package gatemesh

// MetricKind says what the values of a Metric mean.
type MetricKind uint8

// The kinds of metrics. They are those of OpenTelemetry.
const (
	// MetricCounter counts since the component was made, and never falls. What a
	// component forgets, as the breaker of a destination that made room for
	// another one, begins at 0 when it is there again.
	MetricCounter MetricKind = iota + 1
	// MetricAmount is how much there is now, of which sums mean something, as the
	// number of endpoints. OpenTelemetry has it as an UpDownCounter.
	MetricAmount
	// MetricGauge is a value of now of which sums mean nothing, as a limit.
	MetricGauge
)

// String returns "counter", "amount" or "gauge".
func (k MetricKind) String() string {
	switch k {
	case MetricCounter:
		return "counter"
	case MetricAmount:
		return "amount"
	case MetricGauge:
		return "gauge"
	}
	return "unknown"
}

// Metric describes numbers that a component tells about itself. It is a constant:
// there is one for each name, it is known by its address, and nobody changes it.
type Metric struct {
	// Name is "gatemesh", the component, and what is counted, with dots between
	// them, as the names of OpenTelemetry.
	Name string
	Kind MetricKind
	// Unit is in UCUM: "s", "1", or what is counted in braces, as "{call}".
	Unit        string
	Description string // a sentence without a full stop
}

// Labels say which of the numbers of one name a number is. There are no other
// labels than these, and their values are names that configuration, code or
// verified workloads have chosen: nothing that a caller sent, and no credential.
// So their number is bounded, by what the component bounds.
type Labels struct {
	// Name is how the configuration calls the component, as a pool or a limit.
	Name string
	// Destination is whom calls go to, of which each component knows a bounded
	// number.
	Destination Destination
	// State is one of a few words, as "open". Was is the State before it.
	State, Was string
	// Reason is one of a few words, as "unreachable".
	Reason string
}

// Measurable is a component that tells numbers about itself, such as how many
// calls a limit has refused. Package trace makes OpenTelemetry metrics of them;
// components know nothing of that, and whoever has other means reads them
// himself.
//
// Components count anyway, or nearly so: they are asked when somebody collects,
// at most every few seconds, and calls cost what they cost before. They stay the
// same Measurable through every Update, and their counters go on. Zero and
// closed components may be asked, too.
type Measurable interface {
	// Metrics returns all that Measure may tell of: always the same, whatever the
	// configuration, and not to be changed.
	Metrics() []*Metric
	// Measure calls tell with each number of now, before it returns, and once at
	// most for the same Metric and Labels. It does not wait for others and may be
	// called by several goroutines at once. tell must not call the component.
	Measure(tell Tell)
}

// Tell receives the numbers of a [Measurable].
type Tell func(m *Metric, l Labels, value float64)

// Count tells how often something has happened.
func (t Tell) Count(m *Metric, l Labels, n uint64) { t(m, l, float64(n)) }

// State tells 1 for the State that something is in, and 0 for all others that
// it may be in.
func (t Tell) State(m *Metric, l Labels, now string, all ...string) {
	for _, s := range all {
		l.State = s
		if s == now {
			t(m, l, 1)
		} else {
			t(m, l, 0)
		}
	}
}
