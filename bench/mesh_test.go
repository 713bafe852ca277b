//go:build unix

package bench

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// One server behind mutual TLS 1.3, asked on 64 connections that stay open,
// with HTTP/1.1 over loopback TCP. The same certificates, the same handler and
// the same client everywhere; what differs is in front of the handler:
//
//   - plain is net/http that demands and verifies client certificates;
//   - field is plain with a request id on the answer, as all below have one;
//   - entry is the configuration of mtls, and the Entry of a chain alone, with
//     the peer of the connection;
//   - gate adds the peer gate, which judges the certificate for each request;
//   - gatemesh adds an AuthorizationPolicy of ten rules, of which the last one
//     allows the call.
//
// The client writes a request that was made once and looks at no more of an
// answer than its status and length, so that the CPU time, which is that of
// both sides, is mostly the server's. The client ones are asked by the client of
// net/http, as services are.

const meshConnections = 64

var (
	meshRounds = flag.Int("mesh.rounds", 3, "rounds of TestMeshCost")
	meshCalls  = flag.Int("mesh.calls", 2000, "calls of each contestant in a round of TestMeshCost")
)

// meshRequest is what the clients send.
var meshRequest = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: payment-service\r\nUser-Agent: bench/1.0\r\nAccept: application/json\r\n"+
	"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%s", payPath, callBytes, question)

// meshID is as long as the ids that gatemesh makes.
var meshID = []string{strings.Repeat("5a", 16)}

// meshServers are the addresses of the contestants by name.
type meshServers struct {
	*hops
	names []string
	addr  map[string]string
}

func newMeshServers(tb testing.TB) *meshServers {
	ca, err := devca.New("cluster.local")
	require.NoError(tb, err)
	m := &meshServers{hops: &hops{ca: ca}, addr: map[string]string{}}
	add := func(name string, config *tls.Config, handler http.Handler) {
		config = config.Clone() // a server writes into its own
		config.NextProtos = []string{"http/1.1"}
		m.names, m.addr[name] = append(m.names, name), serveHTTP(tb, config, handler)
	}
	cert, err := ca.Issue(paymentID, time.Hour)
	require.NoError(tb, err)
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
	}
	add("plain", config, app)
	add("field", config, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()[gatemesh.RequestIDHeader] = meshID
		app(w, r)
	}))
	for _, name := range []string{"entry", "gate", "gatemesh"} {
		payment := m.member(tb, paymentID, orderID)
		entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{Peer: payment.Peer})
		require.NoError(tb, err)
		layers := map[string][]gatemesh.Layer{"gate": {payment.Layer()}, "gatemesh": {payment.Layer(), tenRules(tb)}}[name]
		chain, err := gatemesh.NewChain(entry, layers...)
		require.NoError(tb, err)
		add(name, payment.ServerConfig(), chain.Handler(app))
	}
	return m
}

// tenRules is the policy of payment-service.
func tenRules(tb testing.TB) gatemesh.Layer {
	var rules []policy.Rule
	for i := 10; i >= 1; i-- {
		rules = append(rules, policy.Rule{
			From: []policy.Source{{Principals: []string{strings.TrimPrefix(orderID, "spiffe://")}}},
			To:   []policy.Operation{{Methods: []string{"POST"}, Paths: []string{fmt.Sprintf("/v%d/payments/*", i)}}},
		})
	}
	engine, err := policy.New(policy.Config{
		Workload:   gatemesh.Workload{Name: "payment-service", TrustDomain: "cluster.local", Namespace: "bench", ServiceAccount: "payment-service"},
		Policies:   []policy.Policy{{Name: "ten", Namespace: "bench", Rules: rules}},
		Unselected: policy.Deny,
	})
	require.NoError(tb, err)
	return engine.Layer()
}

// dial opens a connection of a workload to a server.
func (m *meshServers) dial(tb testing.TB, id, name string) *meshConn {
	config, err := m.member(tb, id, paymentID).ClientConfig(exactly(tb, paymentID))
	require.NoError(tb, err)
	c, err := tls.Dial("tcp", m.addr[name], config)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = c.Close() }) // the server may have been faster
	return &meshConn{c, bufio.NewReader(c)}
}

// connect makes a contestant of n connections, each for one caller at a time.
func (m *meshServers) connect(tb testing.TB, name string, n int) hop {
	conns := make(chan *meshConn, n)
	for range n {
		conns <- m.dial(tb, orderID, name)
	}
	return hop{name, func(int) error {
		c := <-conns
		defer func() { conns <- c }()
		return c.ask(meshRequest)
	}}
}

// client makes a contestant of as many connections as there are callers.
func (m *meshServers) client(tb testing.TB, name string) hop {
	config, err := m.member(tb, orderID, paymentID).ClientConfig(exactly(tb, paymentID))
	require.NoError(tb, err)
	transport := &http.Transport{TLSClientConfig: config, MaxConnsPerHost: meshConnections, MaxIdleConnsPerHost: meshConnections, DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	c, ctx, url := &http.Client{Transport: transport}, tb.Context(), "https://"+m.addr[name]+payPath
	return hop{name + "-client", func(int) error { return postBy(ctx, c, 1, url) }}
}

type meshConn struct {
	*tls.Conn
	r *bufio.Reader
}

// errStatus is an answer that is not 200.
type errStatus string

func (e errStatus) Error() string { return "mesh: " + string(e) }

// ask sends a request and reads the answer to its end.
func (c *meshConn) ask(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.Equal(line, []byte("HTTP/1.1 200 OK\r\n")) {
		return errStatus(bytes.TrimSpace(line))
	}
	length := false
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		length = length || bytes.Equal(line, []byte("Content-Length: 1024\r\n"))
	}
	if !length {
		return errors.New("mesh: the answer has another length")
	}
	_, err = c.r.Discard(len(answer))
	return err
}

// meshContestants are the servers by name, and the first and the last of them
// once more for the client of net/http. All connections are made.
func meshContestants(tb testing.TB) (*meshServers, []hop) {
	m := newMeshServers(tb)
	var all []hop
	for _, name := range m.names {
		all = append(all, m.connect(tb, name, meshConnections))
	}
	all = append(all, m.client(tb, "plain"), m.client(tb, "gatemesh"))
	for _, c := range all {
		measure(tb, c, 10*meshConnections, meshConnections)
	}
	return m, all
}

// BenchmarkMesh is what a request costs both sides, on 64 connections.
func BenchmarkMesh(b *testing.B) {
	_, all := meshContestants(b)
	for _, c := range all {
		b.Run(c.name, func(b *testing.B) {
			b.ResetTimer()
			got := measure(b, c, b.N, meshConnections)
			b.ReportMetric(got.cpu, "cpu-ns/op")
			b.ReportMetric(got.allocs, "allocs/op")
			b.ReportMetric(got.bytes, "B/op")
			b.ReportMetric(1e9/got.wall, "req/s")
		})
	}
}

// TestMeshCost prints the contestants side by side, as medians of rounds in
// which they take turns:
//
//	go test -run MeshCost -v ./bench -mesh.rounds 25 -mesh.calls 20000
//
// The goal, which -strict asserts, is gatemesh within 3 % of the CPU time of plain.
func TestMeshCost(t *testing.T) {
	m, all := meshContestants(t)
	rounds := make([][]cost, len(all))
	for range *meshRounds {
		for i, c := range all {
			rounds[i] = append(rounds[i], measure(t, c, *meshCalls, meshConnections))
		}
	}
	byPlain := func(i int) float64 {
		if i >= len(m.names) {
			return ratio(rounds[i], rounds[len(m.names)])
		}
		return ratio(rounds[i], rounds[0])
	}
	var report strings.Builder
	fmt.Fprintf(&report, "\nmedians of %d rounds of %d calls on %d connections; CPU and allocations of client and server together\n",
		*meshRounds, *meshCalls, meshConnections)
	fmt.Fprintf(&report, "%-16s %10s %10s %10s %10s %14s\n", "", "cpu µs", "req/s", "allocs", "bytes", "cpu by plain")
	for i, c := range all {
		fmt.Fprintf(&report, "%-16s %10.2f %10.0f %10.1f %10.0f %14.3f\n", c.name, median(rounds[i], func(c cost) float64 { return c.cpu })/1e3,
			1e9/median(rounds[i], func(c cost) float64 { return c.wall }), median(rounds[i], func(c cost) float64 { return c.allocs }),
			median(rounds[i], func(c cost) float64 { return c.bytes }), byPlain(i))
	}
	t.Log(report.String())
	if *strict {
		assert.LessOrEqual(t, byPlain(len(m.names)-1), 1.03, "gatemesh by plain")
	}
}

// TestMeshAllocations bounds what a call allocates beyond the plain one.
func TestMeshAllocations(t *testing.T) {
	m := newMeshServers(t)
	plain, mesh := m.connect(t, "plain", 1), m.connect(t, "gatemesh", 1)
	extra := make([]cost, 5) // the median of them, as the runtime allocates now and then, too
	for i := range extra {
		extra[i].allocs = measure(t, mesh, 300, 1).allocs - measure(t, plain, 300, 1).allocs
	}
	got := median(extra, func(c cost) float64 { return c.allocs })
	t.Logf("%.1f allocations more", got)
	assert.LessOrEqual(t, got, 8.0)
}

// TestMeshIsGuarded sees to it that no contestant wins by not doing its work.
func TestMeshIsGuarded(t *testing.T) {
	m := newMeshServers(t)
	other, err := devca.New("cluster.local")
	require.NoError(t, err)
	foreign, err := other.Issue(orderID, time.Hour)
	require.NoError(t, err)
	for _, name := range m.names {
		require.NoError(t, m.dial(t, orderID, name).ask(meshRequest), name)
		// Nobody, and somebody of another authority.
		for _, certs := range [][]tls.Certificate{nil, {foreign}} {
			c, err := tls.Dial("tcp", m.addr[name], &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: certs})
			require.NoError(t, err) // the server's refusal comes after the client's last message
			assert.ErrorContains(t, (&meshConn{c, bufio.NewReader(c)}).ask(meshRequest), "remote error: tls", name)
			_ = c.Close()
		}
	}
	// Whom the authority knows and nobody lets in: plain does not look at ids.
	require.NoError(t, m.dial(t, strangerID, "plain").ask(meshRequest))
	for _, name := range []string{"entry", "gate", "gatemesh"} {
		assert.ErrorContains(t, m.dial(t, strangerID, name).ask(meshRequest), "remote error: tls", name)
	}
	// The policy, and it alone.
	undo := bytes.Replace(meshRequest, []byte("POST "), []byte("PUT "), 1)
	for _, name := range m.names {
		err := m.dial(t, orderID, name).ask(undo)
		if name == "gatemesh" {
			assert.Equal(t, errStatus("HTTP/1.1 403 Forbidden"), err)
		} else {
			assert.NoError(t, err, name)
		}
	}
}
