package devca_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

func TestNewClient_Invalid(t *testing.T) {
	t.Parallel()
	_, err := devca.NewClient(t.Context(), devca.ClientConfig{Timeout: -1, Socket: "relative"})
	for _, want := range []string{"Workload", "Timeout", "Socket"} {
		assert.ErrorContains(t, err, want)
	}
	_, err = devca.NewClient(t.Context(), devca.ClientConfig{ID: "x"})
	assert.ErrorContains(t, err, "ClientConfig.ID")
	path := socket(t)
	synctest.Test(t, func(t *testing.T) { // has time for all attempts, however slow the machine is
		_, err := devca.NewClient(t.Context(), devca.ClientConfig{ID: id, Socket: path})
		assert.ErrorIs(t, err, os.ErrNotExist, "says why nobody was there")
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = devca.NewClient(ctx, devca.ClientConfig{ID: id, Socket: socket(t)})
	assert.Error(t, err)
}

// TestClient_Mesh has two workloads with certificates of a server on a real
// socket talk to each other, and strangers refused.
func TestClient_Mesh(t *testing.T) {
	t.Parallel()
	path := socket(t)
	newServer(t, devca.ServerConfig{CA: gatemesh.Must(devca.New("cluster.local")), Socket: path})
	join := func(id string) *mtls.TLS {
		c, err := devca.NewClient(t.Context(), devca.ClientConfig{ID: id, Socket: path})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.Close()); require.NoError(t, c.Close()) })
		assert.Equal(t, "development workload "+id, fmt.Sprintf("%+v", c))
		return gatemesh.Must(mtls.New(mtls.Config{Source: c, Authorize: gatemesh.Must(mtls.MemberOf("cluster.local"))}))
	}
	a, b := join(id), join("spiffe://cluster.local/b")
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Listener = tls.NewListener(server.Listener, b.ServerConfig())
	server.Start()
	defer server.Close()
	tr := gatemesh.Must(a.Transport(gatemesh.Must(mtls.Exactly("spiffe://cluster.local/b"))))
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://" + server.Listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, 404, resp.StatusCode)
}

func TestClient_Refused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pipes := devca.NewPipes()
		server := gatemesh.Must(devca.NewServerOn(devca.ServerConfig{
			CA: gatemesh.Must(devca.New("cluster.local")), Allow: []string{id},
		}, pipes))
		synctest.Wait()
		start := time.Now()
		_, err := devca.NewClientOn(t.Context(), devca.ClientConfig{ID: "spiffe://cluster.local/b"}, pipes)
		assert.ErrorContains(t, err, "not allowed")
		assert.Less(t, time.Since(start), time.Second, "it does not wait for another answer")
		require.NoError(t, server.Close())
	})
}

// TestClient_Days follows two clients of a server through a day and more, with
// roots that last half of one.
func TestClient_Days(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pipes := devca.NewPipes()
		ca := gatemesh.Must(devca.NewCA(devca.Config{TrustDomain: "cluster.local", RootLifetime: 12 * time.Hour}))
		server := gatemesh.Must(devca.NewServerOn(devca.ServerConfig{CA: ca}, pipes))
		synctest.Wait()
		var heard events
		a := gatemesh.Must(devca.NewClientOn(t.Context(), devca.ClientConfig{ID: id, Observer: &heard}, pipes))
		b := gatemesh.Must(devca.NewClientOn(t.Context(), devca.ClientConfig{ID: "spiffe://cluster.local/b"}, pipes))
		first := a.Credentials()
		time.Sleep(40*time.Minute - time.Second)
		synctest.Wait()
		assert.Same(t, first, a.Credentials(), "the same pointer until something changes")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		second := a.Credentials()
		assert.NotEqual(t, first.Certificate.Leaf.PublicKey, second.Certificate.Leaf.PublicKey)
		assert.Same(t, first.Bundles, second.Bundles)

		leaves := map[string]bool{}
		for range 30 * 12 {
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			good(t, ca.Bundle(), a)
			good(t, ca.Bundle(), b)
			leaves[string(a.Credentials().Certificate.Leaf.Raw)] = true
		}
		assert.InDelta(t, 30*60/40, len(leaves), 3)
		assert.Zero(t, heard.faults.Load())
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		require.NoError(t, server.Close())
	})
}

// TestClient_Quiet: while nothing happens there is one connection, on which the
// server holds its answers.
func TestClient_Quiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pipes := devca.NewPipes()
		server := gatemesh.Must(devca.NewServerOn(devca.ServerConfig{CA: gatemesh.Must(devca.New("cluster.local"))}, pipes))
		c := gatemesh.Must(devca.NewClientOn(t.Context(), devca.ClientConfig{ID: id}, pipes))
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		assert.EqualValues(t, 1, pipes.Dials.Load())
		assert.InDelta(t, 60, pipes.Writes.Load(), 3, "a question each 30 s")
		start := time.Now()
		require.NoError(t, server.Close())
		assert.Less(t, time.Since(start), time.Second/2, "answers that are held do not hold the server")
		require.NoError(t, c.Close())
	})
}

// TestServer_SlowRequest: who sends a request bit by bit is not waited for.
func TestServer_SlowRequest(t *testing.T) {
	t.Parallel()
	for _, begin := range []string{"POST /v1/cert", "POST /v1/certificate HTTP/1.1\r\nHost: devca\r\nContent-Length: 100\r\n\r\nx"} {
		synctest.Test(t, func(t *testing.T) {
			pipes := devca.NewPipes()
			server := gatemesh.Must(devca.NewServerOn(devca.ServerConfig{CA: gatemesh.Must(devca.New("cluster.local"))}, pipes))
			conn, err := pipes.Dial(t.Context())
			require.NoError(t, err)
			_, err = conn.Write([]byte(begin))
			require.NoError(t, err)
			start := time.Now()
			_, err = io.Copy(io.Discard, conn)
			require.NoError(t, err)
			assert.Equal(t, 10*time.Second, time.Since(start))
			require.NoError(t, conn.Close())
			require.NoError(t, server.Close())
		})
	}
}

func TestClient_FollowsRoots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pipes := devca.NewPipes()
		ca := gatemesh.Must(devca.New("cluster.local"))
		server := gatemesh.Must(devca.NewServerOn(devca.ServerConfig{CA: ca}, pipes))
		synctest.Wait()
		c := gatemesh.Must(devca.NewClientOn(t.Context(), devca.ClientConfig{ID: id}, pipes))
		first := c.Credentials()
		time.Sleep(time.Minute) // past the first answer that was held
		require.NoError(t, ca.Rotate())
		synctest.Wait() // no time passes
		second := c.Credentials()
		assert.NotSame(t, first.Bundles, second.Bundles)
		assert.Equal(t, first.Certificate.Leaf, second.Certificate.Leaf, "its own root is still trusted")
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Same(t, second, c.Credentials())
		require.NoError(t, ca.Retire())
		synctest.Wait()
		good(t, ca.Bundle(), c)
		require.NoError(t, c.Close())
		require.NoError(t, server.Close())
	})
}

func TestClient_ServerRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pipes := devca.NewPipes()
		start := func() (*devca.CA, *devca.Server) {
			ca := gatemesh.Must(devca.New("cluster.local"))
			s := gatemesh.Must(devca.NewServerOn(devca.ServerConfig{CA: ca}, pipes))
			synctest.Wait()
			return ca, s
		}
		_, server := start()
		var heard events
		c := gatemesh.Must(devca.NewClientOn(t.Context(), devca.ClientConfig{ID: id, Observer: &heard}, pipes))
		first := c.Credentials()
		require.NoError(t, server.Close())
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		assert.Same(t, first, c.Credentials(), "the last one, although it has expired")
		assert.EqualValues(t, 1, heard.faults.Load(), "once")

		ca, server := start()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		good(t, ca.Bundle(), c)
		assert.NotSame(t, first.Bundles, c.Credentials().Bundles)

		// Restarted before the certificate is due.
		require.NoError(t, server.Close())
		time.Sleep(time.Minute)
		second := c.Credentials()
		ca, server = start()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		assert.NotSame(t, second, c.Credentials())
		good(t, ca.Bundle(), c)
		assert.EqualValues(t, 2, heard.faults.Load(), "once each")
		require.NoError(t, c.Close())
		require.NoError(t, server.Close())
	})
}

func TestClient_WaitsForServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pipes := devca.NewPipes()
		started := make(chan *devca.Server, 1)
		time.AfterFunc(5*time.Second, func() {
			started <- gatemesh.Must(devca.NewServerOn(devca.ServerConfig{CA: gatemesh.Must(devca.New("cluster.local"))}, pipes))
		})
		c, err := devca.NewClientOn(t.Context(), devca.ClientConfig{ID: id}, pipes)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, (<-started).Close())
		begin := time.Now()
		_, err = devca.NewClientOn(t.Context(), devca.ClientConfig{ID: id, Timeout: 7 * time.Second}, pipes)
		assert.ErrorContains(t, err, "nobody listens")
		assert.Equal(t, 7*time.Second, time.Since(begin))
	})
}

// TestClient_BadServer has answers that no [devca.Server] gives.
func TestClient_BadServer(t *testing.T) {
	t.Parallel()
	ca, other := gatemesh.Must(devca.New("cluster.local")), gatemesh.Must(devca.New("cluster.local"))
	leaf := gatemesh.Must(ca.Issue(id, time.Hour)).Leaf.Raw
	root, otherRoot := ca.Bundle()[0].Raw, other.Bundle()[0].Raw
	many := make([][]byte, 33)
	for i := range many {
		many[i] = root
	}
	reply := func(cert []byte, roots ...[]byte) string {
		return string(gatemesh.Must(json.Marshal(map[string]any{"certificate": cert, "roots": roots})))
	}
	for want, answer := range map[string]func(csr []byte) string{
		"invalid character":     func([]byte) string { return "x" },
		"0 roots":               func([]byte) string { return "{}" },
		"33 roots":              func(csr []byte) string { return reply(devca.Sign(ca, id, csr), many...) },
		"root that cannot be":   func(csr []byte) string { return reply(devca.Sign(ca, id, csr), []byte("x")) },
		"is no CA":              func(csr []byte) string { return reply(devca.Sign(ca, id, csr), leaf) },
		"x509: malformed":       func([]byte) string { return reply(nil, root) },
		"key does not belong":   func([]byte) string { return reply(leaf, root) },
		"do not vouch":          func(csr []byte) string { return reply(devca.Sign(ca, id, csr), otherRoot) },
		"certificate of spiffe": func(csr []byte) string { return reply(devca.Sign(ca, "spiffe://cluster.local/b", csr), root) },
		"too long":              func(csr []byte) string { return reply(make([]byte, 300<<10), root) },
	} {
		synctest.Test(t, func(t *testing.T) {
			pipes := devca.NewPipes()
			l := devca.ListenOn(pipes)
			s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				csr, err := io.ReadAll(r.Body)
				assert.NoError(t, err)
				_, _ = w.Write([]byte(answer(csr)))
			})}
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			_, err := devca.NewClientOn(t.Context(), devca.ClientConfig{ID: id}, pipes)
			assert.ErrorContains(t, err, want)
			require.NoError(t, s.Close())
			assert.ErrorIs(t, <-served, http.ErrServerClosed)
		})
	}
}

// TestClient_KeepsGoodThroughBad replaces a server by one that signs for
// somebody else, and by one that answers nonsense.
func TestClient_KeepsGoodThroughBad(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]func(w http.ResponseWriter){
		"nonsense": func(w http.ResponseWriter) { _, _ = w.Write([]byte("{}")) },
		"error":    func(w http.ResponseWriter) { w.WriteHeader(500) },
		"redirect": func(w http.ResponseWriter) { w.Header().Set("Location", "/x"); w.WriteHeader(302) },
	} {
		synctest.Test(t, func(t *testing.T) {
			pipes := devca.NewPipes()
			server := gatemesh.Must(devca.NewServerOn(devca.ServerConfig{CA: gatemesh.Must(devca.New("cluster.local"))}, pipes))
			synctest.Wait()
			var heard events
			c := gatemesh.Must(devca.NewClientOn(t.Context(), devca.ClientConfig{ID: id, Observer: &heard}, pipes))
			first := c.Credentials()
			require.NoError(t, server.Close())
			var asked atomic.Int64
			l := devca.ListenOn(pipes)
			s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); bad(w) })}
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			assert.Same(t, first, c.Credentials(), name)
			assert.EqualValues(t, 1, heard.faults.Load(), name)
			assert.InDelta(t, 120, asked.Load(), 30, "%s: no more often than every 5 s", name)
			require.NoError(t, c.Close())
			require.NoError(t, s.Close())
			require.True(t, errors.Is(<-served, http.ErrServerClosed))
		})
	}
}

// TestClient_HastyServer has a server that never holds an answer.
func TestClient_HastyServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pipes := devca.NewPipes()
		ca := gatemesh.Must(devca.New("cluster.local"))
		server := gatemesh.Must(devca.NewServerOn(devca.ServerConfig{CA: ca}, pipes))
		synctest.Wait()
		c := gatemesh.Must(devca.NewClientOn(t.Context(), devca.ClientConfig{ID: id}, pipes))
		require.NoError(t, server.Close())
		var asked atomic.Int64
		l := devca.ListenOn(pipes)
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			_, _ = w.Write(gatemesh.Must(json.Marshal(map[string]any{"roots": [][]byte{ca.Bundle()[0].Raw}})))
		})}
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.InDelta(t, 600, asked.Load(), 20)
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
		<-served
	})
}

// TestLC01_Source does not run in parallel: it counts what is left.
func TestLC01_Source(t *testing.T) {
	ca := gatemesh.Must(devca.New("cluster.local"))
	require.NoError(t, leaktest.Check(1000, func() {
		s := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: id}))
		require.NoError(t, s.Renew())
		require.NotNil(t, s.Credentials())
		require.NoError(t, s.Close())
		require.NoError(t, s.Close())
	}))
}

// TestLC01_ServerClient does not run in parallel: it counts what is left.
func TestLC01_ServerClient(t *testing.T) {
	ca := gatemesh.Must(devca.New("cluster.local"))
	path := socket(t)
	require.NoError(t, leaktest.Check(1000, func() {
		s, err := devca.NewServer(devca.ServerConfig{CA: ca, Socket: path})
		require.NoError(t, err)
		c, err := devca.NewClient(t.Context(), devca.ClientConfig{ID: id, Socket: path})
		require.NoError(t, err)
		first := c.Credentials()
		require.NoError(t, ca.Rotate())
		require.Eventually(t, func() bool { return c.Credentials() != first }, time.Minute, 100*time.Microsecond)
		require.NoError(t, ca.Retire())
		done := make(chan struct{})
		go func() { defer close(done); assert.NoError(t, s.Close()) }()
		assert.NoError(t, c.Close())
		<-done
		assert.NoError(t, c.Close())
		assert.NoError(t, s.Close())
	}))
}

var _ mtls.Source = (*devca.Client)(nil)
