package grpcmesh

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
)

// Client puts an Outbound around the calls of a grpc.ClientConn. Which
// destination a connection leads to is asked of OutboundConfig.Mesh with the
// endpoint of its target, such as "payment-service:50051".
type Client struct{ out *gatemesh.Outbound }

// NewClient returns the gRPC form of out.
func NewClient(out *gatemesh.Outbound) (*Client, error) {
	if out == nil {
		return nil, errors.New("grpcmesh: outbound is required")
	}
	return &Client{out}, nil
}

// Options returns the dial options that install the unary and the stream
// interceptor. They run closest to the wire, behind interceptors of the
// application that were installed before.
func (c *Client) Options() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(c.unary), grpc.WithChainStreamInterceptor(c.stream)}
}

// start makes the outbound call. x is nil if the connection leads elsewhere.
func (c *Client) start(ctx context.Context, method string, cc *grpc.ClientConn) (context.Context, *gatemesh.Exchange, error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	target := cc.CanonicalTarget()
	x, d := c.out.Start(ctx, gatemesh.OutboundRequest{
		Protocol: gatemesh.GRPC, Method: "POST", Path: method, Header: md, LowerCase: true,
		Authority: target[strings.LastIndexByte(target, '/')+1:],
	})
	if x == nil {
		return ctx, nil, nil
	}
	if d != nil {
		x.Finish(gatemesh.Outcome{Code: gatemesh.Code(code(d))})
		return ctx, nil, Status(d).Err()
	}
	return metadata.NewOutgoingContext(x.Context(), x.OutgoingHeader()), x, nil
}

func (c *Client) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	ctx, x, err := c.start(ctx, method, cc)
	if err != nil {
		return err
	}
	if x == nil {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	err = errAborted // what a panic leaves behind
	defer func() { finish(ctx, x, err) }()
	return invoke(ctx, method, req, reply, cc, opts...)
}

var errAborted = status.Error(codes.Internal, "aborted by a panic")

func (c *Client) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, x, err := c.start(ctx, method, cc)
	if err != nil {
		return nil, err
	}
	if x == nil {
		return streamer(ctx, desc, cc, method, opts...)
	}
	// grpc knows of every way a stream can end. To watch its Context instead
	// would commit the first attempt and forbid grpc to retry on its own.
	opts = append(slices.Clip(opts), grpc.OnFinish(func(err error) { finish(ctx, x, err) }))
	s, err := streamer(ctx, desc, cc, method, opts...)
	if err != nil {
		finish(ctx, x, err) // an interceptor between us and grpc may have refused
	}
	return s, err
}

// finish tells the gates how the call ended. Any status that is not made up by
// this side says that the callee answered.
func finish(ctx context.Context, x *gatemesh.Exchange, err error) {
	o := gatemesh.Outcome{Code: gatemesh.Code(status.Code(err))}
	if o.Canceled = err != nil && errors.Is(ctx.Err(), context.Canceled); o.Canceled {
		o.Code = gatemesh.Canceled
	}
	if o.Code != gatemesh.Unavailable && !o.Canceled && o.Code != gatemesh.DeadlineExceeded {
		x.Answered()
	}
	x.Finish(o)
}
