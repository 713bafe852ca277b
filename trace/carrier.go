package trace

import (
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// The fields of W3C Trace Context and Baggage.
const (
	fieldParent  = "Traceparent"
	fieldState   = "Tracestate"
	fieldBaggage = "Baggage"
)

// The limits of W3C Baggage. OpenTelemetry keeps them by dropping all of it.
const (
	maxMembers = 64
	maxBytes   = 8192
)

// maxStates is how many members trace state may have.
const maxStates = 32

// sent reports whether a caller sent any of the propagator's fields.
func (p *propagator) sent(h gatemesh.Header) bool {
	for _, f := range p.fields {
		if h.Count(f) > 0 {
			return true
		}
	}
	return false
}

// received is what a propagator gets to read of a request.
type received struct {
	gatemesh.Header
	idsOnly bool // neither trace state nor baggage
	cut     bool // there was too much baggage
}

// Get returns the value of a field. Where only one value can be true, several
// are none.
func (r *received) Get(name string) string {
	list := strings.EqualFold(name, fieldState) || strings.EqualFold(name, fieldBaggage)
	switch {
	case r.idsOnly && list:
		return ""
	case !list:
		v, _ := r.Only(name)
		return v
	case r.Count(name) == 1 && strings.EqualFold(name, fieldState):
		if v := r.Header.Get(name); len(v) <= maxBytes {
			return v
		}
		return ""
	}
	// Several fields are one list (RFC 9110 §5.3).
	values := r.Values(name)
	size := -1
	for _, v := range values {
		size += len(v) + 1
	}
	if size > maxBytes {
		return ""
	}
	return strings.Join(values, ",")
}

// Values returns the values of a field, of baggage as much as may be kept.
func (r *received) Values(name string) []string {
	if !strings.EqualFold(name, fieldBaggage) {
		return r.Header.Values(name)
	}
	if r.idsOnly {
		return nil
	}
	values, left := r.Header.Values(name), newAllowance()
	for i, v := range values {
		kept, cut := left.take(v)
		values[i] = kept
		if cut {
			r.cut = true
			return values[:i+1]
		}
	}
	return values
}

// Set does nothing: what was received is not for us to change.
func (*received) Set(string, string) {}

// Keys returns nothing; see Config.Propagator.
func (*received) Keys() []string { return nil }

// written is what a propagator writes onto a request.
type written struct {
	lower  bool // gRPC metadata
	cut    bool
	fields []gatemesh.Field
	buf    [4]gatemesh.Field
}

// Get returns what was written.
func (w *written) Get(name string) string {
	for _, f := range w.fields {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// Set writes a field, of baggage as much as may be sent.
func (w *written) Set(name, value string) {
	if strings.EqualFold(name, fieldBaggage) {
		left := newAllowance()
		kept, cut := left.take(value)
		value, w.cut = kept, w.cut || cut
	}
	name = w.spell(name)
	for i, f := range w.fields {
		if f.Name == name {
			w.fields[i].Value = value
			return
		}
	}
	w.fields = append(w.fields, gatemesh.Field{Name: name, Value: value})
}

// spell returns the name as the outgoing header spells it, which then need not
// make a string of its own.
func (w *written) spell(name string) string {
	if w.lower {
		return strings.ToLower(name)
	}
	for _, f := range [...]string{fieldParent, fieldState, fieldBaggage} {
		if strings.EqualFold(f, name) {
			return f
		}
	}
	return name
}

// Keys returns the names of what was written.
func (w *written) Keys() []string {
	names := make([]string, len(w.fields))
	for i, f := range w.fields {
		names[i] = f.Name
	}
	return names
}

// allowance is how much baggage may still be kept.
type allowance struct{ members, bytes int }

func newAllowance() allowance {
	return allowance{maxMembers, maxBytes + 1} // the first member has no comma before it
}

// take returns the members at the beginning of a list that may be kept, and
// whether there were more.
func (a *allowance) take(list string) (kept string, cut bool) {
	for start := 0; ; {
		n := strings.IndexByte(list[start:], ',')
		end := start + n
		if n < 0 {
			end = len(list)
		}
		if a.members == 0 || a.bytes < end-start+1 {
			return strings.TrimSuffix(list[:start], ","), true
		}
		a.members--
		a.bytes -= end - start + 1
		if n < 0 {
			return list, false
		}
		start = end + 1
	}
}
