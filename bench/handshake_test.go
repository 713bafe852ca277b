//go:build unix

package bench

import (
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// The front door: handshakes with the configuration that mtls makes for it, and
// with one that crypto/tls is given by hand, with the same ECDSA P-256
// certificate. Client and server are one process and talk over net.Pipe, so
// that a figure is of both sides of TLS and of no socket. After the handshake
// the server sends a byte, as a TLS 1.3 client gets its ticket no sooner.

var (
	handshakeRounds = flag.Int("handshake.rounds", 3, "rounds of TestHandshakeCost")
	handshakeCalls  = flag.Int("handshake.calls", 60, "handshakes of each contestant in a round of TestHandshakeCost")
)

const edgeName = "api.example.com"

// edgeConfig is the server's configuration that is measured.
func edgeConfig(tb testing.TB, cert tls.Certificate) *tls.Config {
	edge, err := mtls.NewEdge(mtls.EdgeConfig{Certificates: []tls.Certificate{cert}})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, edge.Close()) })
	return edge.TLSConfig()
}

// plainEdge is what one writes without it.
func plainEdge(cert tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{cert}}
}

// handshakes are the contestants: of each kind plain and edge, one after the other.
func handshakes(tb testing.TB) []hop {
	ca, err := devca.New("cluster.local")
	require.NoError(tb, err)
	cert, err := ca.ServerCertificate(edgeName)
	require.NoError(tb, err)
	plain, edge := plainEdge(cert), edgeConfig(tb, cert)
	var all []hop
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, resumed := range []bool{false, true} {
			client := &tls.Config{
				MinVersion: version, MaxVersion: version, RootCAs: ca.Pool(), ServerName: edgeName, NextProtos: []string{"h2", "http/1.1"},
			}
			kind := "full-" + strings.ReplaceAll(tls.VersionName(version), "TLS ", "")
			if resumed {
				kind = strings.Replace(kind, "full", "resumed", 1)
			}
			all = append(all,
				hop{"plain-" + kind, handshaker(plain, client, resumed)},
				hop{"edge-" + kind, handshaker(edge, client, resumed)})
		}
	}
	return all
}

// handshaker makes one connection after the other, and insists on each being
// full or resumed. A session is one's own while one connects, as TLS 1.3 uses
// each ticket once.
func handshaker(server, client *tls.Config, resumed bool) func(int) error {
	sessions := make(chan *tls.Config, callers)
	for range callers {
		c := client.Clone()
		if resumed {
			c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		}
		sessions <- c
	}
	return func(int) error {
		c := <-sessions
		defer func() { sessions <- c }()
		if resumed {
			if _, ok := c.ClientSessionCache.Get(edgeName); !ok { // the first one, in the warm-up
				if err := handshake(server, c, false); err != nil {
					return err
				}
			}
		}
		return handshake(server, c, resumed)
	}
}

// handshake connects once.
func handshake(server, client *tls.Config, resumed bool) error {
	here, there := net.Pipe()
	defer here.Close()
	done := make(chan error, 1)
	go func() {
		defer there.Close()
		s := tls.Server(there, server)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		done <- err
	}()
	c := tls.Client(here, client)
	var b [1]byte
	if _, err := c.Read(b[:]); err != nil {
		return err
	}
	s := c.ConnectionState()
	if s.DidResume != resumed || s.NegotiatedProtocol != "h2" || s.Version != client.MaxVersion {
		return fmt.Errorf("resumed: %v, protocol %q, %s", s.DidResume, s.NegotiatedProtocol, tls.VersionName(s.Version))
	}
	return <-done
}

// warmHandshakes gives every client of every contestant a session.
func warmHandshakes(tb testing.TB, all []hop) {
	for _, c := range all {
		for i := range 2 * callers {
			require.NoError(tb, c.call(i), c.name)
		}
	}
}

// BenchmarkHandshake is what a handshake costs both sides, one at a time.
func BenchmarkHandshake(b *testing.B) {
	all := handshakes(b)
	warmHandshakes(b, all)
	for _, c := range all {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			before := usage()
			for b.Loop() {
				if err := c.call(0); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(usage()-before)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "handshakes/s")
		})
	}
}

// TestHandshakeCost prints the contestants side by side, as medians of rounds in
// which they take turns, and asserts nothing about them but that each handshake
// is full or resumed as it should be:
//
//	go test -run HandshakeCost -v ./bench -handshake.rounds 15 -handshake.calls 2000
func TestHandshakeCost(t *testing.T) {
	all := handshakes(t)
	warmHandshakes(t, all)
	workers := runtime.GOMAXPROCS(0)
	rounds := make([][]cost, len(all))
	for range *handshakeRounds {
		for i, c := range all {
			rounds[i] = append(rounds[i], measure(t, c, *handshakeCalls, workers))
		}
	}
	var report strings.Builder
	fmt.Fprintf(&report, "\nmedians of %d rounds of %d handshakes, %d at a time; CPU and allocations of client and server together\n",
		*handshakeRounds, *handshakeCalls, workers)
	fmt.Fprintf(&report, "%-18s %14s %10s %10s %14s\n", "", "handshakes/s", "cpu µs", "allocs", "cpu by plain")
	for i, c := range all {
		wall := median(rounds[i], func(c cost) float64 { return c.wall })
		fmt.Fprintf(&report, "%-18s %14.0f %10.1f %10.1f %14.3f\n", c.name, 1e9/wall, median(rounds[i], func(c cost) float64 { return c.cpu })/1e3,
			median(rounds[i], func(c cost) float64 { return c.allocs }), ratio(rounds[i], rounds[i-i%2]))
	}
	t.Log(report.String())
}

// TestHandshakesAreJudged sees to it that no contestant wins by resuming what
// should be full, or the other way round.
func TestHandshakesAreJudged(t *testing.T) {
	ca, err := devca.New("cluster.local")
	require.NoError(t, err)
	cert, err := ca.ServerCertificate(edgeName)
	require.NoError(t, err)
	for _, server := range []*tls.Config{plainEdge(cert), edgeConfig(t, cert)} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			client := &tls.Config{
				MinVersion: version, MaxVersion: version, RootCAs: ca.Pool(), ServerName: edgeName, NextProtos: []string{"h2"},
				ClientSessionCache: tls.NewLRUClientSessionCache(1),
			}
			require.ErrorContains(t, handshake(server, client, true), "resumed: false")
			require.NoError(t, handshake(server, client, true))
			require.ErrorContains(t, handshake(server, client, false), "resumed: true")
		}
	}
}
