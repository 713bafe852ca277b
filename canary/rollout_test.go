package canary_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
)

// rolloutAt returns a rollout whose first step has that percentage.
func rolloutAt(t testing.TB, percent float64, edit ...func(*canary.RolloutConfig)) *canary.Rollout {
	t.Helper()
	cfg := canary.RolloutConfig{
		Service: "orders", Namespace: "production", Stable: "v1", Canary: "v2",
		Steps: []canary.Step{{Percent: percent, Pause: true}}, Store: canary.NewMemoryStore(),
	}
	for _, e := range edit {
		e(&cfg)
	}
	r, err := canary.NewRollout(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

func withRollout(t testing.TB, s services, rs ...*canary.Rollout) *canary.Splitter {
	t.Helper()
	cfg := canary.Config{Rollouts: rs}
	if s != nil {
		cfg.Services = s
	}
	split, err := canary.New(cfg)
	require.NoError(t, err)
	return split
}

func TestPX01_RolloutShares(t *testing.T) {
	t.Parallel()
	both := func(v1, v2 uint32) services {
		return services{"orders": {Backends: []gatemesh.WeightedDestination{subset("orders", "v1", v1), subset("orders", "v2", v2)}}}
	}
	tests := []struct {
		name    string
		rule    services
		percent float64
		want    map[string]float64
	}{
		{"nothing is said of the service", nil, 10, map[string]float64{"v1": 90, "v2": 10}},
		{"the rule's own weights do not count", both(1, 99), 10, map[string]float64{"v1": 90, "v2": 10}},
		{"nor that one is 0", both(100, 0), 0.5, map[string]float64{"v1": 99.5, "v2": 0.5}},
		{"the canary stands first", services{"orders": {Backends: []gatemesh.WeightedDestination{subset("orders", "v2", 0), subset("orders", "v1", 1)}}}, 25, map[string]float64{"v1": 75, "v2": 25}},
		{"others keep theirs", services{"orders": {Backends: []gatemesh.WeightedDestination{subset("orders", "v0", 50), subset("orders", "v1", 50), subset("orders", "v2", 0)}}}, 10, map[string]float64{"v0": 50, "v1": 45, "v2": 5}},
		{"a rule without the canary", services{"orders": {Backends: []gatemesh.WeightedDestination{subset("orders", "v1", 1)}}}, 10, map[string]float64{"v1": 100}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const n = 20_000
			s := withRollout(t, tt.rule, rolloutAt(t, tt.percent))
			count := map[string]int{}
			for i := range n {
				count[version(t, s, call(t, as(fmt.Sprintf("user-%d", i)), to("orders")))]++
			}
			require.Len(t, count, len(tt.want))
			for v, want := range tt.want {
				assert.InDelta(t, want, 100*float64(count[v])/n, 1, v)
			}
		})
	}
	_, err := withRollout(t, both(0, 0), rolloutAt(t, 10)).Admit(t.Context(), call(t, to("orders")))
	require.EqualError(t, err, "internal: no_backend: The request could not be processed.", "a rule that gives both nothing")
}

// TestPX01_RolloutMovesUsersOneWay, whatever stands beside the two and in
// whatever order.
func TestPX01_RolloutMovesUsersOneWay(t *testing.T) {
	t.Parallel()
	backends := []gatemesh.WeightedDestination{subset("orders", "v0", 30), subset("orders", "v1", 40), subset("orders", "v3", 20), subset("orders", "v2", 10), subset("orders", "v4", 7)}
	for shift := range backends {
		order := append(append([]gatemesh.WeightedDestination{}, backends[shift:]...), backends[:shift]...)
		rule := services{"orders": {Backends: order}}
		var before []string
		moved := 0
		for _, percent := range []float64{1, 10, 50, 99} {
			s := withRollout(t, rule, rolloutAt(t, percent))
			var now []string
			for i := range 1000 {
				now = append(now, version(t, s, call(t, as(fmt.Sprint(i)), to("orders"))))
			}
			for i := range before {
				if before[i] != now[i] {
					moved++
					require.Equal(t, [2]string{"v1", "v2"}, [2]string{before[i], now[i]}, "shift %d", shift)
				}
			}
			before = now
		}
		assert.Greater(t, moved, 300)
	}
	// Where a rule has no more than the two, those who have the canary by weight
	// keep it when a rollout takes over at the same share.
	two := services{"orders": {Backends: []gatemesh.WeightedDestination{subset("orders", "v1", 90), subset("orders", "v2", 10)}}}
	by, with := withServices(t, two), withRollout(t, two, rolloutAt(t, 10))
	for i := range 2000 {
		c := call(t, as(fmt.Sprint(i)), to("orders"))
		require.Equal(t, version(t, by, c), version(t, with, c))
	}
}

func TestRolloutAndLanes(t *testing.T) {
	t.Parallel()
	r := rolloutAt(t, 50)
	s := withRollout(t, nil, r)
	stableToo := 0
	for i := range 200 {
		c := func(l string) *gatemesh.Call { return call(t, as(fmt.Sprint(i)), to("orders"), lane(l)) }
		require.Equal(t, "v2", version(t, s, c("v2")))
		if version(t, s, c("v1")) == "v2" {
			stableToo++
		}
	}
	assert.InDelta(t, 100, stableToo, 40, "the stable version of another service is no lane here")
	require.NoError(t, r.Abort(t.Context()))
	for i := range 50 {
		require.Equal(t, "v1", version(t, s, call(t, as(fmt.Sprint(i)), to("orders"), lane("v2"))), "sticky users go back")
	}
}

func TestRolloutAllocations(t *testing.T) {
	r := rolloutAt(t, 10)
	s := withRollout(t, nil, r)
	ctx, c := t.Context(), call(t, as("user-1"), to("orders"))
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _, _ = s.AdmitCached(ctx, c) }))
	out := call(t, as("user-1"), func(in *gatemesh.CallInfo) {
		in.Parent, in.Destination = c, gatemesh.Destination{Service: "orders", Namespace: "production", Subset: "v2"}
	})
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		adm, _, _ := r.AdmitCached(ctx, out)
		adm.Finish.(gatemesh.Answerer).Answered(out, gatemesh.Attempt{Outcome: gatemesh.Outcome{Status: 200, Reached: true, Duration: time.Millisecond}})
		adm.Finish.Finish(out, gatemesh.Outcome{Status: 200, Reached: true})
	}))
}

// TestWhatCountsAsFailure runs in a bubble, so that a tick can be waited for.
func TestWhatCountsAsFailure(t *testing.T) {
	t.Parallel()
	denial := gatemesh.Deny(gatemesh.Unavailable, "circuit_open", "x")
	gone := gatemesh.Deny(gatemesh.Unavailable, "no_endpoint", "x")
	tests := []struct {
		name          string
		grpc, inbound bool
		o             gatemesh.Outcome
		calls, failed int
	}{
		{name: "200", o: gatemesh.Outcome{Status: 200, Reached: true}, calls: 1},
		{name: "404", o: gatemesh.Outcome{Status: 404, Code: gatemesh.NotFound, Reached: true}, calls: 1},
		{name: "429", o: gatemesh.Outcome{Status: 429, Code: gatemesh.ResourceExhausted, Reached: true}, calls: 1},
		{name: "500", o: gatemesh.Outcome{Status: 500, Code: gatemesh.Internal, Reached: true}, calls: 1, failed: 1},
		{name: "503", o: gatemesh.Outcome{Status: 503, Code: gatemesh.Unavailable, Reached: true}, calls: 1, failed: 1},
		{name: "no connection", o: gatemesh.Outcome{Code: gatemesh.Unavailable}, calls: 1, failed: 1},
		{name: "no answer in time", o: gatemesh.Outcome{Code: gatemesh.DeadlineExceeded, Expired: true}, calls: 1, failed: 1},
		{name: "read too slowly", o: gatemesh.Outcome{Status: 200, Code: gatemesh.DeadlineExceeded, Expired: true, Reached: true, Truncated: true}},
		{name: "the caller left", o: gatemesh.Outcome{Status: 500, Code: gatemesh.Canceled, Canceled: true}},
		{name: "cut short", o: gatemesh.Outcome{Status: 200, Code: gatemesh.Unavailable, Truncated: true, Reached: true}, calls: 1, failed: 1},
		{name: "refused by us", o: gatemesh.Outcome{Code: gatemesh.Unavailable, Denial: denial}},
		{name: "no endpoint is left", o: gatemesh.Outcome{Code: gatemesh.Unavailable, Denial: gone}, calls: 1, failed: 1},
		{name: "our transport panicked", o: gatemesh.Outcome{Code: gatemesh.Internal, Panicked: true}},
		{name: "gRPC", grpc: true, o: gatemesh.Outcome{Status: 200, Reached: true}, calls: 1},
		{name: "gRPC not found", grpc: true, o: gatemesh.Outcome{Status: 200, Code: gatemesh.NotFound, Reached: true}, calls: 1},
		{name: "gRPC unavailable", grpc: true, o: gatemesh.Outcome{Status: 200, Code: gatemesh.Unavailable, Reached: true}, calls: 1, failed: 1},
		{name: "gRPC unknown", grpc: true, o: gatemesh.Outcome{Code: gatemesh.Unknown, Reached: true}, calls: 1, failed: 1},
		{name: "gRPC internal", grpc: true, o: gatemesh.Outcome{Code: gatemesh.Internal, Reached: true}, calls: 1, failed: 1},
		{name: "gRPC data loss", grpc: true, o: gatemesh.Outcome{Code: gatemesh.DataLoss, Reached: true}, calls: 1, failed: 1},
		{name: "gRPC deadline", grpc: true, o: gatemesh.Outcome{Code: gatemesh.DeadlineExceeded}, calls: 1, failed: 1},
		{name: "refused by us as not found, after an attempt", inbound: true, o: gatemesh.Outcome{Code: gatemesh.NotFound, Denial: gatemesh.Deny(gatemesh.NotFound, "x", "x"), Attempts: 1}},
		{name: "gRPC unimplemented", grpc: true, o: gatemesh.Outcome{Code: gatemesh.Unimplemented, Reached: true}, calls: 1},
		{name: "gRPC data loss", grpc: true, o: gatemesh.Outcome{Code: gatemesh.DataLoss, Reached: true}, calls: 1, failed: 1},
		{name: "inbound, handler panicked", inbound: true, o: gatemesh.Outcome{Status: 500, Panicked: true}, calls: 1, failed: 1},
		{name: "inbound, refused by us", inbound: true, o: gatemesh.Outcome{Status: 503, Code: gatemesh.Unavailable, Denial: denial}},
		{name: "inbound, upstream away", inbound: true, o: gatemesh.Outcome{Status: 502, Code: gatemesh.Unavailable, Denial: denial, Attempts: 1}, calls: 1, failed: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rolloutAt(t, 10)
				c := call(t, func(in *gatemesh.CallInfo) {
					in.Destination = gatemesh.Destination{Service: "orders", Namespace: "production", Subset: "v2", Port: 80}
					if !tt.inbound {
						in.Parent = call(t)
					}
					if tt.grpc {
						in.Protocol = gatemesh.GRPC
					}
				})
				adm, err := r.Admit(t.Context(), c)
				require.NoError(t, err)
				adm.Finish.Finish(c, tt.o)
				time.Sleep(1100 * time.Millisecond)
				v := r.Status().Versions[1]
				assert.Equal(t, [2]int{tt.calls, tt.failed}, [2]int{v.Calls, v.Failed})
			})
		})
	}
	adm, err := rolloutAt(t, 10).Admit(t.Context(), call(t))
	require.NoError(t, err)
	assert.Nil(t, adm.Finish, "another service")
}

// TestRetriesHideNothing: the callers see no failure, and the analysis does.
func TestRetriesHideNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := rolloutAt(t, 50)
		out, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{
			Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"orders": {Service: "orders", Namespace: "production"}}),
			Layers: []gatemesh.Layer{
				withRollout(t, nil, r).Layer(),
				{Name: "retry", Retry: always{}, Gives: []gatemesh.Fact{gatemesh.FactAttempt}},
				r.Layer(),
			},
		})
		require.NoError(t, err)
		var mu sync.Mutex
		n := 0
		client := out.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			w := httptest.NewRecorder()
			if n++; gatemesh.FromContext(req.Context()).Destination().Subset == "v2" && n%2 == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return w.Result(), nil
		}))
		for range 400 {
			time.Sleep(10 * time.Millisecond)
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://orders/", nil)
			require.NoError(t, err)
			resp, err := client.RoundTrip(req)
			require.NoError(t, err)
			require.Equal(t, 200, resp.StatusCode)
			require.NoError(t, resp.Body.Close())
		}
		time.Sleep(1100 * time.Millisecond)
		s := r.Status()
		assert.Equal(t, canary.RolledBack, s.State.Phase)
	})
}

type always struct{}

func (always) Retry(_ context.Context, _ *gatemesh.Call, a gatemesh.Attempt) (time.Duration, bool) {
	return 0, a.Status == http.StatusServiceUnavailable
}

func TestRolloutFaults(t *testing.T) {
	t.Parallel()
	_, err := canary.NewRollout(canary.RolloutConfig{
		Stable: "v1", Canary: "v1", Interval: time.Millisecond,
		Steps: []canary.Step{{Percent: math.NaN()}, {Percent: -1}, {Percent: 0}, {Percent: 100}, {Percent: 0.001}, {Percent: 10}, {Percent: 10, Duration: -1}},
		Analysis: canary.Analysis{
			Window: 1, MinSamples: -1, ErrorMargin: math.NaN(), MaxErrorRate: 2, LatencyRatio: 0.5, LatencyMargin: -1, MaxLatency: -1,
		},
	})
	require.EqualError(t, err, `canary: RolloutConfig.Service is required
canary: RolloutConfig.Canary is "v1", as Stable is
canary: RolloutConfig.Store is required
canary: RolloutConfig.Interval is 1ms; it must be 100ms to 1m
canary: RolloutConfig.Analysis.Window is 1ns; it must be 5s to 1h
canary: RolloutConfig.Analysis.MinSamples is -1; it must be at least 1
canary: RolloutConfig.Analysis.ErrorMargin is NaN; it must be above 0, to 1
canary: RolloutConfig.Analysis.MaxErrorRate is 2; it must be 0 to 1
canary: RolloutConfig.Analysis.LatencyRatio is 0.5; it must be 1 to 1000
canary: RolloutConfig.Analysis.LatencyMargin must not be negative
canary: RolloutConfig.Analysis.MaxLatency must not be negative
canary: RolloutConfig.Steps[0].Percent is NaN; it must be between 0 and 100, in steps of 0.01
canary: RolloutConfig.Steps[1].Percent is -1; it must be between 0 and 100, in steps of 0.01
canary: RolloutConfig.Steps[2].Percent is 0; it must be between 0 and 100, in steps of 0.01
canary: RolloutConfig.Steps[3].Percent is 100; it must be between 0 and 100, in steps of 0.01
canary: RolloutConfig.Steps[4].Percent is 0.001; it must be between 0 and 100, in steps of 0.01
canary: RolloutConfig.Steps[6].Percent is 10, and must be above the one before it
canary: RolloutConfig.Steps[6].Duration must not be negative`)

	r := rolloutAt(t, 10)
	_, err = canary.New(canary.Config{Rollouts: []*canary.Rollout{nil, r, r}})
	require.EqualError(t, err, `canary: Config.Rollouts[0] is nil
canary: Config.Rollouts[2]: service orders.production has a rollout already`)
	require.Error(t, r.Update(canary.RolloutConfig{}))

	cfg := canary.RolloutConfig{
		Service: "orders", Namespace: "production", Stable: "v1", Canary: "v2", Steps: []canary.Step{{Percent: 1}}, Store: canary.NewMemoryStore(),
	}
	one, err := canary.NewRollout(cfg)
	require.NoError(t, err)
	defer func() { assert.NoError(t, one.Close()) }()
	for name, change := range map[string]func(*canary.RolloutConfig){
		"service":   func(c *canary.RolloutConfig) { c.Service = "users" },
		"namespace": func(c *canary.RolloutConfig) { c.Namespace = "" },
		"stable":    func(c *canary.RolloutConfig) { c.Stable = "v0" },
		"canary":    func(c *canary.RolloutConfig) { c.Canary = "v3" },
		"store":     func(c *canary.RolloutConfig) { c.Store = canary.NewMemoryStore() },
	} {
		other := cfg
		change(&other)
		require.ErrorContains(t, one.Update(other), "cannot be changed", name)
	}
	for name, change := range map[string]func(*canary.RolloutConfig){
		"Service":              func(c *canary.RolloutConfig) { c.Service = strings.Repeat("x", 254) },
		"ID":                   func(c *canary.RolloutConfig) { c.ID = "a\nb" },
		"Interval":             func(c *canary.RolloutConfig) { c.Interval = time.Minute + 1 },
		"Steps":                func(c *canary.RolloutConfig) { c.Steps = nil },
		"Steps[1].Percent":     func(c *canary.RolloutConfig) { c.Steps = []canary.Step{{Percent: 2}, {Percent: 1}} },
		"Analysis.Window":      func(c *canary.RolloutConfig) { c.Analysis.Window = 4 * time.Second },
		"Analysis.Window is":   func(c *canary.RolloutConfig) { c.Analysis.Window = time.Hour + 1 },
		"Analysis.ErrorMargin": func(c *canary.RolloutConfig) { c.Analysis.ErrorMargin = 1.5 },
		"Analysis.LatencyRati": func(c *canary.RolloutConfig) { c.Analysis.LatencyRatio = 1001 },
	} {
		other := cfg
		change(&other)
		require.ErrorContains(t, one.Update(other), "canary: RolloutConfig."+name)
	}
	require.NoError(t, one.Update(cfg), "the old one goes on")
}
