package grpcmesh

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing/pool"
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

// start makes the outbound call and its first attempt. x is nil if the
// connection leads elsewhere; then the call is made with the returned context.
func (c *Client) start(ctx context.Context, method string, cc *grpc.ClientConn, once, lone bool) (_ context.Context, x, a *gatemesh.Exchange, err error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	target := cc.CanonicalTarget()
	x, d := c.out.Start(ctx, gatemesh.OutboundRequest{
		Protocol: gatemesh.GRPC, Method: "POST", Path: method, Header: md, LowerCase: true, Once: once, Lone: lone,
		Authority: target[strings.LastIndexByte(target, '/')+1:],
	})
	if x == nil {
		if without, changed := gatemesh.ForeignHeader(ctx, md); changed {
			ctx = metadata.NewOutgoingContext(ctx, without)
		}
		return ctx, nil, nil, nil
	}
	a = x
	if d == nil {
		a, d = x.Attempt()
	}
	if d != nil {
		o := gatemesh.Outcome{Code: gatemesh.Code(code(d))}
		a.Finish(o)
		x.Finish(o)
		return ctx, nil, nil, Status(d).Err()
	}
	return ctx, x, a, nil
}

// outgoing returns the context of the attempt a, with its metadata.
func outgoing(a *gatemesh.Exchange) context.Context {
	return metadata.NewOutgoingContext(a.Context(), a.OutgoingHeader())
}

func (c *Client) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	ctx, x, a, err := c.start(ctx, method, cc, false, !separable(reply, opts))
	if err != nil {
		return err
	}
	if x == nil {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	err = errAborted // what a panic leaves behind
	defer func() { finish(x, a, err) }()
	first := invoked{method: method, req: req, reply: reply, cc: cc, invoke: invoke, opts: opts}
	for {
		won, at, r, _ := gatemesh.Race[invoked]((*racer)(c), x, a, first) // Prepare cannot fail
		a = won
		next := x.Again(a, at)
		if next == nil {
			r.deliver()
			return r.err
		}
		a = next
	}
}

var errAborted = status.Error(codes.Internal, "aborted by a panic")

func (c *Client) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, x, a, err := c.start(ctx, method, cc, true, true)
	if err != nil {
		return nil, err
	}
	if x == nil {
		return streamer(ctx, desc, cc, method, opts...)
	}
	// grpc knows of every way a stream can end. To watch its Context instead
	// would commit the first attempt and forbid grpc to retry on its own.
	opts = append(slices.Clip(opts), grpc.OnFinish(func(err error) { finish(x, a, err) }))
	s, err := streamer(outgoing(a), desc, cc, method, opts...)
	if err != nil {
		finish(x, a, err) // an interceptor between us and grpc may have refused
		return s, err
	}
	if a.Pending() || x.Pending() {
		s = &watchedStream{ClientStream: s, x: x, a: a}
	}
	return s, nil
}

// watchedStream tells the gates when the callee begins to answer.
type watchedStream struct {
	grpc.ClientStream
	x, a  *gatemesh.Exchange
	begun atomic.Bool
}

func (s *watchedStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	s.answered(err == nil && md != nil)
	return md, err
}

func (s *watchedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	s.answered(err == nil)
	return err
}

func (s *watchedStream) answered(yes bool) {
	if yes && s.begun.CompareAndSwap(false, true) {
		at := gatemesh.Attempt{Outcome: gatemesh.Outcome{Reached: true}}
		s.a.Answered(at)
		s.x.Answered(at)
	}
}

// attemptOf describes an attempt that ended. Any status that is not made up by
// this side says that the callee answered.
func attemptOf(a *gatemesh.Exchange, err error) gatemesh.Attempt {
	at := gatemesh.Attempt{Err: err, Replayable: true}
	o := &at.Outcome
	if err != nil {
		at.Header = wishes(err)
		if st := status.Convert(err); st.Code() == codes.Unavailable && st.Message() == errNoEndpoint.Error() {
			err = pool.ErrNoEndpoint // of which grpc has kept the text
		}
		*o = a.Failed(err)
		if !o.Canceled {
			o.Code = gatemesh.Code(status.Code(err))
		}
		if o.Code == gatemesh.Internal && !sendable(a.OutgoingHeader()) {
			o.Canceled, o.Code = true, gatemesh.Canceled // it never left, which is not the callee's fault
		}
	}
	if o.Code != gatemesh.Unavailable && !o.Canceled && o.Code != gatemesh.DeadlineExceeded || at.Header != nil {
		o.Reached = true
		a.Answered(at)
	}
	return at
}

// finish tells the gates of the call and of its last attempt how they ended.
func finish(x, a *gatemesh.Exchange, err error) {
	at := attemptOf(a, err)
	if at.Reached {
		x.Answered(at)
	}
	a.Finish(at.Outcome)
	x.Finish(at.Outcome)
}

// sendable reports whether grpc-go sends md: of other than binary metadata, it
// refuses values that are not printable ASCII. An application may have copied
// into it what somebody sent.
func sendable(md map[string][]string) bool {
	for name, values := range md {
		if strings.HasSuffix(name, "-bin") {
			continue
		}
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.:") != "" {
			return false
		}
		for _, v := range values {
			for i := range len(v) {
				if v[i] < ' ' || v[i] > '~' {
					return false
				}
			}
		}
	}
	return true
}
