// Package canary says which version of a service a call goes to: by weight, and
// the same one for the same user every time; and it gives a new version to more
// and more users, for as long as it does well.
//
// A [Splitter] is a gate that stands behind authentication and policy, because
// it deals users and not connections, and before the dispatcher. Which backends
// there are for a call is matched in the route table, header fields first; of
// those the Splitter chooses one by weight. The smallest canary is a route with
// two subsets:
//
//	v1 := gatemesh.Destination{Service: "user-service", Subset: "v1"}
//	v2 := gatemesh.Destination{Service: "user-service", Subset: "v2"}
//	router := gatemesh.Must(routing.New(routing.Config{
//		Routes:    []routing.Route{{Name: "users", Backends: []routing.Backend{{Destination: v1, Weight: 90}, {Destination: v2, Weight: 10}}}},
//		Upstreams: …,
//	}))
//	split := gatemesh.Must(canary.New(canary.Config{}))
//	chain := gatemesh.Must(gatemesh.NewChain(entry, router.Layer(), keys.Layer(), rules.Layer(), split.Layer()))
//
// What is said about a service by whatever route calls come, as in a
// VirtualService, are the Services of a routing.Config; the router is then the
// [Config.Services] of the Splitter, which also serves the calls between
// services.
//
// Read it in this order: [Splitter.Admit] is how a version is chosen, the
// package's Example shows it, then the gRPC one of [Splitter]; [Rollout] is what
// replicas do, [Analysis] what decides, [Store] what they agree through, and
// [NewPage] what people see. In the code, share.go is the line that users stand
// on, pick.go cuts it, plan.go says what becomes of a rollout without doing it,
// and replica.go does it; counting.go has what is counted until then, actions.go
// what people do to a rollout.
//
// The version follows from who calls and from the weights alone, so that all
// replicas agree, restarts forget nothing, and a client can choose a version
// only where a rule matches a header field that it may send. The chosen version
// is the call's lane; with package auth/identity it goes through the whole tree
// of calls, and a service whose calls go through an Outbound with the same layer
// keeps to it wherever somebody serves it.
//
// # Rollouts
//
// A [Rollout] moves the border between two subsets step by step, compares what
// their attempts came to, and goes on, halts, or takes the canary from everybody
// at once:
//
//	store := gatemesh.Must(canary.NewFileStore("/var/lib/gateway/rollouts"))
//	rollout := gatemesh.Must(canary.NewRollout(canary.RolloutConfig{
//		Service: "user-service", Namespace: "production", Stable: "v1", Canary: "v2", ID: "v2.3.0", Store: store,
//		Steps: []canary.Step{{Percent: 5, Duration: 10 * time.Minute}, {Percent: 25, Duration: 10 * time.Minute}},
//	}))
//	split := gatemesh.Must(canary.New(canary.Config{Services: router, Rollouts: []*canary.Rollout{rollout}}))
//
// and rollout.Layer() stands last among the outbound layers, where it sees also
// the attempts that a retry hides from callers.
//
// Wherever a rule has both subsets among its backends, the rollout has the last
// word on how they share what the rule gives the two together; what it says of
// each of them does not count, whenever it is loaded. What the rule gives others
// stays theirs, and a rule with one of the two alone, as for a header field, is
// left as it is. A rollout that is over goes on to decide, until it is taken out
// of the configuration: first write its result into the rule.
//
// Raising the share moves users from the stable version to the canary and
// nobody else anywhere; lowering it moves the last ones that came back first.
//
// How sure a verdict is, is written at [Analysis]. In simulations with 100 calls
// a second for each version, 5 % of failures beside 0.1 % were seen after 6.6 s
// on average, and never later than 20; a version that began to fail so two
// minutes after its step did, after 21 s, as a window of a minute knows how well
// it has done, and one that failed altogether, at 10 calls a second, after 3 s.
// With 100 and 10 calls a second of equally good versions, looked at every second
// for ten minutes, of 400 rollouts none was rolled back at an error rate of 0.1 %,
// 1 % or 5 %.
package canary
