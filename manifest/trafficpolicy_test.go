package manifest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

func destinationRule(spec string) []byte {
	return []byte(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d}
spec: {host: a, ` + spec + `}
`)
}

func TestTrafficPolicy(t *testing.T) {
	t.Parallel()
	set, err := manifest.Parse("a.yaml", []byte(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d}
spec:
  host: a
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 20, aggression: 1.5}}
    outlierDetection: {consecutive5xxErrors: 7, interval: 5m, baseEjectionTime: 15m, maxEjectionPercent: 40, minHealthPercent: 60}
    portLevelSettings: [{port: {number: 9}, loadBalancer: {simple: RANDOM}}]
  subsets:
    - {name: hash, labels: {v: "1"}, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}
    - {name: gate, labels: {v: "2"}, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 3}}}
    - {name: "off", labels: {v: "3"}, trafficPolicy: {loadBalancer: {simple: LEAST_CONN, warmupDurationSecs: 10s}, outlierDetection: {consecutive5xxErrors: 0, minHealthPercent: 0}}}
    - {name: port, labels: {v: "4"}, trafficPolicy: {portLevelSettings: [{port: {number: 9}, outlierDetection: {}}]}}
    - {name: plain, labels: {v: "5"}}
    - {name: cookie, labels: {v: "6"}, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c}}}}}
    - {name: address, labels: {v: "7"}, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}
    - {name: query, labels: {v: "8"}, trafficPolicy: {loadBalancer: {consistentHash: {httpQueryParameterName: q}}}}
`))
	require.NoError(t, err)
	line := func(n int) gatemesh.Position { return gatemesh.Position{File: "a.yaml", Line: n} }
	top := manifest.TrafficPolicy{
		Position: line(7), Balancer: pool.RoundRobin, Warmup: pool.Warmup{Duration: 30 * time.Second, MinimumPercent: 20, Aggression: 1.5}, MinHealthPercent: 60,
		Ejection: pool.Ejection{Failures: 7, Server5xx: true, Base: 15 * time.Minute, Max: 15 * time.Minute, MaxPercent: 40, Window: 5 * time.Minute},
	}
	with := func(at int, change func(*manifest.TrafficPolicy)) manifest.TrafficPolicy {
		p := top
		p.Position = line(at)
		change(&p)
		return p
	}
	hash := func(at int, key pool.HashKey) manifest.TrafficPolicy {
		return with(at, func(p *manifest.TrafficPolicy) { p.Balancer, p.HashKey, p.Warmup = pool.RingHash, key, pool.Warmup{} })
	}
	for subset, want := range map[string]manifest.TrafficPolicy{
		"":     top,
		"hash": hash(11, pool.HashKey{Header: "x-user"}),
		"gate": with(12, func(p *manifest.TrafficPolicy) {
			p.MinHealthPercent = 0
			p.Ejection = pool.Ejection{Failures: 3, Base: 30 * time.Second, Max: 5 * time.Minute}
		}),
		"off": with(13, func(p *manifest.TrafficPolicy) {
			p.Balancer, p.Warmup, p.MinHealthPercent = pool.LeastRequest, pool.Warmup{Duration: 10 * time.Second}, 1
			p.Ejection = pool.Ejection{Disable: true}
		}),
		"port":    top, // it says something about another port
		"plain":   top,
		"cookie":  hash(16, pool.HashKey{Cookie: "c"}),
		"address": hash(17, pool.HashKey{ClientAddress: true}),
		"query":   hash(18, pool.HashKey{Query: "q"}),
	} {
		got, said := set.TrafficPolicy(gatemesh.Destination{Service: "a", Namespace: "default", Subset: subset, Port: 8})
		assert.True(t, said)
		assert.Equal(t, want, got, subset)
		cfg := pool.Config{Name: "a", Resolver: pool.Static("127.0.0.1:1")}
		got.Configure(&cfg)
		p, err := pool.New(cfg)
		require.NoError(t, err, "the pool takes what the manifest takes")
		require.NoError(t, p.Close())
	}
	// A port stands for all of it.
	got, _ := set.TrafficPolicy(gatemesh.Destination{Service: "a", Namespace: "default", Subset: "hash", Port: 9})
	assert.Equal(t, manifest.TrafficPolicy{Position: line(9), Balancer: pool.Random}, got)
	got, _ = set.TrafficPolicy(gatemesh.Destination{Service: "a", Namespace: "default", Subset: "port", Port: 9})
	assert.Equal(t, manifest.TrafficPolicy{Position: line(14), Ejection: pool.Ejection{
		Failures: 5, Server5xx: true, Base: 30 * time.Second, Max: 5 * time.Minute,
	}}, got)
	_, said := set.TrafficPolicy(gatemesh.Destination{Service: "a", Namespace: "other"})
	assert.False(t, said)
	_, said = new(manifest.Set).TrafficPolicy(gatemesh.Destination{Service: "a"})
	assert.False(t, said)
}

// A subset replaces the tls of its service, and what is said about a port stands
// for all of it.
func TestTrafficPolicyTLS(t *testing.T) {
	t.Parallel()
	set, err := manifest.Parse("a.yaml", destinationRule(`
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, portLevelSettings: [{port: {number: 9}, loadBalancer: {simple: RANDOM}}, {port: {number: 10}, tls: {}}]},
  subsets: [
    {name: plain, labels: {v: "1"}, trafficPolicy: {tls: {mode: DISABLE}}},
    {name: balanced, labels: {v: "2"}, trafficPolicy: {loadBalancer: {simple: RANDOM}}},
  ]`))
	require.NoError(t, err)
	for _, tt := range []struct {
		subset string
		port   uint16
		want   manifest.TLSMode
	}{
		{"", 8, manifest.TLSMesh}, {"plain", 8, manifest.TLSDisable}, {"balanced", 8, manifest.TLSMesh},
		{"", 9, manifest.TLSUnset}, {"", 10, manifest.TLSDisable},
	} {
		got, said := set.TrafficPolicy(gatemesh.Destination{Service: "a", Namespace: "default", Subset: tt.subset, Port: tt.port})
		assert.True(t, said)
		assert.Equal(t, tt.want, got.TLS, "%s:%d", tt.subset, tt.port)
	}
}

func TestTrafficPolicyFaults(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]string{
		`{}`:                                    `says nothing; leave it out`,
		`{loadBalancer: {simple: PASSTHROUGH}}`: `.loadBalancer.simple: PASSTHROUGH is not supported by gatemesh; it must be UNSPECIFIED or ROUND_ROBIN or LEAST_REQUEST or LEAST_CONN or RANDOM`,
		`{loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}`:         `.loadBalancer.consistentHash: simple says it already; leave out either`,
		`{loadBalancer: {consistentHash: {}}}`:                                          `.loadBalancer.consistentHash: must have one of httpHeaderName, httpCookie, useSourceIp: true and httpQueryParameterName`,
		`{loadBalancer: {consistentHash: {useSourceIp: false}}}`:                        `.loadBalancer.consistentHash: must have one of httpHeaderName, httpCookie, useSourceIp: true and httpQueryParameterName`,
		`{loadBalancer: {consistentHash: {httpCookie: {name: a, ttl: 0s}}}}`:            `.loadBalancer.consistentHash.httpCookie.ttl: not supported by gatemesh: nobody sets the cookie`,
		`{loadBalancer: {consistentHash: {useSourceIp: true}, warmup: {duration: 1s}}}`: `.loadBalancer.warmup: has no effect with consistentHash, where a key belongs to its endpoint at once`,
		`{loadBalancer: {warmup: {duration: 2h}}}`:                                      `.loadBalancer.warmup: is longer than 1h`,
		`{loadBalancer: {warmup: {duration: 0s}}}`:                                      `.loadBalancer.warmup.duration: "0s" is shorter than 1ms`,
		`{loadBalancer: {warmup: {duration: 1s, aggression: 0}}}`:                       `.loadBalancer.warmup.aggression: must be at least 0.1`,
		`{loadBalancer: {warmup: {duration: 1s}, warmupDurationSecs: 1s}}`:              `.loadBalancer.warmupDurationSecs: warmup says it already; leave out either`,
		`{loadBalancer: {}}`: `.loadBalancer: says nothing; leave it out`,
		`{outlierDetection: {consecutiveGatewayErrors: 3}}`:               `.outlierDetection.consecutiveGatewayErrors: not supported by gatemesh beside consecutive5xxErrors, which is 5 if it is not there: either is counted, so write consecutive5xxErrors: 0`,
		`{outlierDetection: {interval: 10ms}}`:                            `.outlierDetection.interval: is not between 1s and 1h`,
		`{outlierDetection: {baseEjectionTime: 2h}}`:                      `.outlierDetection.baseEjectionTime: is not between 1ms and 1h`,
		`{outlierDetection: {maxEjectionPercent: 0}}`:                     `.outlierDetection.maxEjectionPercent: 0 is not between 1 and 100`,
		`{portLevelSettings: [{port: {number: 1}}, {port: {number: 1}}]}`: `.portLevelSettings[1].port.number: 1 is the port of spec.trafficPolicy.portLevelSettings[0] already`,
		`{connectionPool: {}}`:                                            `.connectionPool: not supported by gatemesh: how many connections there are, and for how long, is the server's own configuration, and how many calls that of its breaker, so leave it out`,
		`{tls: {mode: SIMPLE}}`:                                           `.tls.mode: SIMPLE is not supported by gatemesh; it must be DISABLE or ISTIO_MUTUAL`,
		`{tls: {mode: MUTUAL}}`:                                           `.tls.mode: MUTUAL is not supported by gatemesh; it must be DISABLE or ISTIO_MUTUAL`,
		`{tls: {mode: ISTIO_MUTUAL, sni: a.b}}`:                           `.tls.sni: not supported by gatemesh: it does not go with ISTIO_MUTUAL`,
		`{tls: {insecureSkipVerify: true}}`:                               `.tls.insecureSkipVerify: not supported by gatemesh: it does not go with ISTIO_MUTUAL`,
	} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			_, err := manifest.Parse("a.yaml", destinationRule("trafficPolicy: "+policy))
			if !strings.HasPrefix(want, ".") {
				want = ": " + want
			}
			assert.EqualError(t, err, "a.yaml:4: DestinationRule default/d: spec.trafficPolicy"+want)
		})
	}
	_, err := manifest.Parse("a.yaml", destinationRule(""))
	assert.EqualError(t, err, "a.yaml:4: DestinationRule default/d: spec: says nothing; it must have subsets or a trafficPolicy")
}
