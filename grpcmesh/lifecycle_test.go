package grpcmesh_test

import (
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// TestLC01_Lifecycle does not run in parallel: it counts what is left of
// servers, pools and connections.
func TestLC01_Lifecycle(t *testing.T) {
	ca := gatemesh.Must(devca.New("td.example"))
	_, them := join(t, ca, "callee")
	ours, us := join(t, ca, "caller")
	callee := gatemesh.Must(mtls.Exactly(spiffe("callee")))
	start := func() (server *grpc.Server, served chan error, p *pool.Pool, conn *grpc.ClientConn) {
		mesh := newServer(gatemesh.EntryConfig{Peer: them.Peer}, them.Layer())
		server = grpc.NewServer(append(mesh.Options(), grpc.Creds(grpcmesh.Credentials(them, nil)))...)
		b := &backend{}
		b.do(echo)
		b.register(server)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		served = make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		p = gatemesh.Must(pool.New(poolOf(pool.Static(l.Addr().String()))))
		conn, err = grpcmesh.Dial(grpcmesh.DialConfig{Service: "callee", Outbound: outbound(nil), Pool: p, TLS: us, Callee: callee})
		require.NoError(t, err)
		return server, served, p, conn
	}
	stop := func(server *grpc.Server, served chan error, p *pool.Pool, conn *grpc.ClientConn) {
		_ = conn.Close() // the second time is an error of grpc
		_ = conn.Close()
		require.NoError(t, p.Close())
		require.NoError(t, p.Close())
		server.Stop()
		server.Stop()
		if err := <-served; !errors.Is(err, grpc.ErrServerStopped) { // before it had begun to serve
			require.NoError(t, err)
		}
	}
	require.NoError(t, leaktest.Check(1000, func() {
		server, served, p, conn := start()
		stream := openStream(t, t.Context(), conn) // open until the end
		for range 2 {
			_, err := call(t.Context(), conn, checkMethod)
			require.NoError(t, err)
			require.NoError(t, p.Update(poolOf(pool.Static(p.Endpoints()[0].Address))))
			require.NoError(t, ours.Renew())
		}
		require.NoError(t, stream.SendMsg(&message{}))
		require.NoError(t, stream.RecvMsg(&message{}))
		stop(server, served, p, conn)
	}))
	require.NoError(t, leaktest.Check(50, func() {
		server, served, p, conn := start()
		var wg sync.WaitGroup
		for _, method := range methods {
			wg.Go(func() { _, _ = call(t.Context(), conn, method) }) // ends in any way
		}
		wg.Go(func() { _ = p.Close() }) // first, which it should not
		wg.Go(func() { _ = conn.Close() })
		wg.Wait()
		stop(server, served, p, conn)
	}), "closed while it is used")
}
