package grpcmesh

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/gatemesh-go/gatemesh"
)

// invoked is an attempt of a unary call and what came of it.
type invoked struct {
	method string
	req    any
	reply  any
	cc     *grpc.ClientConn
	invoke grpc.UnaryInvoker
	opts   []grpc.CallOption
	md     metadata.MD
	to     any // where the reply belongs, if reply is a place of its own
	fill   []func()
	err    error
}

// racer makes the attempts of a Client.
type racer Client

// Prepare makes the metadata, and places for the results if there can be two.
func (*racer) Prepare(a *gatemesh.Exchange, lane gatemesh.RaceLane, r invoked) (invoked, error) {
	r.md = a.OutgoingHeader()
	if lane != gatemesh.Alone {
		r.apart()
	}
	return r, nil
}

// Send makes an attempt.
func (*racer) Send(ctx context.Context, r invoked) invoked {
	r.err = r.invoke(metadata.NewOutgoingContext(ctx, r.md), r.method, r.req, r.reply, r.cc, r.opts...)
	return r
}

// Judge describes an attempt.
func (*racer) Judge(a *gatemesh.Exchange, r invoked) gatemesh.Attempt { return attemptOf(a, r.err) }

// Drop has nothing to do: what nobody wants is garbage.
func (*racer) Drop(invoked) {}

// separable reports whether two attempts of a call can run at the same time:
// each needs a place of its own for what grpc-go writes.
func separable(reply any, opts []grpc.CallOption) bool {
	if _, ok := reply.(proto.Message); !ok {
		return false
	}
	for _, o := range opts {
		switch o.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.EmptyCallOption, grpc.StaticMethodCallOption,
			grpc.FailFastCallOption, grpc.MaxRecvMsgSizeCallOption, grpc.MaxSendMsgSizeCallOption,
			grpc.CompressorCallOption, grpc.ContentSubtypeCallOption, grpc.PerRPCCredsCallOption:
		default: // it may be told of an end that is none
			return false
		}
	}
	return true
}

// apart makes places for the results of one of two attempts.
func (r *invoked) apart() {
	opts := r.opts
	r.to, r.reply, r.opts = r.reply, r.reply.(proto.Message).ProtoReflect().New().Interface(), make([]grpc.CallOption, len(opts))
	for i, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			md := new(metadata.MD)
			r.opts[i] = grpc.HeaderCallOption{HeaderAddr: md}
			r.fill = append(r.fill, func() { *o.HeaderAddr = *md })
		case grpc.TrailerCallOption:
			md := new(metadata.MD)
			r.opts[i] = grpc.TrailerCallOption{TrailerAddr: md}
			r.fill = append(r.fill, func() { *o.TrailerAddr = *md })
		case grpc.PeerCallOption:
			p := new(peer.Peer)
			r.opts[i] = grpc.PeerCallOption{PeerAddr: p}
			r.fill = append(r.fill, func() { *o.PeerAddr = *p })
		default:
			r.opts[i] = o
		}
	}
}

// deliver puts what an attempt brought where the caller looks for it.
func (r *invoked) deliver() {
	if r.to == nil {
		return
	}
	if r.err == nil {
		to := r.to.(proto.Message)
		proto.Reset(to)
		proto.Merge(to, r.reply.(proto.Message))
	}
	for _, f := range r.fill {
		f()
	}
}
