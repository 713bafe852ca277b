package gatemesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// A Fact is something that layers tell one another through the Call. Layers
// name facts to say where in a [Chain] they may stand. Applications can invent
// facts of their own.
type Fact string

// The facts of the layers in this module.
const (
	FactRoute         Fact = "route"          // Call.Route and, for one backend, Call.Destination
	FactPeer          Fact = "peer"           // Call.Peer was judged for this call
	FactClientLimit   Fact = "client limit"   // a limit by address was charged
	FactPrincipal     Fact = "principal"      // Call.Principal
	FactConsumerLimit Fact = "consumer limit" // a limit by consumer was charged
	FactPolicy        Fact = "policy"         // the call is allowed
	FactLane          Fact = "lane"           // Call.Lane and Call.Destination
)

// The facts of outbound layers.
const (
	FactSpan     Fact = "span"     // a span of the whole call stands in the context; inbound layers give it, too
	FactDeadline Fact = "deadline" // Call.Deadline is ours or earlier
	FactAttempt  Fact = "attempt"  // what stands behind is done anew for each attempt
	FactBreaker  Fact = "breaker"  // the destination is not known to be down
	FactIdentity Fact = "identity" // the call carries who it is made for
)

// Layer is one layer of a [Chain] or an [Outbound]. The packages of this module
// return theirs from a Layer method; [Middleware] makes one of foreign HTTP
// middleware.
type Layer struct {
	// Name appears in events and in errors of NewChain. Required.
	Name string
	// Needs are facts that an earlier layer of the chain must give.
	Needs []Fact
	// Gives are facts that are known behind this layer.
	Gives []Fact
	// After are facts behind which this layer must stand if any layer of the
	// chain gives them.
	After []Fact
	// Gate decides, for HTTP and gRPC. Exactly one of Gate, Handler and Retry is
	// required.
	Gate Gate
	// Handler wraps HTTP handlers, in a Chain. A chain with such a layer has no
	// gRPC form.
	Handler func(http.Handler) http.Handler
	// Retry makes attempts of outbound calls, in an Outbound. The layers before
	// it judge a call once, those behind it each attempt.
	Retry Retrier
}

// Middleware returns foreign HTTP middleware as a Layer, which stands where it
// is put. It must pass on the request context that it received, and return
// only after the handler behind it has. Where gates stand behind it, that
// excludes [http.TimeoutHandler]; such middleware belongs behind all gates.
func Middleware(name string, handler func(http.Handler) http.Handler) Layer {
	return Layer{Name: name, Handler: handler}
}

// Chain is an ordered stack of layers behind an [Entry]. It is immutable; what
// its layers do can be changed by their own Update methods.
type Chain struct {
	entry  *Entry
	layers []Layer
	gates  []Layer // the layers with a Gate, in order
}

// NewChain returns the chain in which the first listed layer sees a call
// first. It refuses an order in which a layer would not find what it needs,
// with an error that names both layers; the check costs nothing per call.
func NewChain(entry *Entry, layers ...Layer) (*Chain, error) {
	c := &Chain{entry: entry, layers: slices.Clone(layers)}
	var errs []error
	if entry == nil || entry.state.Latest() == nil {
		errs = append(errs, errors.New("gatemesh: chain: entry is required"))
	}
	for i, l := range c.layers {
		errs = append(errs, checkLayer("chain", i, c.layers))
		if l.Retry != nil {
			errs = append(errs, fmt.Errorf("gatemesh: chain: %q retries and belongs into an Outbound", l.Name))
		}
		if l.Gate != nil {
			c.gates = append(c.gates, l)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// checkLayer reports what is wrong with layer i of an ordered stack, of which
// kind is the name for people.
func checkLayer(kind string, i int, layers []Layer) error {
	l := layers[i]
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("gatemesh: "+kind+": "+format, args...))
	}
	if l.Name == "" {
		fault("layer %d has no Name", i)
	}
	kinds := 0
	for _, set := range [...]bool{l.Gate != nil, l.Handler != nil, l.Retry != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		fault("%q must have exactly one of Gate, Handler and Retry", l.Name)
	}
	for _, f := range l.Needs {
		if giver(layers[:i], f) >= 0 {
			continue
		}
		if j := giver(layers[i:], f); j > 0 {
			fault("%q needs the %s that %q gives, and must stand after it", l.Name, f, layers[i+j].Name)
		} else {
			fault("%q needs the fact %q, which no layer before it gives", l.Name, f)
		}
	}
	for _, f := range l.After {
		if j := giver(layers[i:], f); j > 0 {
			fault("%q must stand after %q, which gives the %s", l.Name, layers[i+j].Name, f)
		}
	}
	if j := giver(layers[:i], FactPrincipal); j >= 0 && slices.Contains(l.Gives, FactPrincipal) {
		fault("%q and %q both give the principal; which one holds would be a matter of order", layers[j].Name, l.Name)
	}
	return errors.Join(errs...)
}

func giver(layers []Layer, f Fact) int {
	return slices.IndexFunc(layers, func(l Layer) bool { return slices.Contains(l.Gives, f) })
}

// Layers returns the names of the layers, first one first.
func (c *Chain) Layers() []string {
	names := make([]string, len(c.layers))
	for i, l := range c.layers {
		names[i] = l.Name
	}
	return names
}

// GatesOnly returns an error that names the layers without a Gate, or nil.
// Adapters for other protocols than HTTP refuse such chains: to leave a layer
// out could mean to leave a check out.
func (c *Chain) GatesOnly() error {
	var names []string
	for _, l := range c.layers {
		if l.Gate == nil {
			names = append(names, fmt.Sprintf("%q", l.Name))
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("gatemesh: chain: %s is HTTP middleware and has no gRPC form", strings.Join(names, ", "))
}

// Start makes the Call of a received request for an adapter. If the request
// is refused already here, the Exchange is returned with the Denial, for its
// request id and its Finish.
func (c *Chain) Start(ctx context.Context, in Inbound) (*Exchange, *Denial) {
	x, s := c.entry.begin(ctx, c.gates)
	if err := x.accept(s, &in); err != nil {
		return x, x.Deny(ctx, "entry", err)
	}
	return x, nil
}
