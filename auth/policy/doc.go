// Package policy decides what callers may do, by Istio AuthorizationPolicy
// semantics judged in process.
//
// An [Engine] is a [gatemesh.Gate]. It reads who calls (the verified peer and
// the authenticated principal, both stamped by earlier gates), from where, and
// what: host, method, path and port in the canonical form of
// [gatemesh.Entry]. The query has no influence, and of the header only the
// fields that a [Condition] names.
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
//  2. If a rule of a CUSTOM policy matches, its hook is asked, and the call is
//     refused if that refuses. Each hook is asked once, in the order of the
//     policies that name them first, until one refuses.
//  3. If a rule of a DENY policy matches, the call is refused.
//  4. If no ALLOW policy selects the workload, [Config.Unselected] holds.
//  5. If a rule of an ALLOW policy matches, the call is allowed.
//  6. The call is refused.
//
// Whatever comes of it, if a rule of an AUDIT policy matches, the Observer is
// told of the call, the rule and the verdict, once.
//
// A call is judged when it begins. A stream that stays open is judged again after
// every [Config.Recheck], by the policies of then, and ends if they refuse it.
//
// # Differences from Istio
//
// See https://istio.io/latest/docs/reference/config/security/authorization-policy/
// and https://istio.io/latest/docs/reference/config/security/conditions/.
// Where Istio accepts a value that cannot do what its author meant, [New]
// refuses it: empty lists, paths that no canonical request has, a `*` in the
// middle, hosts with a port, principals with "spiffe://", keys of conditions
// that nobody knows.
//
//   - Trust domains are compared as written: "cluster.local" is no alias for
//     the local one.
//   - Where Istio always knows an address or a port, a call may have none here
//     (a Unix socket, say). A condition about it then counts against the call:
//     it fails in an ALLOW policy and holds in every other, its Not form too.
//     So does one about a claim that is there and is neither a string nor has
//     a string among its elements that matches, where Istio never matches it.
//   - What is absent has no value, as in Istio: no list of values matches, and
//     every Not list lets it pass. That is so for a call without a peer, a
//     principal, a claim, a header field or a server name. An ALLOW rule of Not
//     lists alone therefore allows callers that nobody knows.
//   - A header field may be sent twice, or with several values separated by
//     commas, and Istio joins them and compares the whole. Here, in an ALLOW
//     policy, Values match a field that is there once and is one value (or is,
//     commas and all, one of Values), and NotValues exclude a field of which
//     any part has one of them. In every other policy it is the other way
//     round: Values match any part, and NotValues pass one value alone. More
//     than 128 values count against the call. "*" is any field that is not
//     empty. Commas in User-Agent, Referer and a few more separate nothing.
//   - Conditions cannot name header fields that Entry takes for itself, that
//     carry credentials, or that say who the caller is. One about a field that
//     [gatemesh.EntryConfig] reserves cannot be told, and counts against the
//     call.
//   - request.auth.claims[iss], [sub], [aud] and [scope] are those of the
//     [gatemesh.Principal], whatever it was made of; [permission] is a list
//     separated by spaces, as in Istio.
//   - Several CUSTOM policies may have different providers; Istio refuses that.
//     A provider is a [Hook] in this process.
//
// # Why was I refused?
//
// [Engine.Explain] names the rule that decided, or the one that came nearest
// and what in the call it did not accept. The same text is the cause of the
// denial, for the Observer. Clients are told nothing of it.
//
// # Changing policies
//
// [Config.Candidate] tries other policies on the calls that arrive, without
// effect, and [Engine.DryRun] tells what would have changed. [Engine.Coverage]
// holds the routes of a server against its policies. Package policytest has
// both for go test, and tests of single calls.
package policy
