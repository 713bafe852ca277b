package gatemesh

import (
	"context"
	"time"
)

// A Gate decides whether a call may proceed, for HTTP and gRPC alike. It must
// be safe for concurrent use and must not retain c after the call has ended.
//
// Inbound gates stand in a [Chain], outbound ones in an [Outbound].
type Gate interface {
	// Admit returns what the gate learned, or an error to refuse the call:
	// a [*Denial], or any other error, which the client sees as Internal.
	// A panic counts as an error.
	Admit(ctx context.Context, c *Call) (Admission, error)
}

// GateFunc makes a Gate of a function.
type GateFunc func(ctx context.Context, c *Call) (Admission, error)

// Admit calls f.
func (f GateFunc) Admit(ctx context.Context, c *Call) (Admission, error) { return f(ctx, c) }

// A CachedGate can often decide without waiting for anybody. grpcmesh asks it
// before a message has been read and decoded, so that a refusal costs little.
type CachedGate interface {
	Gate
	// AdmitCached decides like Admit if it can from memory alone, and reports
	// in ok whether it did. If not, it must have had no effect: Admit follows.
	AdmitCached(ctx context.Context, c *Call) (adm Admission, ok bool, err error)
}

// A Revalidator is a Gate whose consent can be renewed. When [Admission.Until]
// passes while a stream is still open, it is asked; a stream whose gate is no
// Revalidator ends.
type Revalidator interface {
	// Revalidate returns until when the renewed consent holds (zero is for
	// ever), or an error, which ends the stream.
	Revalidate(ctx context.Context, c *Call) (until time.Time, err error)
}

// A Finisher learns how an admitted call ended. Finish is called exactly once,
// also when a later gate refuses, the handler panics or the client leaves:
// inbound after the handler returned, or when a hijacked connection is closed;
// outbound when the response body was read to its end or closed.
type Finisher interface {
	Finish(c *Call, o Outcome)
}

// Admission is a Gate's consent and what it learned. The adapter stamps it on
// the Call. The zero Admission changes nothing and costs nothing.
type Admission struct {
	// Context is the context for the rest of the call: the layers behind, the
	// handler, or the outbound request. It must be made of the one that Admit
	// was given; what has to be released at the end is for Finish. nil keeps
	// the context.
	Context     context.Context
	Principal   *Principal   // who; nil changes nothing
	Peer        *Peer        // which workload; nil changes nothing
	Route       *Route       // what matched; nil changes nothing
	Lane        string       // which version; "" changes nothing
	Destination *Destination // where to; nil changes nothing
	// Backend is the one of the Route that was chosen; nil changes nothing.
	Backend *WeightedDestination
	// ServiceRoute is the rule of the chosen service that matched, and
	// ServiceBackend the one of its backends that was chosen; nil changes nothing.
	ServiceRoute   *Route
	ServiceBackend *WeightedDestination
	// Consumed names what held the credential: a request field, a cookie as
	// "cookie:NAME", or a parameter of the query as "query:NAME". It stays
	// visible to the handler, and [Outbound] does not let it go upstream; of a
	// query see [Call.ForwardedQuery].
	Consumed []string
	// Until is when the consent ends, judged on streams that live longer;
	// zero is never. See [Revalidator].
	Until time.Time
	// Header fields go to the response of an inbound call, where they replace
	// what the handler set, but for Link and Vary, which are added, and onto the request of an outbound one, where an
	// empty Value takes the field off.
	Header []Field
	// Finish is told how the call ended. nil is not interested.
	Finish Finisher
}

// Outcome says how a call ended.
type Outcome struct {
	Code      Code
	Status    int           // HTTP status; 0 for gRPC, or if none was written
	Duration  time.Duration // from Entry to the end of the body
	Bytes     int64         // of the response body; 0 if unknown
	Canceled  bool          // the caller went away, or its request could not be read; neutral for every judgment of the callee
	Expired   bool          // outbound: the deadline that the caller came with passed, or any while it read the answer
	Panicked  bool          // the handler panicked
	Attempts  int           // outbound tries made for the call
	Endpoint  string        // outbound: where the last one went, as of RecordEndpoint
	Reached   bool          // an upstream answered
	Denial    *Denial       // the refusal, if it was one
	Truncated bool          // the response ended before it was complete
}
