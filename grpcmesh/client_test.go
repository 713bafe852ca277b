package grpcmesh_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

func newClient(j *journal, layers ...gatemesh.Layer) *grpcmesh.Client {
	return gatemesh.Must(grpcmesh.NewClient(gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:     gatemesh.MeshHosts(map[string]gatemesh.Destination{"callee": {Service: "callee"}}),
		Layers:   layers,
		Observer: j,
	}))))
}

// received is a server that hands over the metadata of each call.
func received(t *testing.T, dial ...grpc.DialOption) (*grpc.ClientConn, chan metadata.MD) {
	t.Helper()
	got := make(chan metadata.MD, 10)
	return connect(t, func(ctx context.Context, _ grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(ctx)
		got <- md
		return nil
	}, nil, dial...), got
}

func stamps(value string) gatemesh.Layer {
	return gatemesh.Layer{Name: "identity", Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		if c.Destination().Service != "callee" || !c.Outbound() || c.Protocol() != gatemesh.GRPC {
			return gatemesh.Admission{}, errors.New("not what was asked for")
		}
		return gatemesh.Admission{Header: []gatemesh.Field{{Name: gatemesh.IdentityHeader, Value: value}}}, nil
	})}
}

// TestLC03_ForwardedMetadata: a handler that copies what it received into its
// own call takes neither an identity nor the caller's credential along.
func TestLC03_ForwardedMetadata(t *testing.T) {
	t.Parallel()
	conn, got := received(t, newClient(newJournal(), stamps("ours")).Options()...)
	front := connect(t, func(ctx context.Context, _ grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(ctx)
		md = md.Copy()
		delete(md, ":authority")
		delete(md, "content-type")
		delete(md, "user-agent")
		md.Append("x-gatemesh-identity", "evil")
		md.Append("x_gatemesh_identity", "evil")
		md.Append("x-gatemesh-identity-bin", "evil")
		md.Append("x-request-id", "evil")
		md.Append("x-own", "kept")
		for _, method := range []string{checkMethod, watchMethod} {
			if _, err := call(metadata.NewOutgoingContext(ctx, md), conn, method); err != nil {
				return err
			}
		}
		return nil
	}, newServer(gatemesh.EntryConfig{}, gatemesh.Layer{Name: "auth", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Consumed: []string{"Authorization"}}, nil
	})}).Options())

	header, err := call(t.Context(), front, checkMethod, "authorization", "Bearer token", "x-gatemesh-identity", "evil")
	require.NoError(t, err)
	for range 2 {
		md := <-got
		assert.Equal(t, []string{"ours"}, md["x-gatemesh-identity"])
		assert.Equal(t, header["x-request-id"], md["x-request-id"], "one id through the call tree")
		assert.Len(t, md["x-request-id"], 1)
		assert.Equal(t, []string{"kept"}, md["x-own"])
		for _, name := range []string{"x_gatemesh_identity", "x-gatemesh-identity-bin", "authorization"} {
			assert.Empty(t, md[name], name)
		}
	}
}

func TestClientLeavesForeignCallsAlone(t *testing.T) {
	t.Parallel()
	j := newJournal()
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: gatemesh.MeshHosts(nil), Layers: []gatemesh.Layer{stamps("ours")}, Observer: j}))
	conn, got := received(t, gatemesh.Must(grpcmesh.NewClient(out)).Options()...)
	for _, method := range methods {
		_, err := call(t.Context(), conn, method, "x-own", "kept")
		if method != sendMethod {
			require.NoError(t, err)
		}
		md := <-got
		assert.Empty(t, md["x-gatemesh-identity"])
		assert.Empty(t, md["x-request-id"])
		assert.Equal(t, []string{"kept"}, md["x-own"])
	}
	assert.Empty(t, j.outcomes)
}

func TestClientRefuses(t *testing.T) {
	t.Parallel()
	for _, d := range []*gatemesh.Denial{gatemesh.Deny(gatemesh.Unavailable, "breaker_open", "The callee is resting."), {}} {
		for _, method := range methods {
			j := newJournal()
			layer := gatemesh.Layer{Name: "breaker", Gate: plainGate{j: j, name: "b", err: d}}
			conn, got := received(t, newClient(j, append(gates(j, "u"), layer)...).Options()...)
			_, err := call(t.Context(), conn, method)
			want := codes.Code(d.Code)
			if want == codes.OK {
				want = codes.Internal
			}
			assert.Equal(t, want, status.Code(err), method)
			assert.Empty(t, got)
			o := j.outcome(t)
			assert.EqualValues(t, want, o.Code)
			assert.False(t, o.Reached)
			assert.Equal(t, "u b -u", j.read())
		}
	}
}

// TestClientFinishExactlyOnce covers the four ways in which grpc lets a stream
// end, and those of a unary call.
// Metadata that cannot be sent is not a failure of the callee.
func TestMetadataThatCannotBeSent(t *testing.T) {
	t.Parallel()
	j := newJournal()
	conn := connect(t, echo, nil, newClient(j, gates(j, "u")...).Options()...)
	err := conn.Invoke(metadata.AppendToOutgoingContext(t.Context(), "x-user", "Zoë"), "/s/M", &emptypb.Empty{}, &emptypb.Empty{})
	require.Equal(t, codes.Internal, status.Code(err))
	o := j.outcome(t)
	assert.True(t, o.Canceled)
	assert.False(t, o.Reached)
}

func TestClientFinishExactlyOnce(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T, ctx context.Context, conn *grpc.ClientConn) grpc.ClientStream {
		t.Helper()
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, bidiMethod)
		require.NoError(t, err)
		require.NoError(t, s.SendMsg(&message{}))
		require.NoError(t, s.RecvMsg(&message{}))
		return s
	}
	for _, test := range []struct {
		name string
		run  func(t *testing.T, conn *grpc.ClientConn)
		want gatemesh.Outcome
	}{
		{"unary", func(t *testing.T, conn *grpc.ClientConn) {
			_, err := call(t.Context(), conn, checkMethod)
			require.NoError(t, err)
		}, gatemesh.Outcome{Reached: true}},
		{"unary, error", func(t *testing.T, conn *grpc.ClientConn) {
			_, err := call(t.Context(), conn, "/grpc.health.v1.Health/None")
			require.Error(t, err)
		}, gatemesh.Outcome{Code: gatemesh.Unimplemented, Reached: true}},
		{"unary, canceled", func(t *testing.T, conn *grpc.ClientConn) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := call(ctx, conn, checkMethod)
			require.Error(t, err)
		}, gatemesh.Outcome{Code: gatemesh.Canceled, Canceled: true}},
		{"unary, panic", func(t *testing.T, conn *grpc.ClientConn) {
			assert.Panics(t, func() { _ = conn.Invoke(t.Context(), checkMethod, 1, nil, grpc.ForceCodecV2(rawCodec{})) })
		}, gatemesh.Outcome{Code: gatemesh.Internal, Reached: true}},
		{"read to the end", func(t *testing.T, conn *grpc.ClientConn) {
			s := open(t, t.Context(), conn)
			require.NoError(t, s.CloseSend())
			require.ErrorIs(t, s.RecvMsg(&message{}), io.EOF)
			require.Error(t, s.RecvMsg(&message{}))
		}, gatemesh.Outcome{Reached: true}},
		{"one answer", func(t *testing.T, conn *grpc.ClientConn) {
			s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, sendMethod)
			require.NoError(t, err)
			require.NoError(t, s.SendMsg(&message{}))
			require.NoError(t, s.CloseSend())
			require.NoError(t, s.RecvMsg(&message{}))
		}, gatemesh.Outcome{Reached: true}},
		{"context canceled", func(t *testing.T, conn *grpc.ClientConn) {
			ctx, cancel := context.WithCancel(t.Context())
			s := open(t, ctx, conn)
			cancel()
			<-s.Context().Done()
		}, gatemesh.Outcome{Code: gatemesh.Canceled, Canceled: true, Reached: true}},
		{"connection closed", func(t *testing.T, conn *grpc.ClientConn) {
			_ = open(t, t.Context(), conn)
			_ = conn.Close()
		}, gatemesh.Outcome{Code: gatemesh.Canceled}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			j := newJournal()
			conn := connect(t, echo, nil, newClient(j, gates(j, "ub")...).Options()...)
			test.run(t, conn)
			o := j.outcome(t)
			assert.Equal(t, "u b -b -u", j.read())
			o.Duration = 0
			if test.name == "connection closed" {
				o.Reached = false // nobody can say
			}
			test.want.Attempts = 1
			assert.Equal(t, test.want, o)
		})
	}
}

// TestClientAnswered: gates learn when the callee begins to answer, once, and
// not from a stream that it refuses.
func TestClientAnswered(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		handle func(context.Context, grpc.ServerStream) error
		run    func(*testing.T, *grpc.ClientConn)
		want   []gatemesh.Code
	}{
		{"unary", ok, func(t *testing.T, conn *grpc.ClientConn) { _, _ = call(t.Context(), conn, checkMethod) }, []gatemesh.Code{gatemesh.OK}},
		{"unary, error", func(context.Context, grpc.ServerStream) error { return status.Error(codes.NotFound, "") },
			func(t *testing.T, conn *grpc.ClientConn) { _, _ = call(t.Context(), conn, checkMethod) }, []gatemesh.Code{gatemesh.NotFound}},
		{"unary, unavailable", func(context.Context, grpc.ServerStream) error { return status.Error(codes.Unavailable, "") },
			func(t *testing.T, conn *grpc.ClientConn) { _, _ = call(t.Context(), conn, checkMethod) }, nil},
		{"stream, error", func(context.Context, grpc.ServerStream) error { return status.Error(codes.Unavailable, "") },
			func(t *testing.T, conn *grpc.ClientConn) { _, _ = call(t.Context(), conn, bidiMethod) }, nil},
		{"stream", echo, func(t *testing.T, conn *grpc.ClientConn) {
			s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, bidiMethod)
			require.NoError(t, err)
			for range 3 {
				require.NoError(t, s.SendMsg(&message{}))
				require.NoError(t, s.RecvMsg(&message{}))
			}
		}, []gatemesh.Code{gatemesh.OK}},
		{"header", func(ctx context.Context, s grpc.ServerStream) error {
			_ = s.SendHeader(metadata.MD{})
			<-ctx.Done()
			return nil
		}, func(t *testing.T, conn *grpc.ClientConn) {
			s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, bidiMethod)
			require.NoError(t, err)
			_, err = s.Header()
			require.NoError(t, err)
		}, []gatemesh.Code{gatemesh.OK}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := &answers{}
			layer := gatemesh.Layer{Name: "a", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
				return gatemesh.Admission{Finish: a}, nil
			})}
			conn := connect(t, test.handle, nil, newClient(newJournal(), layer).Options()...)
			test.run(t, conn)
			a.mu.Lock()
			defer a.mu.Unlock()
			assert.Equal(t, test.want, a.codes)
		})
	}
}

type answers struct {
	mu    sync.Mutex
	codes []gatemesh.Code
}

func (a *answers) Answered(_ *gatemesh.Call, at gatemesh.Attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.codes = append(a.codes, at.Code)
}

func (a *answers) Finish(*gatemesh.Call, gatemesh.Outcome) {}

// TestClientLetsGRPCRetry: a stream on a connection that the callee is closing
// is tried again by grpc itself, which it does for as long as nobody asks for
// the context of the attempt.
func TestClientLetsGRPCRetry(t *testing.T) {
	t.Parallel()
	const config = `{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]}`
	j := newJournal()
	var tries atomic.Int32
	conn := connect(t, func(ctx context.Context, s grpc.ServerStream) error {
		if tries.Add(1) < 3 {
			return status.Error(codes.Unavailable, "again")
		}
		return sends(1)(ctx, s)
	}, nil, append(newClient(j, gates(j, "u")...).Options(), grpc.WithDefaultServiceConfig(config))...)
	_, err := call(t.Context(), conn, watchMethod)
	require.NoError(t, err)
	assert.EqualValues(t, 3, tries.Load())
	assert.Equal(t, gatemesh.OK, j.outcome(t).Code)
	assert.Equal(t, "u -u", j.read())
}

// TestConcurrentCalls is for the race detector: calls of all kinds through one
// server and one client, some of which leave early.
func TestConcurrentCalls(t *testing.T) {
	t.Parallel()
	var open, ended atomic.Int32
	count := gatemesh.Layer{Name: "count", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		open.Add(1)
		return gatemesh.Admission{Until: time.Now(), Finish: finishFunc(func() { ended.Add(1) }), Header: []gatemesh.Field{{Name: "A", Value: "b"}}}, nil
	})}
	renew := gatemesh.Layer{Name: "renew", Gate: minute{new(atomic.Int32)}}
	renew.Gate.(minute).renewals.Store(1 << 30)
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"callee": {}}), Layers: []gatemesh.Layer{count},
	}))
	conn := connectTo(t, bufconn.Listen(1<<16), echo, newServer(gatemesh.EntryConfig{}, count, renew).Options(), gatemesh.Must(grpcmesh.NewClient(out)).Options()...)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 20 {
				ctx, cancel := context.WithCancel(t.Context())
				if k%3 == 0 {
					go cancel()
				}
				_, _ = call(ctx, conn, methods[(i+k)%len(methods)])
				cancel()
			}
		})
	}
	wg.Wait()
	_ = conn.Close()
	require.Eventually(t, func() bool { return open.Load() == ended.Load() }, time.Minute, time.Millisecond)
}

type finishFunc func()

func (f finishFunc) Finish(*gatemesh.Call, gatemesh.Outcome) { f() }
