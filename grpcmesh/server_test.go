package grpcmesh_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // so that its codec can be wrapped
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

var methods = []string{checkMethod, watchMethod, bidiMethod, sendMethod}

// handler answers with n messages of its own.
func sends(n int) func(context.Context, grpc.ServerStream) error {
	return func(_ context.Context, s grpc.ServerStream) error {
		for i := 0; s != nil && i < n; i++ {
			if err := s.SendMsg(&message{}); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestNewServer(t *testing.T) {
	t.Parallel()
	_, err := grpcmesh.NewServer(nil)
	assert.EqualError(t, err, "grpcmesh: chain is required")
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, gatemesh.Middleware("cors", func(h http.Handler) http.Handler { return h })))
	s, err := grpcmesh.NewServer(chain)
	assert.Nil(t, s)
	assert.EqualError(t, err, `gatemesh: chain: "cors" is HTTP middleware and has no gRPC form`)
	_, err = grpcmesh.NewClient(nil)
	assert.EqualError(t, err, "grpcmesh: outbound is required")
}

// TestGatesRunOnce mixes gates that the tap handle can ask with such as it
// cannot. Capital letters are asked there.
func TestGatesRunOnce(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"a":    "A handled -A",
		"ab":   "A B handled -B -A",
		"u":    "u handled -u",
		"aub":  "A u b handled -b -u -A",
		"ua":   "u a handled -a -u",
		"amb":  "A m b handled -b -m -A",
		"aumb": "A u m b handled -b -m -u -A",
	} {
		for _, method := range methods {
			t.Run(word+method, func(t *testing.T) {
				t.Parallel()
				j := newJournal()
				conn := connect(t, func(ctx context.Context, s grpc.ServerStream) error {
					j.note("handled")
					c := gatemesh.FromContext(ctx)
					assert.Equal(t, method, c.Path())
					assert.Equal(t, gatemesh.GRPC, c.Protocol())
					assert.Equal(t, "callee", c.Host())
					return sends(1)(ctx, s)
				}, newServer(gatemesh.EntryConfig{Observer: j}, gates(j, word)...).Options())
				_, err := call(t.Context(), conn, method)
				require.NoError(t, err)
				o := j.outcome(t)
				assert.Equal(t, want, j.read())
				assert.Equal(t, gatemesh.OK, o.Code)
				assert.False(t, o.Canceled)
			})
		}
	}
}

// TestInterceptorsWithoutTap: the same gates, all asked by the interceptor.
func TestInterceptorsWithoutTap(t *testing.T) {
	t.Parallel()
	for _, method := range methods {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			j := newJournal()
			unary, stream := newServer(gatemesh.EntryConfig{Observer: j}, gates(j, "aub")...).Interceptors()
			conn := connect(t, sends(1), []grpc.ServerOption{grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream)})
			_, err := call(t.Context(), conn, method, "x-gatemesh-identity", "evil")
			require.NoError(t, err)
			j.outcome(t)
			assert.Equal(t, "a u b -b -u -a", j.read())
		})
	}
}

// TestInterceptorsTwice fails closed: the second time, the call is not theirs
// to judge any more.
func TestInterceptorsTwice(t *testing.T) {
	t.Parallel()
	s := newServer(gatemesh.EntryConfig{})
	unary, stream := s.Interceptors()
	conn := connect(t, ok, append(s.Options(), grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)))
	for _, method := range methods {
		_, err := call(t.Context(), conn, method)
		assert.Equal(t, codes.Internal, status.Code(err), method)
	}
}

// countingCodec counts decoded messages.
type countingCodec struct {
	encoding.CodecV2
	decoded *atomic.Int32
}

func (c countingCodec) Unmarshal(data mem.BufferSlice, v any) error {
	c.decoded.Add(1)
	return c.CodecV2.Unmarshal(data, v)
}

// countingListener counts bytes that the server has read.
type countingListener struct {
	*bufconn.Listener
	read *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{conn, l.read}, nil
}

type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// TestRefusedBeforeDecoding: what can be refused from memory is refused before
// a message is read, let alone decoded.
func TestRefusedBeforeDecoding(t *testing.T) {
	t.Parallel()
	const huge = 16 << 20
	no := gatemesh.Deny(gatemesh.PermissionDenied, "no", "No.")
	for name, cached := range map[string]bool{"tap": true, "interceptor": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var read atomic.Int64
			var decoded, handled atomic.Int32
			j := newJournal()
			l := gatemesh.Layer{Name: "policy", Gate: cachedGate{plainGate: plainGate{j: j, name: "p", err: no}, cannot: !cached}}
			opts := append(newServer(gatemesh.EntryConfig{}, l).Options(), grpc.MaxRecvMsgSize(2*huge),
				grpc.ForceServerCodecV2(countingCodec{encoding.GetCodecV2("proto"), &decoded}))
			conn := connectTo(t, countingListener{bufconn.Listen(1 << 16), &read}, func(context.Context, grpc.ServerStream) error {
				handled.Add(1)
				return nil
			}, opts)
			m := &message{Service: strings.Repeat("x", huge)}
			err := conn.Invoke(t.Context(), checkMethod, m, &grpc_health_v1.HealthCheckResponse{})
			assert.Equal(t, codes.PermissionDenied, status.Code(err))
			assert.Zero(t, handled.Load())
			if cached {
				assert.Zero(t, decoded.Load())
				assert.Less(t, read.Load(), int64(1<<20))
			} else {
				assert.EqualValues(t, 1, decoded.Load(), "else this test proves nothing")
				assert.Greater(t, read.Load(), int64(huge))
			}
		})
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	for _, d := range []*gatemesh.Denial{
		gatemesh.Deny(gatemesh.Unauthenticated, "token_expired", "The token has expired.").WithField("WWW-Authenticate", "Bearer"),
		gatemesh.Deny(gatemesh.PermissionDenied, "no", "No.").WithField("Connection", "close").WithField("X-Count", "9"),
		gatemesh.Deny(gatemesh.ResourceExhausted, "slow", "Slow down – please.").WithRetryAfter(7 * time.Second).WithCause(errors.New("SECRET")),
		gatemesh.Deny(gatemesh.Unavailable, "away", "Later.").WithField("Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT"),
		gatemesh.Deny(gatemesh.InvalidArgument, "bad", "Bad.").WithField("retry-after", "-1"),
		{},
	} {
		for _, method := range methods {
			for name, cannot := range map[string]bool{"tap": false, "interceptor": true} {
				t.Run(d.Reason+method+" "+name, func(t *testing.T) {
					t.Parallel()
					j := newJournal()
					layer := gatemesh.Layer{Name: "x", Gate: cachedGate{plainGate: plainGate{j: j, name: "x", err: d}, cannot: cannot}}
					conn := connect(t, ok, newServer(gatemesh.EntryConfig{Observer: j}, append(gates(j, "a"), layer)...).Options())
					header, err := call(t.Context(), conn, method)
					st := status.Convert(err)
					code := codes.Code(d.Code)
					if d.Code == gatemesh.OK {
						code = codes.Internal // a Denial is no success
					}
					assert.Equal(t, code, st.Code())
					assert.Equal(t, d.Detail, st.Message())
					assert.NotContains(t, st.String(), "SECRET")
					var info *errdetails.ErrorInfo
					var retry *errdetails.RetryInfo
					for _, detail := range st.Details() {
						switch detail := detail.(type) {
						case *errdetails.ErrorInfo:
							info = detail
						case *errdetails.RetryInfo:
							retry = detail
						}
					}
					require.NotNil(t, info)
					assert.Equal(t, d.Reason, info.GetReason())
					assert.Equal(t, grpcmesh.Domain, info.GetDomain())
					assert.Equal(t, d.Reason == "slow", retry != nil)
					if retry != nil {
						assert.Equal(t, 7*time.Second, retry.GetRetryDelay().AsDuration())
					}
					if cannot { // the tap handle can send a status alone
						assert.Len(t, header["x-request-id"], 1)
						for _, f := range d.Header {
							if f.Name == "Connection" {
								assert.Empty(t, header.Get(f.Name), "malformed in HTTP/2")
								continue
							}
							assert.Equal(t, []string{f.Value}, header.Get(f.Name))
						}
					}
					o := j.outcome(t)
					assert.EqualValues(t, code, o.Code)
					assert.Equal(t, d, o.Denial)
				})
			}
		}
	}
}

func TestResponseFields(t *testing.T) {
	t.Parallel()
	j := newJournal()
	limit := func(name string) gatemesh.Layer {
		return gatemesh.Layer{Name: name, Gate: plainGate{j: j, name: name, adm: gatemesh.Admission{Header: []gatemesh.Field{{Name: "RateLimit", Value: name}}}}}
	}
	var id atomic.Value
	conn := connect(t, func(ctx context.Context, s grpc.ServerStream) error {
		id.Store(gatemesh.FromContext(ctx).RequestID())
		return sends(1)(ctx, s)
	}, newServer(gatemesh.EntryConfig{}, limit("client"), limit("consumer")).Options())
	for _, method := range methods {
		header, err := call(t.Context(), conn, method, "x-request-id", "mine")
		require.NoError(t, err)
		assert.Equal(t, []string{id.Load().(string)}, header["x-request-id"], method)
		assert.NotEqual(t, "mine", id.Load())
		assert.Equal(t, []string{"client", "consumer"}, header["ratelimit"])
	}
}

// TestID01_IdentityMetadata sends an identity in every spelling that gRPC lets
// through. The handler must see none, and the gate that verifies must see all.
func TestID01_IdentityMetadata(t *testing.T) {
	t.Parallel()
	for _, fields := range [][]string{
		{"x-gatemesh-identity", "evil"},
		{"X-Gatemesh-Identity", "evil"},
		{"x_gatemesh_identity", "evil"},
		{"x.gatemesh.identity", "evil"},
		{"x-gatemesh_identity", "evil"},
		{"x-gatemesh-identity", "a", "x-gatemesh-identity", "b"},
		{"x-gatemesh-identity", "a", "x_gatemesh_identity", "a"},
		{"x-gatemesh-identity-bin", "evil"},
		{"x_gatemesh_identity-bin", "evil"},
		{"x-gatemesh-anything", "evil"},
		{"x-forwarded-for", "6.6.6.6"},
		{"x-http-method-override", "DELETE"},
	} {
		for _, method := range methods {
			for _, tap := range []bool{true, false} {
				t.Run(strings.Join(fields, " ")+method, func(t *testing.T) {
					t.Parallel()
					j := newJournal()
					s := newServer(gatemesh.EntryConfig{}, gatemesh.Layer{Name: "verify", Gate: gatemesh.GateFunc(
						func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
							slot, reserved := c.Reserved(gatemesh.IdentityHeader)
							assert.True(t, reserved)
							want := 0
							for i := 0; i < len(fields); i += 2 {
								if len(fields[i]) == len(gatemesh.IdentityHeader) && strings.Contains(strings.ToLower(fields[i]), "identity") {
									want++
								}
							}
							assert.Equal(t, want, slot.Count)
							assert.Equal(t, want == 1, slot.Value == "evil")
							return gatemesh.Admission{}, nil
						})})
					opts := s.Options()
					if !tap {
						unary, stream := s.Interceptors()
						opts = []grpc.ServerOption{grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream)}
					}
					conn := connect(t, func(ctx context.Context, s grpc.ServerStream) error {
						md, _ := metadata.FromIncomingContext(ctx)
						if s != nil {
							md, _ = metadata.FromIncomingContext(s.Context())
						}
						for name := range md {
							assert.NotContains(t, name, "gatemesh")
							assert.NotContains(t, name, "forwarded")
							assert.NotContains(t, name, "override")
						}
						assert.Equal(t, []string{"kept"}, md["x-other"])
						j.note("handled")
						return nil
					}, opts)
					_, err := call(t.Context(), conn, method, append([]string{"x-other", "kept"}, fields...)...)
					if method != sendMethod { // which was not answered
						require.NoError(t, err)
					}
					assert.Equal(t, "handled", j.read())
				})
			}
		}
	}
}

func TestAZ09_Paths(t *testing.T) {
	t.Parallel()
	j := newJournal()
	conn := connect(t, ok, newServer(gatemesh.EntryConfig{}, gates(j, "a")...).Options())
	for path, want := range map[string]codes.Code{
		checkMethod:                         codes.OK,
		"grpc.health.v1.Health/Check":       codes.InvalidArgument,
		"//grpc.health.v1.Health/Check":     codes.InvalidArgument,
		"/grpc.health.v1.Health//Check":     codes.InvalidArgument,
		"/x/../grpc.health.v1.Health/Check": codes.InvalidArgument,
		"/grpc.health.v1.Health/Check?x":    codes.InvalidArgument,
		"/grpc.health.v1.Health%2FCheck":    codes.InvalidArgument,
		"/grpc.health.v1.Health/%zz":        codes.InvalidArgument,
		"/":                                 codes.Unimplemented,
		"/unknown.Service/Method":           codes.Unimplemented,
		"/grpc.health.v1.Health/Unknown":    codes.Unimplemented,
	} {
		_, err := call(t.Context(), conn, path)
		assert.Equal(t, want, status.Code(err), path)
	}
}

// TestJudgedMethodIsServed: what grpc serves is the path as received, so one
// that was judged in another form must not reach a handler.
func TestAZ09_JudgedMethodIsServed(t *testing.T) {
	t.Parallel()
	j := newJournal()
	conn := connect(t, func(ctx context.Context, _ grpc.ServerStream) error {
		j.note(gatemesh.FromContext(ctx).Path())
		return nil
	}, newServer(gatemesh.EntryConfig{}).Options())
	_, err := call(t.Context(), conn, "/grpc.health.v1.%48ealth/Check")
	assert.Equal(t, codes.InvalidArgument, status.Code(err))
	assert.Empty(t, j.read())
}

func TestFinishExactlyOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		methods []string
		handle  func(context.Context, grpc.ServerStream) error
		client  func(t *testing.T, conn *grpc.ClientConn, method string) error
		code    codes.Code
		want    gatemesh.Outcome
	}{
		{name: "ok", methods: methods, handle: sends(1)},
		{name: "handler's error", methods: methods, handle: func(context.Context, grpc.ServerStream) error {
			return status.Error(codes.NotFound, "nothing")
		}, code: codes.NotFound, want: gatemesh.Outcome{Code: gatemesh.NotFound}},
		{name: "plain error", methods: methods, handle: func(context.Context, grpc.ServerStream) error { return errors.New("x") },
			code: codes.Unknown, want: gatemesh.Outcome{Code: gatemesh.Unknown}},
		{name: "handler's denial", methods: methods, handle: func(context.Context, grpc.ServerStream) error {
			return gatemesh.Deny(gatemesh.Aborted, "x", "X.").WithCause(errors.New("SECRET"))
		}, code: codes.Aborted, want: gatemesh.Outcome{Code: gatemesh.Aborted}},
		{name: "panic", methods: methods, handle: func(context.Context, grpc.ServerStream) error { panic("SECRET") },
			code: codes.Internal, want: gatemesh.Outcome{Code: gatemesh.Internal, Panicked: true}},
		{name: "unknown method", methods: []string{"/grpc.health.v1.Health/None"}, handle: ok,
			code: codes.Unimplemented, want: gatemesh.Outcome{Code: gatemesh.Canceled, Canceled: true}},
		{name: "client leaves", methods: []string{watchMethod, bidiMethod}, handle: func(ctx context.Context, s grpc.ServerStream) error {
			_ = s.SendMsg(&message{})
			<-ctx.Done()
			return ctx.Err()
		}, client: func(t *testing.T, conn *grpc.ClientConn, method string) error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: method == bidiMethod}, method)
			require.NoError(t, err)
			require.NoError(t, s.SendMsg(&message{}))
			require.NoError(t, s.RecvMsg(&message{}))
			cancel()
			return s.RecvMsg(&message{})
		}, code: codes.Canceled, want: gatemesh.Outcome{Code: gatemesh.Canceled, Canceled: true}},
		{name: "malformed message", methods: []string{checkMethod}, handle: ok, client: func(t *testing.T, conn *grpc.ClientConn, method string) error {
			return conn.Invoke(t.Context(), method, []byte("\xff\xff"), &message{}, grpc.ForceCodecV2(rawCodec{}))
		}, code: codes.Internal, want: gatemesh.Outcome{Code: gatemesh.Canceled, Canceled: true}},
	} {
		for _, method := range test.methods {
			t.Run(test.name+method, func(t *testing.T) {
				t.Parallel()
				j := newJournal()
				conn := connect(t, test.handle, newServer(gatemesh.EntryConfig{Observer: j}, gates(j, "ab")...).Options())
				var err error
				if test.client != nil {
					err = test.client(t, conn, method)
				} else {
					_, err = call(t.Context(), conn, method)
				}
				assert.Equal(t, test.code, status.Code(err), err)
				if err != nil {
					assert.NotContains(t, err.Error(), "SECRET")
				}
				o := j.outcome(t)
				assert.Equal(t, "A B -B -A", j.read())
				o.Duration, o.Denial = 0, nil
				assert.Equal(t, test.want, o)
			})
		}
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
func (rawCodec) Name() string                         { return "proto" }

// TestServerSurvives: a panic ends its call and nothing else.
func TestServerSurvives(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	bad := func(*gatemesh.Call) { panic("x") }
	conn := connect(t, func(context.Context, grpc.ServerStream) error {
		if calls.Add(1) == 1 {
			panic("x")
		}
		return nil
	}, newServer(gatemesh.EntryConfig{}, gatemesh.Layer{Name: "p", Gate: tapPanics{bad}}).Options())
	_, err := call(t.Context(), conn, checkMethod, "panic", "1")
	assert.Equal(t, codes.Internal, status.Code(err), "a gate in the tap handle")
	_, err = call(t.Context(), conn, checkMethod)
	assert.Equal(t, codes.Internal, status.Code(err), "the handler")
	_, err = call(t.Context(), conn, checkMethod)
	assert.NoError(t, err)
}

type tapPanics struct{ f func(*gatemesh.Call) }

func (g tapPanics) Admit(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
	return gatemesh.Admission{}, errors.New("not reached")
}

func (g tapPanics) AdmitCached(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, bool, error) {
	if c.Header().Count("panic") > 0 {
		g.f(c)
	}
	return gatemesh.Admission{}, true, nil
}

// TestServeHTTP serves grpc through net/http, where no tap handle runs.
func TestServeHTTP(t *testing.T) {
	t.Parallel()
	j := newJournal()
	var remote atomic.Value
	s := grpc.NewServer(newServer(gatemesh.EntryConfig{Observer: j}, gates(j, "au")...).Options()...)
	grpc_health_v1.RegisterHealthServer(s, &service{handle: func(ctx context.Context, _ grpc.ServerStream) error {
		remote.Store(gatemesh.FromContext(ctx).RemoteAddr().Addr().String())
		md, _ := metadata.FromIncomingContext(ctx)
		assert.Empty(t, md["x-gatemesh-identity"])
		return nil
	}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h := &http.Server{Handler: s, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	h.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.Serve(l) // ends with Close
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		_ = h.Close()
		s.Stop()
		<-done
	})
	header, err := call(t.Context(), conn, checkMethod, "x-gatemesh-identity", "evil")
	require.NoError(t, err)
	assert.Len(t, header["x-request-id"], 1)
	j.outcome(t)
	assert.Equal(t, "a u -u -a", j.read())
	assert.Equal(t, "127.0.0.1", remote.Load())
}

// minute is a gate whose consent holds for a minute. With renewals left it is
// renewed.
type minute struct{ renewals *atomic.Int32 }

func (minute) Admit(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
	return gatemesh.Admission{Until: time.Now().Add(time.Minute)}, nil
}

func (g minute) Revalidate(context.Context, *gatemesh.Call) (time.Time, error) {
	if g.renewals.Add(-1) < 0 {
		return time.Time{}, gatemesh.Deny(gatemesh.Unauthenticated, "token_expired", "The token has expired.")
	}
	return time.Now().Add(time.Minute), nil
}

// TestLC03_TokenThatEndsMidStream in fake time, over a real connection.
func TestLC03_TokenThatEndsMidStream(t *testing.T) {
	t.Parallel()
	var late atomic.Int32 // messages that a handler was given
	for name, test := range map[string]struct {
		method   string
		renewals int32
		handle   func(context.Context, grpc.ServerStream) error
		received int
	}{
		"server stream": {watchMethod, 0, func(_ context.Context, s grpc.ServerStream) error {
			for {
				if err := s.SendMsg(&message{}); err != nil {
					return err
				}
				time.Sleep(25 * time.Second)
			}
		}, 3},
		"renewed once": {watchMethod, 1, func(_ context.Context, s grpc.ServerStream) error {
			for {
				if err := s.SendMsg(&message{}); err != nil {
					return err
				}
				time.Sleep(25 * time.Second)
			}
		}, 5}, // at 0, 25, 50, 75 and 100 s: the renewed consent ends at 120 s
		"a handler that looks at no error": {watchMethod, 0, func(_ context.Context, s grpc.ServerStream) error {
			for range 10 {
				_ = s.SendMsg(&message{})
				time.Sleep(25 * time.Second)
			}
			return nil
		}, 3},
		"late message of the client": {bidiMethod, 0, echo, 3},
		"a handler that only receives": {bidiMethod, 0, func(_ context.Context, s grpc.ServerStream) error {
			for {
				if err := s.RecvMsg(&message{}); err != nil {
					return err
				}
				late.Add(1)
			}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newJournal()
				left := &atomic.Int32{}
				left.Store(test.renewals)
				conn := connect(t, test.handle, newServer(gatemesh.EntryConfig{Observer: j}, append(gates(j, "a"), gatemesh.Layer{Name: "auth", Gate: minute{left}})...).Options())
				s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: test.method == bidiMethod}, test.method)
				require.NoError(t, err)
				received := 0
				for range 4 { // without waiting for an answer
					if test.received > 0 {
						break
					}
					_ = s.SendMsg(&message{})
					time.Sleep(25 * time.Second)
				}
				for err == nil {
					if test.method == bidiMethod || received == 0 {
						_ = s.SendMsg(&message{})
					}
					if err = s.RecvMsg(&message{}); err == nil {
						received++
					}
					if test.method == bidiMethod {
						time.Sleep(25 * time.Second)
					}
				}
				assert.Equal(t, codes.Unauthenticated, status.Code(err), err)
				assert.Equal(t, "The token has expired.", status.Convert(err).Message())
				assert.Equal(t, test.received, received)
				o := j.outcome(t)
				assert.Equal(t, gatemesh.Unauthenticated, o.Code)
				assert.NotNil(t, o.Denial)
				assert.Equal(t, "A -A", j.read())
				_ = conn.Close()
			})
		})
	}
	t.Cleanup(func() { assert.EqualValues(t, 3, late.Load()) })
}

// TestDeadlineBeforeTheInterceptor: a call that ends between the tap handle
// and the interceptor is refused there, and its gates have learned of it.
func TestDeadlineBeforeTheInterceptor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := newJournal()
		s := newServer(gatemesh.EntryConfig{Observer: j}, gates(j, "a")...)
		slow := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			<-ctx.Done()
			synctest.Wait() // until the gates were told
			return next(ctx, req)
		}
		// An interceptor in front of ours is what the documentation advises against.
		conn := connect(t, ok, append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(slow)}, s.Options()...))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := conn.Invoke(ctx, checkMethod, &message{}, &message{})
		assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
		o := j.outcome(t)
		assert.Equal(t, "A -A", j.read())
		assert.Contains(t, []gatemesh.Code{gatemesh.DeadlineExceeded, gatemesh.Canceled}, o.Code)
		_ = conn.Close()
	})
}

func TestStreamsEndWithEOF(t *testing.T) {
	t.Parallel()
	j := newJournal()
	conn := connect(t, echo, newServer(gatemesh.EntryConfig{Observer: j}, gates(j, "au")...).Options())
	s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, bidiMethod)
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, s.SendMsg(&message{Service: "x"}))
		m := &message{}
		require.NoError(t, s.RecvMsg(m))
		assert.Equal(t, "x", m.GetService())
	}
	assert.Equal(t, "A u", j.read())
	require.NoError(t, s.CloseSend())
	assert.ErrorIs(t, s.RecvMsg(&message{}), io.EOF)
	j.outcome(t)
	assert.Equal(t, "A u -u -A", j.read())
}
