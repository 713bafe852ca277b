// Package routing says where a call goes: a route table with the matching
// rules of the Kubernetes Gateway API, and the reverse proxy that takes calls
// to their upstreams.
//
// The two are halves of one [Router]. Its gate stands early in a
// [gatemesh.Chain], so that limits and policies can differ by route; it only
// looks, and stamps Call.Route and, where there is no choice, Call.Backend and
// Call.Destination. Its [Router.Proxy] is the handler behind the chain: by then
// another layer may have chosen or changed the destination, such as a canary
// split.
//
// Calls are matched twice. [Config.Routes] are those of the front door: of the
// listener that a call belongs to, the most specific match wins, see
// [Router.Admit]. [Config.Services] are what is said about calls to a service
// whichever route they came by, as in an Istio VirtualService: the first match
// wins, see [Router.RouteTo]. Both compare hosts, paths, methods, header fields,
// parameters of the query and more with the same words, and find what they look
// for in a time that does not grow with the table, without allocating. The
// zero Config routes nothing: a call that nothing matches is refused, and what
// could never match is an error of [New].
//
//	chain := gatemesh.Must(gatemesh.NewChain(entry, router.Layer(), keys.Layer(), rules.Layer(), split.Layer()))
//	http.ListenAndServe(":8080", chain.Handler(router.Proxy()))
//
// What is judged is what is forwarded: the proxy sends method, host, path and
// query of the Call byte for byte, and refuses a request that some middleware
// has changed since. Identity is put on the request after the hop-by-hop
// fields were removed, so that no Connection field can take it off again.
//
// [Router.Update] swaps the whole table at once. A call that was matched by
// one version is dispatched by that version.
package routing
