// Package gatemesh is the vocabulary of a library that gives Go services what
// an API gateway and a service mesh give them, with no proxy beside each one.
//
// A request becomes a [Call] once, in [Entry]. The layers of a [Chain] judge
// that Call, and the handler behind them reads it with [FromContext]:
//
//	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
//	chain := gatemesh.Must(gatemesh.NewChain(entry, keys.Layer(), limit.Layer(), rules.Layer()))
//	http.ListenAndServe(":8080", chain.Handler(mux))
//
// # Reading order
//
// Read [Call] first: what is known about a request, and who may say so. Then
// [Gate], the decision that HTTP and gRPC share, with [Admission] for yes and
// [Denial] for no. Then [Layer] and [Chain], which put gates in an order and
// refuse a wrong one. [Entry] says what is canonical, who is trusted, and what
// is taken off a request before anything reads it. [Outbound] is the same for
// calls that a service makes, with a [Retrier] among its layers if they may be
// tried again. [Live] and [Apply] are how configurations change while calls are
// in progress. The rest ([Observer], [Workload], [ResponseWriter]) serves these.
//
// The concerns live in packages that import this one and nothing of one
// another: auth (who calls from outside), auth/identity (the signed internal
// identity), auth/policy (what is allowed), mtls (who calls from inside),
// ratelimit (how much), routing (where to) with routing/pool (at which
// endpoint), canary (which version), breaker (is the dependency healthy), trace
// (what happened). manifest
// reads Gateway API and Istio YAML into their configurations, and grpcmesh
// puts every Chain and Outbound around gRPC.
//
// # Rules that hold everywhere
//
// What is judged is what is forwarded: one canonical form of method, host and
// path is made by Entry, decided upon, shown to the handler and sent upstream.
// Failure never widens access: a layer without a Call, a gate that panics or
// returns an unknown error, all answer with a denial. What a client is told is
// [Denial.Detail], a text of ours; causes go to the Observer.
//
// Everything exported is safe for concurrent use unless its comment says
// otherwise. The package imports only the standard library.
package gatemesh

// Must returns v, or panics with err. It is for main and for tests, where a
// wrong configuration should end the program.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
