package policy

import "github.com/gatemesh-go/gatemesh"

// Config configures an [Engine]. The zero Config is invalid: Workload and
// Unselected are required.
type Config struct {
	// Workload says who we are. Required. Policies are matched against its
	// namespace and labels; those that do not select it play no part.
	Workload gatemesh.Workload
	// Policies are all policies that are known, of any namespace, in any
	// order. A fault in one that does not select Workload is reported too.
	// Default: none.
	Policies []Policy
	// RootNamespace is the namespace whose policies apply to the workloads of
	// every namespace. Default: "istio-system".
	RootNamespace string
	// Unselected is what happens to calls when no ALLOW policy selects
	// Workload and no DENY policy matches. Required. Istio allows; [Deny] is
	// the safe choice.
	Unselected Verdict
	// Exempt are paths that are allowed without asking any policy, also
	// against a DENY, such as "/grpc.health.v1.Health/Check". They are exact
	// and canonical; no `*`. Default: none.
	Exempt []string
	// Candidate are policies on trial: every call is judged by the live ones
	// alone, and where the candidate would have judged otherwise is recorded;
	// see [Engine.DryRun]. Default: none.
	Candidate *Candidate
	// Observer receives a notice for every policy that allows everybody and for
	// every exempt path, on New and Update. Default: nobody. Denials go to the
	// Observer of the [gatemesh.Entry].
	Observer gatemesh.Observer
}

// Verdict is what becomes of a call. The zero Verdict is neither and is
// refused wherever one is required.
type Verdict uint8

// The verdicts.
const (
	Allow Verdict = iota + 1
	Deny
)

// String returns "allow" or "deny".
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	}
	return "unset"
}

// Action is what a policy does with the calls that its rules match.
type Action uint8

// The actions. ALLOW is Istio's default and the zero Action.
const (
	// ActionAllow allows matching calls and, by being there, refuses those
	// that no ALLOW policy matches.
	ActionAllow Action = iota
	// ActionDeny refuses matching calls, whatever ALLOW policies say.
	ActionDeny
)

// String returns "ALLOW" or "DENY".
func (a Action) String() string {
	switch a {
	case ActionAllow:
		return "ALLOW"
	case ActionDeny:
		return "DENY"
	}
	return "unknown"
}

// Policy is one Istio AuthorizationPolicy.
type Policy struct {
	// Name and Namespace identify the policy. Required, and unique together.
	Name, Namespace string
	// Position is where the policy was written. Default: unknown.
	Position gatemesh.Position
	// Selector are labels that a workload must have, all of them. Default:
	// every workload of Namespace, or of every namespace if Namespace is the
	// root namespace.
	Selector map[string]string
	// Action is what happens to calls that a rule matches. Default: ActionAllow.
	Action Action
	// Rules are alternatives. Without any, the policy matches nothing: an
	// ALLOW policy then refuses every call, a DENY policy none.
	Rules []Rule
}

// Rule matches a call that comes from one of From and does one of To. The zero
// Rule matches every call, which New reports to the Observer.
type Rule struct {
	// Position is where the rule was written. Default: that of the policy.
	Position gatemesh.Position
	// From are alternatives. nil is everybody; an empty list is a fault.
	From []Source
	// To are alternatives. nil is everything; an empty list is a fault.
	To []Operation
}

// Source describes where a call comes from. All fields that are not nil must
// match; one field matches with any of its values, a Not field with none.
// At least one field is required, and an empty list is a fault: Istio would
// read it as no restriction.
//
// Values are exact, or with one `*`: "abc*" is a prefix, "*abc" a suffix, "*"
// anything that is not empty.
type Source struct {
	// Position is where the source was written. Default: that of the rule.
	Position gatemesh.Position
	// Principals are verified workloads (mutual TLS) in the form
	// "cluster.local/ns/production/sa/order-service", without "spiffe://". A
	// call without a peer has the empty principal: no value of Principals
	// matches it, nor any of NotPrincipals, so that NotPrincipals alone lets it
	// through, as in Istio.
	Principals, NotPrincipals []string
	// RequestPrincipals are authenticated users, "ISSUER/SUBJECT" of the
	// [gatemesh.Principal]. A call without issuer or subject has the empty one,
	// with the same consequences. Issuer and subject are compared joined: where
	// one trusted issuer continues another ("https://idp" and
	// "https://idp/eu"), a subject of the first may contain the rest.
	RequestPrincipals, NotRequestPrincipals []string
	// Namespaces are those of verified workloads. A call without a peer, or
	// whose SPIFFE id is not in Istio's layout, has the empty one.
	Namespaces, NotNamespaces []string
	// IPBlocks are addresses or CIDR prefixes of the other end of the
	// connection. An unknown address matches neither IPBlocks nor NotIPBlocks.
	IPBlocks, NotIPBlocks []string
	// RemoteIPBlocks are addresses or CIDR prefixes of the client, behind
	// trusted proxies; see [gatemesh.Call.Client].
	RemoteIPBlocks, NotRemoteIPBlocks []string
}

// Operation describes what a call does. It reads like [Source].
type Operation struct {
	// Position is where the operation was written. Default: that of the rule.
	Position gatemesh.Position
	// Hosts are compared in canonical form, in any case and without port.
	// Ports have a field of their own.
	Hosts, NotHosts []string
	// Methods are upper case. Those of gRPC calls are POST.
	Methods, NotMethods []string
	// Paths are compared with [gatemesh.Call.MatchPath]. Those of gRPC calls
	// are "/package.Service/Method".
	Paths, NotPaths []string
	// Ports are numbers of the port the call arrived at, exact.
	Ports, NotPorts []string
}
