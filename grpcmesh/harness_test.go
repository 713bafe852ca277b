package grpcmesh_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

// journal notes what happened, in order.
type journal struct {
	mu       sync.Mutex
	notes    []string
	outcomes []gatemesh.Outcome
	finished chan struct{} // one for each Outcome
}

func newJournal() *journal { return &journal{finished: make(chan struct{}, 100)} }

func (j *journal) note(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.notes = append(j.notes, s)
}

func (j *journal) read() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.notes, " ")
}

// Observe makes the journal an Observer that waits for ends of calls.
func (j *journal) Observe(_ context.Context, e gatemesh.Event) {
	if e.Kind != gatemesh.EventFinished {
		return
	}
	j.mu.Lock()
	j.outcomes = append(j.outcomes, e.Outcome)
	j.mu.Unlock()
	j.finished <- struct{}{}
}

// outcome waits until the one call has ended.
func (j *journal) outcome(t *testing.T) gatemesh.Outcome {
	t.Helper()
	<-j.finished
	j.mu.Lock()
	defer j.mu.Unlock()
	require.Len(t, j.outcomes, 1)
	return j.outcomes[0]
}

type finish struct {
	j    *journal
	name string
}

func (f finish) Finish(*gatemesh.Call, gatemesh.Outcome) { f.j.note("-" + f.name) }

// plainGate can only be asked by an interceptor.
type plainGate struct {
	j    *journal
	name string
	adm  gatemesh.Admission
	err  error
}

func (g plainGate) Admit(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
	g.j.note(g.name)
	if g.err != nil {
		return gatemesh.Admission{}, g.err
	}
	g.adm.Finish = finish{g.j, g.name}
	return g.adm, nil
}

// cachedGate can be asked by the tap handle, where it writes its name in
// upper case.
type cachedGate struct {
	plainGate
	cannot bool
}

func (g cachedGate) AdmitCached(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, bool, error) {
	if g.cannot {
		return gatemesh.Admission{}, false, nil
	}
	g.name = strings.ToUpper(g.name)
	adm, err := g.Admit(ctx, c)
	return adm, true, err
}

// gates makes layers of a word: "u" cannot be asked by the tap handle, "m"
// could but misses, every other letter can.
func gates(j *journal, word string) (layers []gatemesh.Layer) {
	for _, name := range strings.Split(word, "") {
		plain := plainGate{j: j, name: name}
		l := gatemesh.Layer{Name: name, Gate: cachedGate{plainGate: plain, cannot: name == "m"}}
		if name == "u" {
			l.Gate = plain
		}
		layers = append(layers, l)
	}
	return layers
}

func newServer(cfg gatemesh.EntryConfig, layers ...gatemesh.Layer) *grpcmesh.Server {
	entry := gatemesh.Must(gatemesh.NewEntry(cfg))
	return gatemesh.Must(grpcmesh.NewServer(gatemesh.Must(gatemesh.NewChain(entry, layers...))))
}

// service is the served API: health, whose methods ask handle, and a service
// with a method of each other kind that does the same.
type service struct {
	grpc_health_v1.UnimplementedHealthServer
	handle func(ctx context.Context, s grpc.ServerStream) error
}

type message = grpc_health_v1.HealthCheckRequest

func (s *service) Check(ctx context.Context, _ *message) (*grpc_health_v1.HealthCheckResponse, error) {
	return &grpc_health_v1.HealthCheckResponse{}, s.handle(ctx, nil)
}

func (s *service) Watch(_ *message, ss grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	return s.handle(ss.Context(), ss)
}

const (
	checkMethod = "/grpc.health.v1.Health/Check"
	watchMethod = "/grpc.health.v1.Health/Watch"
	bidiMethod  = "/test.Kinds/Bidi"
	sendMethod  = "/test.Kinds/Send"
)

var kinds = grpc.ServiceDesc{
	ServiceName: "test.Kinds", HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{
		{StreamName: "Bidi", ServerStreams: true, ClientStreams: true, Handler: func(srv any, ss grpc.ServerStream) error {
			return srv.(*service).handle(ss.Context(), ss)
		}},
		{StreamName: "Send", ClientStreams: true, Handler: func(srv any, ss grpc.ServerStream) error {
			return srv.(*service).handle(ss.Context(), ss)
		}},
	},
}

// echo answers each message that comes with one of its own.
func echo(_ context.Context, s grpc.ServerStream) error {
	for s != nil {
		m := &message{}
		switch err := s.RecvMsg(m); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
	return nil
}

func ok(context.Context, grpc.ServerStream) error { return nil }

// connect serves handle behind opts and returns a connection to it.
func connect(t *testing.T, handle func(context.Context, grpc.ServerStream) error, opts []grpc.ServerOption, dial ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return connectTo(t, bufconn.Listen(1<<20), handle, opts, dial...)
}

type bufListener interface {
	net.Listener
	DialContext(ctx context.Context) (net.Conn, error)
}

func connectTo(t *testing.T, l bufListener, handle func(context.Context, grpc.ServerStream) error, opts []grpc.ServerOption, dial ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	s := grpc.NewServer(opts...)
	srv := &service{handle: handle}
	grpc_health_v1.RegisterHealthServer(s, srv)
	s.RegisterService(&kinds, srv)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l) // ends with Stop
	}()
	dial = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
	}, dial...)
	conn, err := grpc.NewClient("passthrough:///callee", dial...)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		<-served
	})
	return conn
}

// call makes one call of the method and returns its header metadata and error.
func call(ctx context.Context, conn grpc.ClientConnInterface, method string, fields ...string) (metadata.MD, error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, fields...), time.Minute)
	defer cancel()
	var header metadata.MD
	if method != watchMethod && method != bidiMethod && method != sendMethod {
		err := conn.Invoke(ctx, method, &message{}, &message{}, grpc.Header(&header))
		return header, err
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: method != sendMethod, ClientStreams: method != watchMethod}, method)
	if err != nil {
		return nil, err
	}
	if err := s.SendMsg(&message{}); err != nil && err != io.EOF {
		return nil, fmt.Errorf("send: %w", err)
	}
	_ = s.CloseSend()
	for err == nil {
		if err = s.RecvMsg(&message{}); method == sendMethod && err == nil {
			err = io.EOF
		}
	}
	header, _ = s.Header()
	if err == io.EOF {
		err = nil
	}
	return header, err
}
