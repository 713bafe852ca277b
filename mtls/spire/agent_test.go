package spire_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
)

// agent is the X.509 part of a Workload API on a unix socket.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	path string

	mu      sync.Mutex
	answer  *workload.X509SVIDResponse
	err     error
	changed chan struct{}
	calls   int
	server  *grpc.Server
	served  chan struct{}
}

func newAgent(t testing.TB) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "gm")
	require.NoError(t, err)
	a := &agent{path: filepath.Join(dir, "s"), changed: make(chan struct{}), err: status.Error(codes.PermissionDenied, "no identity issued")}
	t.Cleanup(func() { a.stop(); require.NoError(t, os.RemoveAll(dir)) })
	return a
}

func (a *agent) addr() string { return "unix://" + a.path }

// start serves; the agent can be stopped and started again.
func (a *agent) start(t testing.TB) {
	t.Helper()
	require.NoError(t, a.serve())
}

func (a *agent) serve() error {
	l, err := net.Listen("unix", a.path)
	if err != nil {
		return err
	}
	a.server, a.served = grpc.NewServer(), make(chan struct{})
	workload.RegisterSpiffeWorkloadAPIServer(a.server, a)
	go func() {
		defer close(a.served)
		_ = a.server.Serve(l) // ends with stop
	}()
	return nil
}

func (a *agent) stop() {
	if a.server != nil {
		a.server.Stop()
		<-a.served
		a.server = nil
	}
}

// set has all streams answer with r, or end with err.
func (a *agent) set(r *workload.X509SVIDResponse, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer, a.err = r, err
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) asked() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); len(md["workload.spiffe.io"]) != 1 || md["workload.spiffe.io"][0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	a.mu.Lock()
	a.calls++
	a.mu.Unlock()
	for {
		a.mu.Lock()
		answer, err, changed := a.answer, a.err, a.changed
		a.mu.Unlock()
		if err != nil {
			return err
		}
		if answer != nil {
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// svid returns the message for a certificate.
func svid(t testing.TB, cert tls.Certificate, roots []*x509.Certificate) *workload.X509SVID {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	return &workload.X509SVID{SpiffeId: cert.Leaf.URIs[0].String(), X509Svid: cert.Certificate[0], X509SvidKey: key, Bundle: raw(roots)}
}

func raw(certs []*x509.Certificate) (der []byte) {
	for _, c := range certs {
		der = append(der, c.Raw...)
	}
	return der
}

func response(svids ...*workload.X509SVID) *workload.X509SVIDResponse {
	return &workload.X509SVIDResponse{Svids: svids}
}

// events keeps what an Observer hears.
type events struct {
	mu  sync.Mutex
	all []gatemesh.Event
}

func (e *events) Observe(_ context.Context, ev gatemesh.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) faults() (texts []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all {
		if ev.Kind == gatemesh.EventFault {
			texts = append(texts, ev.Err.Error())
		}
	}
	return texts
}
