package routing_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/gatemesh-go/gatemesh/internal/race"
)

// zeros is an endless body. At every 16 MiB it asks how large the heap is.
type zeros struct{ read, most uint64 }

var heapObjects = []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}

func heap() uint64 {
	metrics.Read(heapObjects)
	return heapObjects[0].Value.Uint64()
}

func (z *zeros) Read(b []byte) (int, error) {
	if before := z.read; before>>24 != (before+uint64(len(b)))>>24 {
		if race.Enabled { // which has pools throw away half of what they get: it is garbage, and nobody keeps it
			runtime.GC()
		}
		z.most = max(z.most, heap())
	}
	clear(b)
	z.read += uint64(len(b))
	return len(b), nil
}

// TestPX07_Streamed sends and fetches much more than anybody may keep, through
// all layers. It does not run beside other tests, whose heap it would measure.
func TestPX07_Streamed(t *testing.T) {
	var source *zeros
	var size int64
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = io.CopyN(w, source, size)
			return
		}
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprint(w, n)
	}))
	for _, upstream := range []string{up, "h2c://" + strings.TrimPrefix(up, "http://")} {
		s := newStack(t, stackConfig{upstream: upstream})
		url := serve(t, s)
		for _, method := range []string{http.MethodPut, http.MethodGet} {
			t.Run(method+" "+upstream[:4], func(t *testing.T) {
				size = unlessRacing[int64](1<<30, 32<<20)
				if upstream != up {
					size = min(size, 64<<20) // many times what HTTP/2 may keep
				}
				tr := &http.Transport{}
				defer tr.CloseIdleConnections()
				source = &zeros{}
				var body io.Reader
				if method == http.MethodPut {
					body = io.LimitReader(source, size)
				}
				r, err := http.NewRequestWithContext(t.Context(), method, url+"/big", body)
				require.NoError(t, err)
				r.Header.Set("Authorization", "Bearer "+s.token)
				runtime.GC()
				runtime.GC() // of what pools held, too
				before := heap()
				resp, err := tr.RoundTrip(r)
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, resp.StatusCode)
				if method == http.MethodPut {
					got, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					assert.Equal(t, fmt.Sprint(size), string(got))
				} else {
					n, err := io.Copy(io.Discard, resp.Body)
					require.NoError(t, err)
					assert.EqualValues(t, size, n)
				}
				require.NoError(t, resp.Body.Close())
				assert.EqualValues(t, size, source.read)
				extra := int64(source.most) - int64(before)
				t.Logf("%d MiB, %d KiB of heap", size>>20, extra>>10)
				assert.LessOrEqual(t, extra, int64(8<<20))
			})
		}
	}
}

// TestPX07_EventsPassAtOnce: the upstream sends an event only after the client
// has the one before, so that whatever kept one back would stop them all.
func TestPX07_EventsPassAtOnce(t *testing.T) {
	t.Parallel()
	for _, length := range []string{"", "30"} { // with a length, it is the content type that says so
		t.Run("length "+length, func(t *testing.T) {
			t.Parallel()
			step := make(chan struct{})
			up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				for range 3 {
					_, _ = io.WriteString(w, "data: xx\n\n")
					_ = http.NewResponseController(w).Flush()
					select {
					case <-step:
					case <-r.Context().Done():
						return
					}
				}
			}))
			s := newStack(t, stackConfig{upstream: up})
			resp := raw(t, serve(t, s), "GET /events HTTP/1.1\nHost: h\n"+s.bearer()+"\n")
			require.Equal(t, http.StatusOK, resp.StatusCode)
			got := make([]byte, len("data: xx\n\n"))
			for range 3 {
				_, err := io.ReadFull(resp.Body, got)
				require.NoError(t, err)
				require.Equal(t, "data: xx\n\n", string(got))
				step <- struct{}{}
			}
			_, err := resp.Body.Read(got)
			assert.ErrorIs(t, err, io.EOF)
		})
	}
}

// echoRPC is a gRPC server that echoes every message of every method. The
// method says how the call ends.
func echoRPC(t testing.TB, opts ...grpc.ServerOption) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer(append(opts, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		if strings.HasSuffix(method, "/Refuse") { // without a message: trailers only
			return status.Error(codes.FailedPrecondition, "not now: 100 %")
		}
		md, _ := metadata.FromIncomingContext(stream.Context())
		if err := stream.SendHeader(metadata.Pairs("x-was-bin", strings.Join(md["x-is-bin"], ""))); err != nil {
			return err
		}
		stream.SetTrailer(metadata.Pairs("x-trailer", "last"))
		for {
			m := new(wrapperspb.StringValue)
			if err := stream.RecvMsg(m); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			if err := stream.SendMsg(m); err != nil {
				return err
			}
		}
		if strings.HasSuffix(method, "/Fail") {
			return status.Error(codes.DataLoss, "lost")
		}
		return nil
	}))...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return l.Addr().String()
}

// bidi makes a call in which each message is sent after the answer to the one
// before.
func bidi(t testing.TB, conn *grpc.ClientConn, method string, fields ...string) (header, trailer metadata.MD, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), fields...))
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	require.NoError(t, err)
	for i := range 3 {
		if err := stream.SendMsg(wrapperspb.String(fmt.Sprint(i))); err != nil {
			break // RecvMsg says why
		}
		m := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(m); err != nil {
			return nil, stream.Trailer(), err
		}
		require.Equal(t, fmt.Sprint(i), m.GetValue())
	}
	require.NoError(t, stream.CloseSend())
	header, err = stream.Header()
	require.NoError(t, err)
	if err = stream.RecvMsg(new(wrapperspb.StringValue)); err == io.EOF {
		err = nil
	}
	return header, stream.Trailer(), err
}

func dialRPC(t testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	if opts == nil {
		opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(addr, "http://"), opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	return conn
}

// checkRPC makes the calls of echoRPC through conn.
func checkRPC(t *testing.T, conn *grpc.ClientConn, fields ...string) {
	t.Helper()
	fields = append(fields, "x-is-bin", "\x00\xff")
	header, trailer, err := bidi(t, conn, "/test.Echo/Bidi", fields...)
	require.NoError(t, err)
	assert.Equal(t, []string{"\x00\xff"}, header["x-was-bin"])
	assert.Equal(t, []string{"last"}, trailer["x-trailer"])
	_, trailer, err = bidi(t, conn, "/test.Echo/Fail", fields...)
	assert.Equal(t, "rpc error: code = DataLoss desc = lost", fmt.Sprint(err))
	assert.Equal(t, []string{"last"}, trailer["x-trailer"])
	_, _, err = bidi(t, conn, "/test.Echo/Refuse", fields...)
	assert.Equal(t, "rpc error: code = FailedPrecondition desc = not now: 100 %", fmt.Sprint(err))
}

func TestPX07_GRPCBothWays(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{upstream: "http://" + echoRPC(t)})
	conn := dialRPC(t, serve(t, s))
	checkRPC(t, conn, "authorization", "Bearer "+s.token)
	_, _, err := bidi(t, conn, "/test.Echo/Bidi")
	assert.Equal(t, codes.Unauthenticated, status.Code(err))
}
