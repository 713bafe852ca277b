package gatemesh

import "time"

// WeightedDestination is one of the backends of a [Route].
type WeightedDestination struct {
	Destination Destination
	Weight      uint32 // share among its siblings; 0 is never chosen
	// Rule is the table's own data for the dispatcher behind the chain.
	Rule any
}

// A Route is what a route table matched. It belongs to the table: read it, do
// not change it.
type Route struct {
	// Name is stable and bounded in number, fit for logs, metrics and limits,
	// such as "production/user-service-route/0".
	Name string
	// Backends are the candidates to dispatch to. With several, a layer that
	// gives [FactLane] picks one. A route without backends is answered by the
	// dispatcher itself, as a redirect is.
	Backends []WeightedDestination
	// Lanes are, in a rule of a service, what its other rules have beside the
	// Backends: the subsets that a call which is in their lane already keeps to.
	// A subset that is among the Backends is none of them.
	Lanes []WeightedDestination
	// Timeout bounds a call that goes by the route, with all its attempts. The
	// dispatcher enforces it. 0 is no bound of the route's.
	Timeout time.Duration
	// AttemptTimeout bounds each attempt. The dispatcher enforces it. 0 is none.
	AttemptTimeout time.Duration
	// Retry says which calls that go by the route are tried again. A [Retrier]
	// carries it out. nil leaves it to the Retrier.
	Retry *RetryPolicy
	// Rule is the table's own data for the dispatcher behind the chain.
	Rule any
}

// RetryPolicy says which calls of a [Route] are worth another attempt. It never
// makes a call be tried again that is not safe to make twice.
type RetryPolicy struct {
	// Attempts is how often a call is tried, the first time included; 1 is
	// never again. 0 leaves it to the Retrier.
	Attempts int
	// Statuses are the answers to HTTP calls that are worth another attempt,
	// and Codes those to gRPC calls. Empty leaves both to the Retrier.
	Statuses []int
	Codes    []Code
	// Broken says that calls without an answer are worth another attempt, as
	// when there is no connection, or it breaks.
	Broken bool
	// Backoff is the longest pause before the second attempt, as in the
	// Retrier. 0 leaves it to the Retrier.
	Backoff time.Duration
}

// A ServiceRouter knows what is said about calls to a service by whatever route
// they come, as in an Istio VirtualService. It must be safe for concurrent use.
type ServiceRouter interface {
	// RouteTo returns the rule for c if it goes to d: a Route whose Backends are
	// what serves d for this call. It returns nil if nothing is said about d, and
	// an error, as a [*Denial], if there are rules and none of them takes c.
	RouteTo(c *Call, d Destination) (*Route, error)
}
