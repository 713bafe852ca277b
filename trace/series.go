package trace

import (
	"maps"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/gatemesh-go/gatemesh"
)

// The attributes of metrics.
const (
	keySource      = attribute.Key("gatemesh.source")
	keyDestination = attribute.Key("gatemesh.destination")
	keyClass       = attribute.Key("gatemesh.code_class")
	keyProtocol    = attribute.Key("gatemesh.protocol")
	keyLayer       = attribute.Key("gatemesh.layer")
	keyReason      = attribute.Key("gatemesh.reason")
	keyCode        = attribute.Key("gatemesh.code")
	keyComponent   = attribute.Key("gatemesh.component")
	keyName        = attribute.Key("gatemesh.name")
	keyState       = attribute.Key("gatemesh.state")
	keyWas         = attribute.Key("gatemesh.state.before")

	keyOverflow = attribute.Key("otel.metric.overflow") // as the SDK has it
)

// unknown is who is neither verified nor configured.
const unknown = "unknown"

// table holds the attribute sets that were made so far, up to a number. Reading
// takes no lock and does not allocate; new ones are rare.
type table[K comparable, V any] struct {
	m  atomic.Pointer[map[K]*V] // copied on write
	mu sync.Mutex               // one writer at a time
}

func (t *table[K, V]) find(k K) *V {
	if m := t.m.Load(); m != nil {
		return (*m)[k]
	}
	return nil
}

// add returns what there is for k, or v if there is room for it, or else nil.
func (t *table[K, V]) add(k K, v *V, limit int) *V {
	t.mu.Lock()
	defer t.mu.Unlock()
	var now map[K]*V
	if m := t.m.Load(); m != nil {
		if it := (*m)[k]; it != nil {
			return it
		}
		now = maps.Clone(*m)
	} else {
		now = map[K]*V{}
	}
	if len(now) >= limit {
		return nil
	}
	now[k] = v
	t.m.Store(&now)
	return v
}

// recordSet and addSet are attributes as instruments take them without
// allocating.
type (
	recordSet []metric.RecordOption
	addSet    []metric.AddOption
)

func setOf(attrs ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attrs...))
}

// class is what became of a call, as one of a few words.
type class uint8

const (
	canceled class = iota // by the caller
	informational
	success
	redirection
	clientError
	serverError
	truncated // the response broke off
	classes
)

var classNames = [classes]string{"canceled", "1xx", "2xx", "3xx", "4xx", "5xx", "truncated"}

// classOf takes gRPC codes, and calls without an answer, for the HTTP status that
// the code stands for.
func classOf(c *gatemesh.Call, o *gatemesh.Outcome) class {
	status := o.Status
	if status == 0 || c.Protocol() == gatemesh.GRPC && o.Code != gatemesh.OK {
		status = o.Code.HTTPStatus()
	}
	switch {
	case o.Panicked:
		return serverError
	case o.Canceled:
		return canceled
	case o.Truncated && status < 400:
		return truncated
	case status >= 100 && status < 600:
		return class(status / 100)
	}
	return serverError
}

// callKey is what tells the calls of one series from others. It is made without
// allocating.
type callKey struct {
	outbound           bool
	protocol           gatemesh.Protocol
	class              class
	domain, path       string // of the peer
	destination, route string
	namespace, subset  string // of the destination
	port               uint16
}

// denialKey is the same for refusals, and againKey for further attempts.
type (
	denialKey struct {
		layer, reason string
		code          gatemesh.Code
	}
	againKey struct {
		hedged      bool
		class       class
		destination gatemesh.Destination
	}
)

// sourceOf returns the name of a verified workload: short for one of our own
// trust domain in the layout of Istio.
func (m *Metrics) sourceOf(p *gatemesh.Peer) string {
	switch {
	case p == nil:
		return unknown
	case p.TrustDomain() == m.cfg.Workload.TrustDomain && p.ServiceAccount() != "":
		return p.ServiceAccount() + "." + p.Namespace()
	}
	return p.ID()
}

// self is who we are.
func (m *Metrics) self() string {
	w := &m.cfg.Workload
	return nameOf(gatemesh.Destination{Service: w.Name, Namespace: w.Namespace})
}

func nameOf(d gatemesh.Destination) string {
	if d.Service == "" {
		return unknown
	}
	return d.String()
}

// overflow is what is counted together when a metric has too many series.
type overflow struct {
	calls [2][classes]recordSet // by protocol
	rest  addSet
}

func newOverflow() (o overflow) {
	is := keyOverflow.Bool(true)
	for p := range o.calls {
		for c := range o.calls[p] {
			o.calls[p][c] = recordSet{setOf(is, keyProtocol.String(protocols[p].String()), keyClass.String(classNames[c]))}
		}
	}
	o.rest = addSet{setOf(is)}
	return o
}

var protocols = [...]gatemesh.Protocol{gatemesh.HTTP, gatemesh.GRPC}
