package grpcmesh_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// socket counts what it accepts.
type socket struct {
	net.Listener
	accepted atomic.Int32
}

func newSocket(t *testing.T) *socket {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return &socket{Listener: l}
}

func (s *socket) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err == nil {
		s.accepted.Add(1)
	}
	return c, err
}

func (s *socket) DialContext(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr().String())
}

func anybody(*gatemesh.Peer) error { return nil }

func mode(m mtls.Mode) mtls.Modes { return mtls.Modes{Default: m} }

// peerGate is a server's side with Entry and the peer gate only.
func peerGate(m *mtls.TLS) *grpcmesh.Server {
	return newServer(gatemesh.EntryConfig{Peer: m.Peer}, m.Layer())
}

func creds(t *testing.T, m *mtls.TLS, callee mtls.Authorizer) grpc.DialOption {
	t.Helper()
	cfg, err := m.ClientConfig(callee)
	require.NoError(t, err)
	return grpc.WithTransportCredentials(credentials.NewTLS(cfg))
}

// One port takes TLS and plain text, and TLS only from peers.
func TestCredentials_Permissive(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	us := source(t, ca, "callee")
	m, err := mtls.New(mtls.Config{Source: us, Authorize: anybody, Modes: mode(mtls.ModePermissive)})
	require.NoError(t, err)
	who := make(chan string, 1)
	handle := func(ctx context.Context, _ grpc.ServerStream) error {
		p, name := gatemesh.FromContext(ctx).Peer(), "nobody"
		if p != nil {
			name = p.ServiceAccount()
		}
		who <- name
		return nil
	}
	opts := append(peerGate(m).Options(), grpc.Creds(grpcmesh.Credentials(m, nil)))
	l := newSocket(t)
	plain := connectTo(t, l, handle, opts)
	client := workload(t, ca, "caller")
	for name, tt := range map[string]struct {
		dial grpc.DialOption
		want string
	}{
		"peer":           {creds(t, client, anybody), "caller"},
		"stranger":       {creds(t, workload(t, newCA(t), "caller"), anybody), ""},
		"no certificate": {grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})), ""},
	} {
		conn, err := grpc.NewClient(l.Addr().String(), tt.dial)
		require.NoError(t, err)
		_, err = call(t.Context(), conn, checkMethod)
		if tt.want != "" {
			require.NoError(t, err, name)
			assert.Equal(t, tt.want, <-who)
		} else {
			assert.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", name, err)
		}
		require.NoError(t, conn.Close())
	}
	_, err = call(t.Context(), plain, checkMethod)
	require.NoError(t, err)
	assert.Equal(t, "nobody", <-who)
	assert.EqualValues(t, 1, m.Status().PlainText)

	require.NoError(t, m.Update(mtls.Config{Source: us, Authorize: anybody}))
	before := l.accepted.Load()
	_, err = call(t.Context(), plain, checkMethod)
	assert.Equal(t, codes.Unauthenticated, status.Code(err))
	assert.Equal(t, before, l.accepted.Load(), "answered on the open connection")
	for patience := time.Now().Add(20 * time.Second); status.Code(err) == codes.Unauthenticated && time.Now().Before(patience); {
		_, err = call(t.Context(), plain, checkMethod)
	}
	assert.Equal(t, codes.Unavailable, status.Code(err), "plain text does not come in again: %v", err)
	assert.Greater(t, l.accepted.Load(), before, "the connection was closed")
	assert.Empty(t, who)

	require.NoError(t, m.Update(mtls.Config{Source: us, Authorize: anybody, Modes: mode(mtls.ModeDisable)}))
	conn, err := grpc.NewClient(l.Addr().String(), creds(t, client, anybody))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = call(t.Context(), conn, checkMethod)
	assert.Equal(t, codes.Unavailable, status.Code(err), "TLS at a port for plain text")
}

// A server loses its trust in the certificate that a connection was made with.
// The client, which has a new one, is refused on that connection, and after
// that, without one failure, comes in with the new certificate. What was under
// way goes on.
func TestMTLS06_RefusedConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"tap", "interceptors"} {
		for _, method := range methods {
			t.Run(how+method, func(t *testing.T) {
				t.Parallel()
				old, fresh := newCA(t), newCA(t)
				us, them := &swapped{}, &swapped{}
				us.Store(credentialsOf(t, old, "callee", old))
				them.Store(credentialsOf(t, old, "caller", old, fresh))
				server, err := mtls.New(mtls.Config{Source: us, Authorize: anybody})
				require.NoError(t, err)
				client, err := mtls.New(mtls.Config{Source: them, Authorize: anybody})
				require.NoError(t, err)

				mesh := peerGate(server)
				opts := mesh.Options()
				if how == "interceptors" {
					unary, stream := mesh.Interceptors()
					opts = []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
				}
				l := newSocket(t)
				conn := connectTo(t, l, echo, append(opts, grpc.Creds(grpcmesh.Credentials(server, nil))), creds(t, client, anybody))
				for range 3 {
					_, err = call(t.Context(), conn, method)
					require.NoError(t, err)
				}
				open, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, bidiMethod)
				require.NoError(t, err)
				ping := func() {
					t.Helper()
					require.NoError(t, open.SendMsg(&message{}))
					require.NoError(t, open.RecvMsg(&message{}))
				}
				ping()
				require.EqualValues(t, 1, l.accepted.Load())

				them.Store(credentialsOf(t, fresh, "caller", old, fresh))
				us.Store(credentialsOf(t, fresh, "callee", fresh))
				_, err = call(t.Context(), conn, method)
				require.Equal(t, codes.Unauthenticated, status.Code(err), "%v", err)
				// The GOAWAY may be behind a few more calls, but no call fails of it.
				for patience := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(patience); {
					_, err = call(t.Context(), conn, method)
					require.Contains(t, []codes.Code{codes.OK, codes.Unauthenticated}, status.Code(err), "%v", err)
				}
				require.NoError(t, err)
				assert.EqualValues(t, 2, l.accepted.Load())
				for range 20 {
					_, err = call(t.Context(), conn, method)
					require.NoError(t, err)
				}
				ping()
				require.NoError(t, open.CloseSend())
				require.ErrorIs(t, open.RecvMsg(&message{}), io.EOF)
				assert.EqualValues(t, 2, l.accepted.Load())
			})
		}
	}
}

// The same without Credentials of ours: net/http says goodbye.
func TestMTLS06_RefusedConnectionIsReplaced_ServeHTTP(t *testing.T) {
	t.Parallel()
	for _, chainHTTP := range []bool{false, true} {
		t.Run(fmt.Sprintf("chain of HTTP=%t", chainHTTP), func(t *testing.T) {
			t.Parallel()
			old, fresh := newCA(t), newCA(t)
			us, them := &swapped{}, &swapped{}
			us.Store(credentialsOf(t, old, "callee", old))
			them.Store(credentialsOf(t, old, "caller", old))
			server, err := mtls.New(mtls.Config{Source: us, Authorize: anybody})
			require.NoError(t, err)
			client, err := mtls.New(mtls.Config{Source: them, Authorize: anybody})
			require.NoError(t, err)

			var handler http.Handler
			var g *grpc.Server
			if chainHTTP {
				g = grpc.NewServer()
				entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Peer: server.Peer}))
				handler = gatemesh.Must(gatemesh.NewChain(entry, server.Layer())).Handler(g)
			} else {
				g = grpc.NewServer(peerGate(server).Options()...)
				handler = g
			}
			grpc_health_v1.RegisterHealthServer(g, &service{handle: ok})
			l := newSocket(t)
			h := &http.Server{Handler: handler, TLSConfig: server.ServerConfig(), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
			var wg sync.WaitGroup
			wg.Go(func() { _ = h.ServeTLS(l, "", "") })
			defer wg.Wait()
			defer func() { _ = h.Close() }()
			conn, err := grpc.NewClient(l.Addr().String(), creds(t, client, anybody))
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()

			_, err = call(t.Context(), conn, checkMethod)
			require.NoError(t, err)
			them.Store(credentialsOf(t, fresh, "caller", old, fresh))
			us.Store(credentialsOf(t, fresh, "callee", fresh))
			header, err := call(t.Context(), conn, checkMethod)
			require.Equal(t, codes.Unauthenticated, status.Code(err), "%v", err)
			assert.Empty(t, header.Get("connection"), "malformed in HTTP/2")
			for patience := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(patience); {
				_, err = call(t.Context(), conn, checkMethod)
				require.Contains(t, []codes.Code{codes.OK, codes.Unauthenticated}, status.Code(err), "%v", err)
			}
			require.NoError(t, err)
			assert.EqualValues(t, 2, l.accepted.Load())
		})
	}
}

// A client that does not go when it is told to is cut, with what it has under
// way, and a handler that waits for a message learns of it.
func TestCredentials_Cut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		us := source(t, newCA(t), "callee")
		m, err := mtls.New(mtls.Config{Source: us, Authorize: anybody, Modes: mode(mtls.ModePermissive), Recheck: time.Hour})
		require.NoError(t, err)
		conn := connect(t, echo, append(peerGate(m).Options(), grpc.Creds(grpcmesh.Credentials(m, nil))))
		open, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, bidiMethod)
		require.NoError(t, err)
		require.NoError(t, open.SendMsg(&message{}))
		require.NoError(t, open.RecvMsg(&message{}))
		require.NoError(t, m.Update(mtls.Config{Source: us, Authorize: anybody}))
		start := time.Now()
		_, err = call(t.Context(), conn, checkMethod)
		require.Equal(t, codes.Unauthenticated, status.Code(err))
		err = open.RecvMsg(&message{})
		assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
		assert.Equal(t, 10*time.Second, time.Since(start))
		_ = conn.Close()
	})
}

// Streams on which nobody sends anything end with the peer's welcome, too.
func TestCredentials_IdleStreams(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		handle func(context.Context, grpc.ServerStream) error
		code   codes.Code
		after  time.Duration
	}{
		"handler that waits for its context": {func(ctx context.Context, _ grpc.ServerStream) error {
			<-ctx.Done()
			return nil
		}, codes.Unauthenticated, time.Minute},
		"handler that says why it ends": {func(ctx context.Context, _ grpc.ServerStream) error {
			<-ctx.Done()
			return ctx.Err()
		}, codes.Unauthenticated, time.Minute},
		"handler that waits for a message": {echo, codes.Unavailable, time.Minute + 10*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				us := source(t, newCA(t), "callee")
				permissive := mtls.Config{Source: us, Authorize: anybody, Modes: mode(mtls.ModePermissive)}
				m, err := mtls.New(permissive)
				require.NoError(t, err)
				conn := connect(t, tt.handle, append(peerGate(m).Options(), grpc.Creds(grpcmesh.Credentials(m, nil))))
				start := time.Now()
				open, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, bidiMethod)
				require.NoError(t, err)
				time.Sleep(150 * time.Second) // renewed twice
				require.NoError(t, m.Update(mtls.Config{Source: us, Authorize: anybody}))
				err = open.RecvMsg(&message{})
				assert.Equal(t, tt.code, status.Code(err), "%v", err)
				assert.Equal(t, 2*time.Minute+tt.after, time.Since(start))
				_ = conn.Close()
			})
		})
	}
}

// Whoever says nothing is let go.
func TestCredentials_Silent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := mtls.New(mtls.Config{Source: source(t, newCA(t), "callee"), Authorize: anybody, Modes: mode(mtls.ModePermissive)})
		require.NoError(t, err)
		l := bufconn.Listen(1 << 10)
		connectTo(t, l, ok, append(peerGate(m).Options(), grpc.Creds(grpcmesh.Credentials(m, nil))))
		start := time.Now()
		c, err := l.DialContext(t.Context())
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.Error(t, err)
		assert.Equal(t, 10*time.Second, time.Since(start))
	})
}

// The port that we listen on decides, in the handshake and in the gate.
func TestCredentials_Ports(t *testing.T) {
	t.Parallel()
	us := source(t, newCA(t), "callee")
	m, err := mtls.New(mtls.Config{Source: us, Authorize: anybody})
	require.NoError(t, err)
	opts := append(peerGate(m).Options(), grpc.Creds(grpcmesh.Credentials(m, nil)))
	open, strict := newSocket(t), newSocket(t)
	require.NoError(t, m.Update(mtls.Config{Source: us, Authorize: anybody, Modes: mtls.Modes{
		Ports: map[uint16]mtls.Mode{open.Addr().(*net.TCPAddr).AddrPort().Port(): mtls.ModePermissive},
	}}))
	_, err = call(t.Context(), connectTo(t, open, ok, opts), checkMethod)
	require.NoError(t, err)
	_, err = call(t.Context(), connectTo(t, strict, ok, opts), checkMethod)
	assert.Equal(t, codes.Unavailable, status.Code(err))
}

func TestCredentials_OfServers(t *testing.T) {
	t.Parallel()
	m := workload(t, newCA(t), "callee")
	c := grpcmesh.Credentials(m, nil)
	assert.Equal(t, "tls", c.Info().SecurityProtocol)
	_, _, err := c.Clone().ClientHandshake(t.Context(), "", nil)
	assert.EqualError(t, err, "grpcmesh: Credentials are for servers")
}

// swapped is a Source that tests change by hand.
type swapped struct {
	atomic.Pointer[mtls.Credentials]
}

func (s *swapped) Credentials() *mtls.Credentials { return s.Load() }

// credentialsOf returns a certificate of ca together with whom it trusts.
func credentialsOf(t *testing.T, ca *devca.CA, name string, trusted ...*devca.CA) *mtls.Credentials {
	t.Helper()
	cert, err := ca.Issue(self(name).SPIFFEID(), time.Hour)
	require.NoError(t, err)
	var roots []*x509.Certificate
	for _, c := range trusted {
		roots = append(roots, c.Bundle()...)
	}
	b, err := mtls.NewBundles(map[string][]*x509.Certificate{"cluster.local": roots})
	require.NoError(t, err)
	c, err := mtls.NewCredentials(cert, b)
	require.NoError(t, err)
	return c
}
