// Package breaker says whether a dependency is healthy, for calls that are
// made: it keeps them away from one that is down, keeps a share back from one
// that is overloaded, retries and hedges those that may be within a budget, and
// bounds how long they take. For calls that are received, it bounds how many are
// worked on, and keeps to the deadline that their caller has.
//
// # The order of outbound layers
//
//	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: mesh, Layers: []gatemesh.Layer{
//		span.Layer(),                                          // once a call
//		deadline.Layer(), retry.Layer(),
//		throttle.Layer(), breaker.Layer(), identity.Layer(), traceparent.Layer(), // each attempt
//	}}))
//
// The span is outermost, to show what the caller saw. The deadline comes next,
// so that it covers all attempts and the pauses between them. The breaker
// stands behind the retries: it learns from every attempt, an attempt that it
// refuses is over at once, and a call whose breaker opens in the midst keeps
// the answer that it has. What is made for one attempt comes last, and is not
// made for a call that the breaker refuses. [gatemesh.NewOutbound] refuses
// another order.
//
// # The breaker
//
// [Gate] has a breaker for each destination; [Breaker] is for other
// dependencies, such as a key server. Both count with failsafe-go. A breaker
// that is closed lets all calls through. It opens after [Policy.Failures], and
// refuses calls without making them. After [Policy.Delay], or as long as the
// callee asked for with Retry-After up to [Policy.MaxDelay], it lets one call
// through as a probe: its success closes the breaker, its failure begins
// another delay.
//
// A probe that says nothing, as its caller went away, leaves its place to the
// next call: to take it for a success would close the breaker on a callee that
// nobody heard of, to take it for a failure would let impatient callers keep
// it open. A probe that takes longer than Delay keeps its say, but no longer
// holds others back; so one that hangs cannot block the breaker for ever.
// Results of calls that began in an earlier state are dropped.
//
// # Retries
//
// [Retry] decides, and [gatemesh.Outbound] carries it out: bodies are sent
// again only if they can be had again, answers that are given up are closed,
// and the last one is the caller's. [RetryConfig.Hedge] begins a second attempt
// of a call that takes long, at another endpoint.
//
// What is worth another attempt is what the answer says of the callee. A service
// that makes 500 of the 503 of one behind it hides that the failure will pass,
// and is not called again; one that passes 503 on is. As those behind the first
// that retries leave the attempts to it, answer with the 503 of a callee, or with
// the Unavailable of gRPC, where nothing was done.
//
// # Several services
//
// What is left of a call's deadline goes to the callee, whose [Deadline] in its
// [gatemesh.Chain] applies it, and so on down the tree of calls. With it goes who
// makes the attempts, and how many are left: of the services on the way, the
// first that may retry does, and the others leave it to that one, so that a dead
// leaf sees 1.1 attempts for a call and not three to the power of its depth. They
// do so also when the budget of that one has nothing left, which the number 0
// says: a storm is not to be continued further down. Both are believed of verified
// peers only; see [gatemesh.Hop].
//
// # Overload
//
// In the service, [Limiter] finds how many calls it can work on at once, and
// refuses the rest, the least important first, and among equals those first that
// another replica can still be asked about. Its callers do not retry what else it
// refuses, and their [Throttle] sends it less. What the layers have done is in
// their Stats methods, for pages and metrics.
package breaker
