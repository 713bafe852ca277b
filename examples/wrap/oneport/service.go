// Package oneport is a service that answers HTTP and gRPC on one port, as the
// documentation of [grpc.Server.ServeHTTP] shows it, before and after.
//
// The chain stands in front of both, over HTTP: its gates run once for each
// call, and refusals reach gRPC clients as gRPC statuses. The grpc.Server has
// no options of package grpcmesh, with which the gates would run twice.
//
// The gRPC half is served by net/http and not by grpc-go. Compared with a
// grpc.Server on a listener of its own behind grpcmesh.Server.Options:
//
//	kept                                          test
//	unary calls, streams of all three kinds       TestKept
//	metadata, header and trailer, binary too      TestKept
//	status with message and details               TestKept
//	deadlines, cancellation                       TestKept, TestCancel
//	large and compressed messages, their limits   TestKept
//	the server's interceptors, unknown methods    TestKept
//	Call in the context of the handlers           TestRefusals
//	refusals: code, message, Retry-After          TestRefusals
//	the code in our logs and spans                TestOutcome
//	http.Server.Shutdown lets running calls end   TestShutdown
//
//	lost                                          test
//	reason and RetryInfo in statuses of refusals  TestLostReason
//	streams whose consent ends hear of it         TestLostConsent
//	a panic of a handler is the call's alone      TestLostPanic
//	GracefulStop lets running calls end           TestLostGracefulStop
//	keepalive, MaxConnectionAge                   TestLostConnectionAge
//	MaxConcurrentStreams of the grpc.Server       TestLostConcurrency
//	a stats handler sees connections              TestLostConnections
//	streams longer than http.Server.WriteTimeout  TestLostWriteTimeout
//
// What is lost of refusals is comfort. What is lost of panics and of consents
// is not: take two listeners, grpcmesh on one of them, unless the
// port is given, the calls are short, and a recovering interceptor stands in
// the grpc.Server.
package oneport

import (
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/grpc"
)

// either is the switch between the two, as people write it.
func either(rpc *grpc.Server, web http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			rpc.ServeHTTP(w, r)
		} else {
			web.ServeHTTP(w, r)
		}
	})
}

// routes is the HTTP half.
func routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items/{id}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "item %s over %s", r.PathValue("id"), r.Proto)
	})
	return mux
}
