package grpcmesh

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
)

// invoked is what came of an attempt of a unary call.
type invoked struct {
	reply any
	opts  []grpc.CallOption
	to    any // where the reply belongs, if reply is a place of its own
	fill  []func()
	err   error
}

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

// apart returns places for the results of one of two attempts.
func apart(reply any, opts []grpc.CallOption) invoked {
	r := invoked{to: reply, reply: reply.(proto.Message).ProtoReflect().New().Interface(), opts: make([]grpc.CallOption, len(opts))}
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
	return r
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
