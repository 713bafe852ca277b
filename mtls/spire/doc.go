// Package spire has workload certificates from an agent that serves the SPIFFE
// Workload API, such as SPIRE's:
//
//	source, err := spire.New(ctx, spire.Config{}) // SPIFFE_ENDPOINT_SOCKET
//	defer source.Close()
//	m := gatemesh.Must(mtls.New(mtls.Config{
//		Source:    source,
//		Authorize: gatemesh.Must(mtls.MemberOf("example.org")),
//	}))
//
// The agent sends new certificates and bundles, those of federated trust
// domains included, as soon as there are some; nothing is written to disk. The
// package compiles grpc in, which is why it is not part of package mtls.
package spire
