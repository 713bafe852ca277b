//go:build unix

package bench

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// pick is a pool that chooses among endpoints with measured latencies.
type pick struct {
	name   string
	choose func() *pool.Endpoint
}

// verifier makes p a contestant of pace.
func (p pick) verifier() verifier {
	return verifier{worker: func() func(int) error {
		return func(int) error {
			if p.choose() == nil {
				return errNobody
			}
			return nil
		}
	}}
}

var errNobody = errors.New("nobody was chosen")

// picks is every balancer with n endpoints, of which one is ejected or none.
func picks(tb testing.TB, n int, out bool) (all []pick) {
	for _, b := range []struct {
		name     string
		balancer pool.Balancer
		key      pool.HashKey
	}{
		{"p2c", pool.P2C, pool.HashKey{}},
		{"round-robin", pool.RoundRobin, pool.HashKey{}},
		{"least-request", pool.LeastRequest, pool.HashKey{}},
		{"random", pool.Random, pool.HashKey{}},
		{"ring-hash", pool.RingHash, pool.HashKey{Header: "X-User"}},
	} {
		var addrs []string
		for i := range n {
			addrs = append(addrs, fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250+1))
		}
		p, err := pool.New(pool.Config{
			Name: "orders", Resolver: pool.Static(addrs...), Balancer: b.balancer, HashKey: b.key,
			Ejection: pool.Ejection{Base: time.Hour},
		})
		require.NoError(tb, err)
		tb.Cleanup(func() { assert.NoError(tb, p.Close()) })
		var chooser *pool.Chooser
		p.Watch(func(list []*pool.Endpoint) {
			now := time.Now()
			for i, e := range list {
				result := pool.Success
				if out && i == 0 {
					result = pool.Unreachable
				}
				e.Begin(tb.Context(), now.Add(-time.Millisecond)).Done(now, result)
			}
			chooser = p.Chooser(list)
		})()
		ctx, r := tb.Context(), pool.Request{Header: http.Header{"X-User": {"user-1234567890"}}}
		all = append(all, pick{b.name, func() *pool.Endpoint { return chooser.Choose(ctx, r) }})
	}
	return all
}

// BenchmarkPick is the cost of choosing one of five endpoints. Half of that of
// most is the clock.
func BenchmarkPick(b *testing.B) {
	for _, p := range picks(b, 5, false) {
		b.Run(p.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.choose()
			}
		})
	}
}

// TestPickCost prints what a choice costs, as medians of rounds in which the
// balancers take turns, and sees to it that no choice allocates:
//
//	go test -run PickCost -v ./bench -policy.rounds 15 -credential.time 300ms
//
// The goal, which -strict asserts of p2c and round-robin, is 100 ns at five
// endpoints, whether one is ejected or none.
func TestPickCost(t *testing.T) {
	var report strings.Builder
	fmt.Fprintf(&report, "\nCPU time of a choice, medians of %d rounds of %v; GOMAXPROCS %d\n", *policyRounds, *credentialTime, runtime.GOMAXPROCS(0))
	for _, setting := range []struct {
		n   int
		out bool
	}{{5, false}, {5, true}, {100, false}, {100, true}, {1_000, true}} {
		all := picks(t, setting.n, setting.out)
		costs := make([][]cost, len(all))
		for _, p := range all {
			require.NotNil(t, p.choose())
			assert.Zero(t, testing.AllocsPerRun(1_000, func() { p.choose() }), p.name)
		}
		for range *policyRounds {
			for i, p := range all {
				costs[i] = append(costs[i], pace(t, p.verifier(), 1, *credentialTime))
			}
		}
		fmt.Fprintf(&report, "%d endpoints, one out: %t\n", setting.n, setting.out)
		for i, p := range all {
			ns := median(costs[i], func(c cost) float64 { return c.cpu })
			fmt.Fprintf(&report, "  %-14s %6.0f ns\n", p.name, ns)
			if *strict && setting.n == 5 && (p.name == "p2c" || p.name == "round-robin") {
				assert.LessOrEqual(t, ns, 100.0, p.name)
			}
		}
	}
	t.Log(report.String())
}
