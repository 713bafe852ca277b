package policy

import (
	"context"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

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
	// Recheck is how long a consent holds on a stream that stays open. Then the
	// call is judged again, by the policies of then. Default: 1 minute. Must not
	// be negative.
	Recheck time.Duration
	// Candidate are policies on trial: every call is judged by the live ones
	// alone, and where the candidate would have judged otherwise is recorded;
	// see [Engine.DryRun]. Default: none.
	Candidate *Candidate
	// Hooks are what CUSTOM policies ask, by the name in [Policy.Provider]. A
	// policy that names no hook of these is a fault if it selects Workload.
	// Default: none.
	Hooks map[string]Hook
	// Observer receives a notice for every policy that allows everybody and for
	// every exempt path, on New and Update, and for every call that an AUDIT
	// policy matches. Default: nobody, so that AUDIT policies have no effect, as
	// in Istio without a plugin. Denials go to the Observer of the
	// [gatemesh.Entry].
	Observer gatemesh.Observer
}

// Hook decides about calls for CUSTOM policies, such as by asking a service.
// It consents with nil. Every error refuses the call: the client sees a
// [*gatemesh.Denial] as it is, and PermissionDenied for any other, which is the
// cause. A panic refuses, too. A Hook learns nothing for the call: it cannot
// stamp a principal.
//
// A Hook must be safe for concurrent use, must not retain c, and must return
// when ctx ends. It is waited for that long.
type Hook func(ctx context.Context, c *gatemesh.Call) error

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
	// ActionAudit tells Config.Observer of matching calls. It does not change
	// what becomes of them.
	ActionAudit
	// ActionCustom asks the hook named by Provider about matching calls, before
	// DENY and ALLOW policies, which are judged if it consents.
	ActionCustom
)

// String returns Istio's name of the action, such as "ALLOW".
func (a Action) String() string {
	switch a {
	case ActionAllow:
		return "ALLOW"
	case ActionDeny:
		return "DENY"
	case ActionAudit:
		return "AUDIT"
	case ActionCustom:
		return "CUSTOM"
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
	// Gateways are names of Gateways in Namespace that the policy is for, as
	// targetRefs say it, in place of Selector: it selects the workloads that
	// serve one of them, see [gatemesh.GatewayLabel]. nil is none; an empty list
	// is a fault.
	Gateways []string
	// Action is what happens to calls that a rule matches. Default: ActionAllow.
	Action Action
	// Provider is the name of a hook in [Config.Hooks]. Required for
	// ActionCustom, and a fault for every other.
	Provider string
	// Rules are alternatives. Without any, the policy matches nothing: an
	// ALLOW policy then refuses every call, any other policy has no effect.
	Rules []Rule
}

// Rule matches a call that comes from one of From and does one of To, when all
// of When hold. The zero Rule matches every call, which New reports to the
// Observer.
type Rule struct {
	// Position is where the rule was written. Default: that of the policy.
	Position gatemesh.Position
	// From are alternatives. nil is everybody; an empty list is a fault.
	From []Source
	// To are alternatives. nil is everything; an empty list is a fault.
	To []Operation
	// When are conditions that must all hold. nil is none; an empty list is a
	// fault.
	When []Condition
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
	// ServiceAccounts are those of verified workloads, of any trust domain that
	// mutual TLS accepted: "NAMESPACE/NAME", or "NAME" in the namespace of the
	// policy. They are exact, at most 16, and cannot stand beside principals or
	// namespaces, all as in Istio. A call without a peer, or whose SPIFFE id is
	// not in Istio's layout, has the empty one.
	ServiceAccounts, NotServiceAccounts []string
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
	//
	// A path may also be a template, whose segments are literals or operators:
	// {*} is one segment that is not empty, {**} is the rest of the path up to
	// the literals behind it, or nothing. {**} stands at most once and after
	// every {*}. "/users/{*}/orders" matches "/users/7/orders";
	// "/files/{**}" matches "/files/" and "/files/a/b", and not "/files".
	Paths, NotPaths []string
	// Ports are numbers of the port the call arrived at, exact.
	Ports, NotPorts []string
}

// Condition is one more thing that must hold of a call. It holds if the
// attribute that Key names has one of Values, and none of NotValues. At least
// one of the two is required, and an empty list is a fault. Values read like
// those of [Source] where nothing else is said.
//
// The keys are
//
//   - source.ip, remote.ip, destination.ip: addresses or CIDR prefixes
//   - source.principal, source.namespace, source.serviceAccount and
//     request.auth.principal: as Principals, Namespaces, ServiceAccounts and
//     RequestPrincipals of [Source]
//   - destination.port: as Ports of [Operation]
//   - connection.sni: the server name of the TLS handshake, in any case
//   - request.auth.audiences: the audience of the [gatemesh.Principal]
//   - request.auth.presenter: its claim azp
//   - request.auth.claims[NAME], and request.auth.claims[A][B] for claims
//     within claims: a string, or any string of a list. [scope] are the scopes
//     of the Principal, one by one, also those of an API key.
//   - request.headers[NAME]: a header field that the caller is free to send
//
// The package documentation says how fields with several values, claims of
// other types, and what is absent are judged.
type Condition struct {
	// Position is where the condition was written. Default: that of the rule.
	Position gatemesh.Position
	// Key names the attribute. Required.
	Key string
	// Values are alternatives, NotValues exclude.
	Values, NotValues []string
}
