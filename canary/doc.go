// Package canary says which version of a service a call goes to: by weight, by
// header, and the same one for the same user every time.
//
// A [Splitter] is a gate that stands behind authentication and policy, because
// it deals users and not connections, and before the dispatcher:
//
//	split := gatemesh.Must(canary.New(canary.Config{Splits: []canary.Split{{
//		Service: "user-service", Namespace: "production",
//		Rules: []canary.Rule{{Targets: []canary.Target{
//			{Subset: "v1", Weight: 90},
//			{Subset: "v2", Weight: 10},
//		}}},
//	}}}))
//	chain := gatemesh.Must(gatemesh.NewChain(entry, router.Layer(), keys.Layer(), rules.Layer(), split.Layer()))
//
// Nothing is stored. The version follows from who calls and from the weights
// alone, so that all replicas agree, restarts forget nothing, and a client can
// choose a version only where a rule matches a header field that it may send.
package canary
