// Package grpcmesh is the gRPC side of a gatemesh.Chain and of a
// gatemesh.Outbound: the same gates decide, and the same codes come out.
//
// [Server.Options] installs three things together, so that none can be left
// out. A tap handle runs before a message is received and decoded: it makes
// the Call and asks the gates for as long as they can decide from memory. The
// unary and the stream interceptor ask the rest. Gates run in the same order
// and each exactly once, wherever that is.
//
// A refusal becomes a status with the Denial's code and detail and, as
// google.rpc.ErrorInfo and google.rpc.RetryInfo, its reason and how long to
// wait. Response fields and the request id become header metadata, except of a
// refusal in the tap handle, from where grpc-go sends the status alone.
//
// [Credentials] let a server of the mesh say goodbye to a peer that is not
// welcome any more, as net/http does, and take plain text while a fleet moves to
// mutual TLS.
//
// [Client.Options] put an Outbound around any connection. [Dial] makes one to a
// service of the mesh besides: mutual TLS pinned to the callee, and the
// endpoints of a pool. Read dial.go, then resolver.go, which says where the
// endpoints are, and balancer.go, which keeps a connection to each.
package grpcmesh
