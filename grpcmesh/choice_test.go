package grpcmesh_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// addressed is a base of HTTP transports that answers with the address it was
// sent to.
type addressed struct{}

func (addressed) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: r,
		Body: io.NopCloser(strings.NewReader(r.URL.Host)),
	}, nil
}

// The two sides of a pool: which address a call with a key went to.
type side func(t *testing.T, key string) string

func overHTTP(p *pool.Pool) side {
	client := &http.Client{Transport: p.Transport(addressed{})}
	return func(t *testing.T, key string) string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", nil)
		require.NoError(t, err)
		if key != "" {
			r.Header.Set("X-User", key)
		}
		resp, err := client.Do(r)
		require.NoError(t, err)
		defer func() { require.NoError(t, resp.Body.Close()) }()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(b)
	}
}

func overGRPC(conn *grpc.ClientConn) side {
	return func(t *testing.T, key string) string {
		ctx := t.Context()
		if key != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-user", key)
		}
		var p peer.Peer
		require.NoError(t, conn.Invoke(ctx, checkMethod, &message{}, &message{}, grpc.Peer(&p)))
		return p.Addr.String()
	}
}

// choosing returns both sides of a pool with n endpoints in each of zones, all of
// which have a connection, and the endpoints' zones.
func choosing(t *testing.T, zones []string, n int, change func(*pool.Config)) (sides map[string]side, zoneOf map[string]string, p *pool.Pool) {
	t.Helper()
	var targets []pool.Target
	zoneOf = map[string]string{}
	all := backends(t, n*len(zones))
	for i, b := range all {
		zone := zones[i/n]
		targets = append(targets, pool.Target{Address: b.addr, Zone: zone})
		zoneOf[b.addr] = zone
	}
	cfg := pool.Config{Name: "callee", Resolver: pool.StaticTargets(targets...), Balancer: pool.RoundRobin}
	p = gatemesh.Must(pool.New(cfg))
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	conn := dialTo(t, p, grpcmesh.DialConfig{})
	connected(t, conn, all...) // in turn, each of them
	change(&cfg)
	require.NoError(t, p.Update(cfg))
	return map[string]side{"http": overHTTP(p), "grpc": overGRPC(conn)}, zoneOf, p
}

// HTTP and gRPC take the same endpoint for the same key.
func TestChoiceByKey(t *testing.T) {
	t.Parallel()
	sides, zoneOf, p := choosing(t, []string{""}, 4, func(c *pool.Config) { c.Balancer, c.HashKey.Header = pool.RingHash, "X-User" })
	got := map[string]int{}
	for i := range 100 {
		key := fmt.Sprintf("user-%d", i)
		addr := sides["http"](t, key)
		assert.Equal(t, addr, sides["grpc"](t, key), key)
		assert.Equal(t, addr, sides["grpc"](t, key), "again")
		got[addr]++
	}
	assert.Len(t, got, len(zoneOf))
	gone := sides["http"](t, "user-1")
	p.Watch(func(list []*pool.Endpoint) {
		for _, e := range list {
			if e.Address() == gone {
				e.Begin(context.Background(), time.Now()).Done(time.Now(), pool.Unreachable)
			}
		}
	})()
	next := sides["http"](t, "user-1")
	assert.NotEqual(t, gone, next, "ejected for both")
	assert.Equal(t, next, sides["grpc"](t, "user-1"))
}

// Each balancer, zones and slow start give endpoints the same shares over HTTP
// and over gRPC.
func TestChoiceAlike(t *testing.T) {
	t.Parallel()
	const calls = 300
	for name, tt := range map[string]struct {
		change func(*pool.Config)
		zones  []string
		want   map[string]int // calls to each endpoint, by zone
		within float64
	}{
		"round robin": {
			func(c *pool.Config) { c.Balancer = pool.RoundRobin },
			[]string{"a"}, map[string]int{"a": calls / 3}, 0,
		},
		"random": {
			func(c *pool.Config) { c.Balancer = pool.Random },
			[]string{"a"}, map[string]int{"a": calls / 3}, 50,
		},
		"least request": {
			func(c *pool.Config) { c.Balancer = pool.LeastRequest },
			[]string{"a"}, map[string]int{"a": calls / 3}, 50,
		},
		"zone": {
			func(c *pool.Config) { c.Balancer, c.Zone = pool.RoundRobin, "b" },
			[]string{"a", "b"}, map[string]int{"a": 0, "b": calls / 3}, 0,
		},
		"weights": {
			func(c *pool.Config) {
				targets, _ := c.Resolver.(pool.TargetResolver).Targets(context.Background())
				targets = slices.Clone(targets) // the pool reads its own
				for i := range targets {
					targets[i].Weight = 1
					if targets[i].Zone == "b" {
						targets[i].Weight = 4
					}
				}
				c.Resolver = pool.StaticTargets(targets...)
			},
			[]string{"a", "b"}, map[string]int{"a": calls / 15, "b": calls * 4 / 15}, 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sides, zoneOf, _ := choosing(t, tt.zones, 3, tt.change)
			for by, call := range sides {
				got := map[string]int{}
				for range calls {
					got[call(t, "")]++
				}
				for addr, zone := range zoneOf {
					assert.InDelta(t, tt.want[zone], got[addr], tt.within, "%s: %v", by, got)
				}
			}
		})
	}
}

// A new endpoint warms up for both.
func TestChoiceWarmup(t *testing.T) {
	t.Parallel()
	all := backends(t, 3)
	list := &book{addrs: addrs(all[:2]...)}
	cfg := poolOf(list)
	cfg.Balancer, cfg.Warmup.Duration, cfg.MaxStale = pool.RoundRobin, time.Hour, time.Hour
	p := gatemesh.Must(pool.New(cfg))
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	conn := dialTo(t, p, grpcmesh.DialConfig{})
	connected(t, conn, all[:2]...)
	list.set(p, addrs(all...)...)
	connected(t, conn, all[2])
	assert.Equal(t, pool.Warming, statusOf(t, p, all[2].addr).State)
	for by, call := range map[string]side{"http": overHTTP(p), "grpc": overGRPC(conn)} {
		got := 0
		for range 420 {
			if call(t, "") == all[2].addr {
				got++
			}
		}
		assert.InDelta(t, 20, got, 5, "%s: a tenth beside two others", by)
	}
}
