// Package policy decides what callers may do, by Istio AuthorizationPolicy
// semantics judged in process.
//
// An [Engine] is a [gatemesh.Gate]. It reads who calls (the verified peer and
// the authenticated principal, both stamped by earlier gates), from where, and
// what: host, method, path and port in the canonical form of
// [gatemesh.Entry]. Header fields and the query have no influence.
//
//	engine := gatemesh.Must(policy.New(policy.Config{
//		Workload:   workload,
//		Policies:   policies,
//		Unselected: policy.Deny,
//	}))
//	chain := gatemesh.Must(gatemesh.NewChain(entry, engine.Layer()))
//
// # How a call is judged
//
// Policies that do not select [Config.Workload] play no part. Then, in order:
//
//  1. A path of [Config.Exempt] is allowed.
//  2. If a rule of a DENY policy matches, the call is refused.
//  3. If no ALLOW policy selects the workload, [Config.Unselected] holds.
//  4. If a rule of an ALLOW policy matches, the call is allowed.
//  5. The call is refused.
//
// See https://istio.io/latest/docs/reference/config/security/authorization-policy/.
// Where Istio accepts a value that cannot do what its author meant, [New]
// refuses it: empty lists, paths that no canonical request has, a `*` in the
// middle, hosts with a port, principals with "spiffe://".
//
// Two things differ from Istio. Trust domains are compared as written:
// "cluster.local" is no alias for the local one. And where Istio always knows
// an address or a port, a call may have none here (a Unix socket, say); a
// condition about it then counts against the call: it holds in a DENY policy
// and fails in an ALLOW policy, its Not form too.
//
// # Why was I refused?
//
// [Engine.Explain] names the rule that decided, or the one that came nearest
// and what in the call it did not accept. The same text is the cause of the
// denial, for the Observer. Clients are told nothing of it.
package policy
