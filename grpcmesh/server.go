package grpcmesh

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/gatemesh-go/gatemesh"
)

// Server puts a Chain around a grpc.Server. It holds no state of its own.
type Server struct{ chain *gatemesh.Chain }

// NewServer returns the gRPC form of chain. A chain with HTTP middleware has
// none, and to leave a layer out could mean to leave a check out: that is an
// error which names the layers.
func NewServer(chain *gatemesh.Chain) (*Server, error) {
	if chain == nil {
		return nil, errors.New("grpcmesh: chain is required")
	}
	if err := chain.GatesOnly(); err != nil {
		return nil, err
	}
	return &Server{chain}, nil
}

// Options returns the server options that install the tap handle and both
// interceptors. A grpc.Server takes one tap handle only; if the application
// has its own, it uses [Server.Interceptors].
func (s *Server) Options() []grpc.ServerOption {
	unary, stream := s.Interceptors()
	return []grpc.ServerOption{
		grpc.InTapHandle(s.tap), grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream),
	}
}

// Interceptors returns both interceptors, for servers that are put together by
// hand. Both must be installed, and before others that act on the caller.
func (s *Server) Interceptors() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	return s.unary, s.stream
}

type tapKey struct{}

// tapped is a call on its way from the tap handle to an interceptor. It may
// never get there: the method may be unknown, the message malformed.
type tapped struct {
	server *Server
	x      *gatemesh.Exchange
	claim  func() bool // false if the stream ended first
}

// tap runs on the connection's reader goroutine: it must not wait.
func (s *Server) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	x, d := s.start(ctx, info.FullMethodName, info.Header)
	if d == nil {
		_, d = x.AdmitCached(x.Context())
	}
	if d != nil {
		x.Finish(gatemesh.Outcome{Code: gatemesh.Code(code(d))})
		farewell(ctx, d)
		return ctx, Status(d).Err()
	}
	t := &tapped{server: s, x: x}
	t.claim = context.AfterFunc(ctx, func() {
		d := gatemesh.AsDenial(ctx, ctx.Err())
		x.Finish(gatemesh.Outcome{Code: d.Code, Canceled: d.Code == gatemesh.Canceled})
	})
	return context.WithValue(withHeader(x), tapKey{}, t), nil
}

// withHeader returns the context of the call, with the metadata that Entry left.
func withHeader(x *gatemesh.Exchange) context.Context {
	if md, changed := x.Header(); changed {
		return metadata.NewIncomingContext(x.Context(), md)
	}
	return x.Context()
}

func (s *Server) start(ctx context.Context, method string, md metadata.MD) (*gatemesh.Exchange, *gatemesh.Denial) {
	in := gatemesh.Inbound{
		Protocol: gatemesh.GRPC, Method: "POST", Path: method, Header: md, LowerCase: true,
	}
	if a := md[":authority"]; len(a) > 0 {
		in.Authority = a[0]
	}
	if p, ok := peer.FromContext(ctx); ok {
		in.RemoteAddr, in.LocalAddr, in.TLS = addrPort(p.Addr), addrPort(p.LocalAddr), connectionState(p.AuthInfo)
	}
	x, d := s.chain.Start(ctx, in)
	if d == nil && x.Call().Path() != method {
		// grpc-go dispatches, and a proxy would forward, what was received.
		d = x.Deny(ctx, "entry", denyMethod)
	}
	return x, d
}

var denyMethod = gatemesh.Deny(gatemesh.InvalidArgument, "method_not_canonical", "The method is not in canonical form.")

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case nil:
		return netip.AddrPort{}
	case *connAddr:
		return addrPort(a.Addr)
	case *net.TCPAddr:
		return a.AddrPort()
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{} // a pipe or socket file
	}
	return ap
}

func connectionState(info credentials.AuthInfo) *tls.ConnectionState {
	if t, ok := info.(credentials.TLSInfo); ok {
		return &t.State
	}
	return nil
}

// begin takes the call over from the tap handle, or makes it if none ran.
func (s *Server) begin(ctx context.Context, method string) (context.Context, *gatemesh.Exchange, *gatemesh.Denial) {
	if t, ok := ctx.Value(tapKey{}).(*tapped); ok && t.server == s {
		if !t.claim() {
			return ctx, t.x, gatemesh.AsDenial(ctx, ctx.Err())
		}
		ctx, d := t.x.Admit(ctx)
		return ctx, t.x, d
	}
	md, _ := metadata.FromIncomingContext(ctx)
	x, d := s.start(ctx, method, md)
	ctx = withHeader(x)
	if d == nil {
		ctx, d = x.Admit(ctx)
	}
	return ctx, x, d
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	ctx, x, d := s.begin(ctx, info.FullMethod)
	defer func() { err = end(ctx, x, recover(), err) }()
	if err := sendFields(ctx, x, d, func(md metadata.MD) error { return grpc.SetHeader(ctx, md) }); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	ctx, x, d := s.begin(ss.Context(), info.FullMethod)
	defer func() { err = end(ctx, x, recover(), err) }()
	if err := sendFields(ctx, x, d, ss.SetHeader); err != nil {
		return err
	}
	w := &serverStream{ServerStream: ss, ctx: ctx, x: x}
	if x.Bounded() {
		defer w.watch()()
	}
	err = next(srv, w)
	if d := w.ended.Load(); d != nil {
		return Status(d).Err() // half a stream must not look like a whole one, nor like the client's fault
	}
	return err
}

// sendFields sets the response fields and returns the status of d, if any.
func sendFields(ctx context.Context, x *gatemesh.Exchange, d *gatemesh.Denial, set func(metadata.MD) error) error {
	md := metadata.MD{strings.ToLower(gatemesh.RequestIDHeader): {x.Call().RequestID()}}
	for _, f := range x.Fields() {
		// Malformed in HTTP/2 (RFC 9113 §8.2.2). Net/http, if that is what we are
		// served by, does not send it, but says goodbye.
		if !strings.EqualFold(f.Name, "Connection") || d != nil && overHTTP(ctx) {
			md.Append(f.Name, f.Value)
		}
	}
	err := set(md)
	switch {
	case d != nil:
		farewell(ctx, d)
		return Status(d).Err()
	case err != nil:
		return Status(gatemesh.AsDenial(ctx, err)).Err()
	}
	return nil
}

// end is deferred around the handler: it turns panics and Denials into
// statuses and tells the gates how the call ended.
func end(ctx context.Context, x *gatemesh.Exchange, panicked any, err error) error {
	if panicked != nil {
		err = x.Panicked(ctx, panicked)
	}
	var d *gatemesh.Denial
	if errors.As(err, &d) {
		err = Status(d).Err()
	} else if _, ok := status.FromError(err); !ok {
		err = status.FromContextError(err).Err() // as grpc-go does after us
	}
	o := gatemesh.Outcome{Code: gatemesh.Code(status.Code(err)), Panicked: panicked != nil}
	if o.Canceled = errors.Is(ctx.Err(), context.Canceled); o.Canceled {
		o.Code = gatemesh.Canceled
	}
	x.Finish(o)
	return err
}

// code returns the gRPC code of d. The numbers are the same.
func code(d *gatemesh.Denial) codes.Code {
	if d.Code == gatemesh.OK {
		return codes.Internal
	}
	return codes.Code(d.Code)
}
