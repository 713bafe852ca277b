// Headless shows the path with the fewest hops: a client that finds the pods of
// a headless service in the DNS, balances over them by itself and speaks mutual
// TLS to each, over HTTP and over gRPC, with no proxy on the way.
//
// A DNS server, the pods and their clients run in this process, on real sockets
// of loopback. The service starts with two pods, is scaled up to four, loses one
// without a goodbye and another with one, and is scaled up again, while every
// client makes calls at a steady rate:
//
//   - pooled: an http.Client on routing/pool, with deadline, retries and breaker
//   - grpc: grpcmesh.Dial on the same parts
//   - plain: an http.Client that dials the same name, as it comes with Go
//   - sidecar: an http.Client that calls a reverse proxy on loopback, which
//     calls the pods as pooled does. It has all that pooled has, and costs a hop
//
// The first two must lose no call, all of which may be made twice without harm,
// and must reach a new pod within 10 s of its appearing in the DNS. The other two
// are there to compare with. A pod takes 1 to 5 ms for a call; what is more is
// the cost of the path, and depends on the machine.
package main
