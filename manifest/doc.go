// Package manifest reads Gateway API and Istio YAML and hands typed
// configuration to routing, its pools, auth, auth/policy and mtls.
//
//	set := gatemesh.Must(manifest.LoadDir("manifests"))
//	router := gatemesh.Must(routing.New(routing.Config{
//		Listeners: set.RouteListeners(nil), Routes: set.Routes(), Services: set.Services(self), Subsets: set.Subsets(), Upstreams: upstreams,
//	}))
//	split := gatemesh.Must(canary.New(canary.Config{Services: router}))
//	rules := gatemesh.Must(policy.New(policy.Config{Workload: self, Policies: set.Policies(), Unselected: policy.Deny}))
//	modes := gatemesh.Must(mtls.ResolveModes(mtls.ModesConfig{Workload: self, Policies: set.PeerAuthentications()}))
//
// # What is read
//
// Gateway, HTTPRoute, GRPCRoute and ReferenceGrant (gateway.networking.k8s.io),
// VirtualService and DestinationRule (networking.istio.io), AuthorizationPolicy,
// PeerAuthentication and RequestAuthentication (security.istio.io), and of a
// Namespace its labels. FIELDS.md beside this file lists every field, and for
// those that are not supported why.
//
// Whatever is not supported is an error with file, line and field, never
// ignored: an unknown field or kind, a value of another type, a field twice,
// null, an empty list, anchors and tags. So is a reference to something that
// is not there, and what loads but can have no effect or more effect than it
// says, such as a DENY policy without rules. Not read, because it changes
// nothing, are status, labels, the cluster's own metadata, and annotations but
// those of Istio, Kong and the Gateway API, which are refused.
//
// Which services there are, a folder does not say: a backend is any name that a
// service can have, and it is the route table that knows whether it is served.
//
// # Where one server differs from a cluster
//
// A server serves one Gateway, whose class does not matter. If a folder has
// several, [Set.For] says which; the routes of others are checked, and not
// served. The server terminates TLS with certificates from its own
// configuration; [Listener] tells the names of the Secrets that a Gateway has
// them in. A route that no listener serves is an error, because a file has no
// status to say so in. Hostnames of a route that its listeners do not serve are
// left out, as the Gateway API wants it, if there are others. A GRPCRoute and an
// HTTPRoute for one hostname of a listener are an error, too.
//
// A VirtualService applies wherever a client of the mesh calls its host, the
// gateway's upstream side included. In Istio an ingress gateway would need the
// VirtualService to name it. A rewrite of a prefix keeps whole segments whole.
//
// What a DestinationRule says about the endpoints of a service is for the pool
// that serves it, see [Set.TrafficPolicy]; a pool without outlierDetection has
// the pool's own defaults, where in Istio it would eject nobody. Where
// outlierDetection says less than everything, its errors and times are Istio's
// defaults, and its percentages the pool's. The interval is how far back rates
// of failures are counted; endpoints are judged at each attempt.
//
// A DestinationRule says also whether a service is reached over mutual TLS; see
// [TrafficPolicy.TLS]. A server that says nothing has it where it can, which is
// what ISTIO_MUTUAL says.
//
// Where Istio takes the older one of two PeerAuthentications for the same
// workloads, there is an error, as a file does not say which that is.
//
// A host of an Istio document that has no dots is a service of the document's
// own namespace. Others are written in full, as
// NAME.NAMESPACE.svc.cluster.local; Istio would take a name with some dots for
// one outside the cluster. The host of a VirtualService may be
// *.NAMESPACE.svc.cluster.local, which is every service there that has no
// VirtualService of its own.
//
// # Who calls, and who may
//
// A RequestAuthentication says which tokens are good, and nothing about who
// needs one: a call without a token passes it, with no principal, and an
// AuthorizationPolicy has to ask for one with requestPrincipals: ["*"]. A rule
// that does not ask is open to calls without a token; so is one that has
// notRequestPrincipals alone, because nobody is not one of those. A token that
// is there must be good, or the call is refused with 401, which is also what
// happens while the keys of its issuer cannot be had. An Authorization field
// with another scheme is refused, too, where Istio would ignore it.
//
// [Set.Authentication] makes a configuration for auth of it. Three things
// stricter than Istio: the algorithms never include those with shared secrets,
// a rule without audiences is an error unless the server names its own, and
// tokens need an expiry.
//
// # Following a folder
//
// A [Watcher] reads a folder again when it changes and hands the Set of it to a
// function, which makes all changes at once with [gatemesh.Apply].
package manifest
