// Package mtls knows who calls from inside: it verifies the workload at the
// other end of a mutual-TLS connection by its SPIFFE id, with no sidecar.
//
// A [Source] says who we are and whom we trust, and may change its mind at any
// time: [Files] follows PEM files, package spire an agent of the SPIFFE Workload
// API, and package devca is an authority in memory for development and tests.
// [Files.Update] changes which files those are while connections live. [New] makes a [TLS] of a Source and an [Authorizer],
// which says who may connect:
//
//	m := gatemesh.Must(mtls.New(mtls.Config{
//		Source:    source,
//		Authorize: gatemesh.Must(mtls.MemberOf("cluster.local")),
//	}))
//	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Peer: m.Peer}))
//	chain := gatemesh.Must(gatemesh.NewChain(entry, m.Layer()))
//	server := &http.Server{Handler: chain.Handler(mux), TLSConfig: m.ServerConfig()}
//
// [TLS.Transport] is the other side: connections that are good for one callee
// only. [Edge] is the front door, where callers have no SPIFFE id: it chooses
// certificates by name and follows their files.
//
// # What is verified, and when
//
// In every handshake, resumed ones included: the chain against the bundle of
// the peer's own trust domain and no other, the extended key usage, the rules
// for leaves of X509-SVID §5.2, exactly one URI SAN with a strict SPIFFE id,
// the validity, and the Authorizer. System roots are never used. Who fails
// this gets no byte through.
//
// For every call on a live connection: validity and trust, by [TLS.Peer], and
// the Authorizer, by the gate. On a stream that stays open, all of that once a
// minute. Who is refused loses the connection: HTTP/1.1 closes it, HTTP/2 and
// gRPC (with grpcmesh.Credentials) say GOAWAY. A connection on which nothing
// happens is not looked at: nobody is let in by it, and its next call is judged.
//
// # Step by step
//
// A fleet that speaks plain text moves one service at a time. [Config.Modes] of
// each are those of Istio's PeerAuthentication, which package manifest reads and
// [ResolveModes] applies. Behind [TLS.Listener], or grpcmesh.Credentials, one
// port takes both in PERMISSIVE; [Status] counts the calls in plain text, and
// once none come any more, STRICT is safe. See the example of package serve.
// [Status] also says when our own certificate ends.
package mtls
