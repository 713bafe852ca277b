package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
	"github.com/gatemesh-go/gatemesh/internal/grpctest"
	"github.com/gatemesh-go/gatemesh/internal/race"
)

func paths(p ...string) Rule { return to(Operation{Paths: p}) }

// trial is a configuration that allows live and tries candidate.
func trial(live, candidate Rule) Config {
	cfg := config(policyOf("live", ActionAllow, live))
	cfg.Candidate = &Candidate{Policies: []Policy{policyOf("candidate", ActionAllow, candidate)}}
	return cfg
}

func dryRunOf(t testing.TB, e *Engine) DryRun {
	t.Helper()
	run, ok := e.DryRun()
	require.True(t, ok)
	return run
}

// Each call is judged as without a candidate, and the differences are those of
// two engines side by side.
func TestDryRunAgreesWithTwoEngines(t *testing.T) {
	t.Parallel()
	total := 0
	for seed := range uint64(race.Fewer(150)) {
		g := generator{rand.New(rand.NewPCG(seed, 11))}
		cfg, other := g.config(6), g.config(6)
		var asked int
		cfg.Hooks = map[string]Hook{
			"yes": func(context.Context, *gatemesh.Call) error { asked++; return nil },
			"no":  func(context.Context, *gatemesh.Call) error { asked++; return errors.New("no") },
		}
		alone := engine(t, cfg)
		cfg.Candidate = &Candidate{Policies: other.Policies, Unselected: other.Unselected}
		e := engine(t, cfg)
		second := cfg
		second.Policies, second.Unselected, second.Candidate = other.Policies, other.Unselected, nil
		next := engine(t, second)
		var differ uint64
		for range 30 {
			c := g.call(t)
			asked = 0
			_, want := alone.Admit(t.Context(), c)
			askedAlone := asked
			_, got := e.Admit(t.Context(), c)
			require.Equal(t, want == nil, got == nil)
			require.Equal(t, 2*askedAlone, asked, "the candidate asks no hook")
			// The candidate: hooks consent, but the one that refused does so again.
			would, hooks := next.Explain(c).Verdict, next.Explain(c).Hooks
			var h *hookRefusal
			if errors.As(want, &h) && strings.Contains(strings.Join(hooks, " "), h.provider) {
				would = Deny
			}
			if (would == Allow) != (want == nil) {
				differ++
			}
		}
		run := dryRunOf(t, e)
		require.Equal(t, uint64(30), run.Judged, "seed %d", seed)
		require.Equal(t, differ, run.Differing, "seed %d", seed)
		require.Zero(t, run.Failed)
		var sum uint64
		for _, d := range run.Differences {
			require.NotEqual(t, d.Live.Verdict, d.Candidate.Verdict)
			sum += d.Count
		}
		require.Equal(t, run.Differing, sum+run.Unlisted)
		total += int(differ)
	}
	assert.Greater(t, total, 500)
}

// Calls that differ in an id alone are one difference; what decides is kept apart.
func TestDryRunFoldsCalls(t *testing.T) {
	t.Parallel()
	e := engine(t, trial(paths("/v1/*", "/v2/*"), paths("/other")))
	ask := func(p *gatemesh.Peer, method, path string) {
		c := call(t, gatemesh.CallInfo{Peer: p, Method: method, Path: path})
		_, err := e.Admit(t.Context(), c)
		require.NoError(t, err)
	}
	order := peer(t, "production", "order-service")
	for i := range 5 {
		ask(order, "GET", fmt.Sprint("/v1/payments/", i))
	}
	ask(order, "GET", "/v1/payments/5e0c/items")
	ask(order, "GET", "/v2/payments/5")
	ask(order, "PUT", "/v1/payments/5")
	ask(nil, "GET", "/v1/payments/5")
	ask(order, "GET", "/v1/refunds/5")
	run := dryRunOf(t, e)
	assert.Equal(t, uint64(10), run.Differing)
	require.Len(t, run.Differences, 6)
	d := run.Differences[0]
	assert.Equal(t, uint64(5), d.Count)
	assert.Equal(t, "/v1/payments/0", d.Path, "the first")
	assert.Equal(t, order.ID(), d.Peer)
	assert.Equal(t, Allow, d.Live.Verdict)
	assert.Equal(t, "live", d.Live.Policy)
	assert.Equal(t, Deny, d.Candidate.Verdict)
	assert.Equal(t, `rule 1 of candidate: path "/v1/payments/0" is not /other`, d.Candidate.Reason)
	assert.False(t, d.Partial)
	assert.False(t, d.Last.Before(d.First))
}

// Whoever sends ever new paths or hosts fills neither the memory nor, alone, the list.
func TestDryRunIsBounded(t *testing.T) {
	t.Parallel()
	cfg := trial(paths("/*"), paths("/none"))
	cfg.Candidate.Limit = 40
	e := engine(t, cfg)
	letters := func(i int) string { return string([]byte{'a' + byte(i/26), 'a' + byte(i%26)}) }
	ask := func(p *gatemesh.Peer, n int) {
		for i := range n {
			c := call(t, gatemesh.CallInfo{Peer: p, Path: "/" + letters(i) + strings.Repeat("x", 2000)})
			_, err := e.Admit(t.Context(), c)
			require.NoError(t, err)
		}
	}
	ask(nil, 100)
	run := dryRunOf(t, e)
	require.Len(t, run.Differences, 10, "a quarter for one caller")
	assert.Equal(t, uint64(90), run.Unlisted)
	assert.Len(t, run.Differences[0].Path, maxKeptText)
	for i := range 10 {
		ask(peer(t, "production", letters(i)), 20)
	}
	run = dryRunOf(t, e)
	assert.Len(t, run.Differences, 40)
	assert.Equal(t, uint64(300), run.Differing)
	assert.Equal(t, uint64(260), run.Unlisted)
}

func TestDryRunKeepsNoSecret(t *testing.T) {
	t.Parallel()
	role := func(v string) Rule {
		return Rule{When: []Condition{
			{Key: "request.headers[X-Role]", Values: []string{v}},
			{Key: "request.auth.claims[group]", Values: []string{v}},
		}}
	}
	for name, cfg := range map[string]Config{
		"refused": trial(role("the-secret"), role("none")),
		"allowed": trial(role("none"), role("the-secret")),
		"hook":    trial(role("the-secret"), paths("/other")),
	} {
		if name == "hook" {
			cfg.Policies = append(cfg.Policies, Policy{Name: "ask", Namespace: "production", Action: ActionCustom, Provider: "h", Rules: []Rule{{}}})
			cfg.Hooks = map[string]Hook{"h": func(context.Context, *gatemesh.Call) error { return errors.New("the-secret") }}
			cfg.Candidate.Policies[0].Rules = []Rule{{}}
		}
		e := engine(t, cfg)
		_, _ = e.Admit(t.Context(), call(t, gatemesh.CallInfo{
			Path: "/x", RawQuery: "token=the-secret", Header: http.Header{"X-Role": {"the-secret"}, "Authorization": {"the-secret"}},
			Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
				Issuer: "i", Subject: "s", Claims: map[string]any{"group": "the-secret"}, Scopes: []string{"the-secret"}, Credential: "the-secret",
			}),
		}))
		run := dryRunOf(t, e)
		require.Len(t, run.Differences, 1, name)
		d := run.Differences[0]
		assert.Equal(t, name != "hook", d.Partial, "%s: %+v", name, d)
		shown, err := json.Marshal(run)
		require.NoError(t, err)
		assert.Contains(t, string(shown), `"subject":"s"`)
		// What a rule wants is configuration; it is not what came with the call.
		shown = []byte(strings.ReplaceAll(string(shown), "wanted the-secret", ""))
		assert.NotContains(t, string(shown), "the-secret", name)
		assert.Contains(t, string(shown), `"candidate":{"verdict":"`)
	}
}

// A candidate that fails changes nothing for the call.
func TestDryRunPanic(t *testing.T) {
	t.Parallel()
	e := engine(t, trial(paths("/a"), paths("/b")))
	e.state.Latest().dryRun.candidate = nil
	_, err := e.Admit(t.Context(), call(t, gatemesh.CallInfo{Path: "/a"}))
	assert.NoError(t, err)
	_, err = e.Admit(t.Context(), call(t, gatemesh.CallInfo{Path: "/b"}))
	assert.Error(t, err)
	assert.Equal(t, uint64(2), dryRunOf(t, e).Failed)
}

func TestDryRunAllocatesNothing(t *testing.T) {
	e := engine(t, trial(paths("/a/*"), paths("/a/*", "/b")))
	agreed := call(t, gatemesh.CallInfo{Path: "/a/1"})
	differs := call(t, gatemesh.CallInfo{Path: "/b"})
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = e.Admit(context.Background(), agreed) }))
	alone := engine(t, config(policyOf("live", ActionAllow, paths("/a/*"))))
	want := testing.AllocsPerRun(100, func() { _, _ = alone.Admit(context.Background(), differs) })
	_, _ = e.Admit(context.Background(), differs)
	assert.Equal(t, want, testing.AllocsPerRun(100, func() { _, _ = e.Admit(context.Background(), differs) }), "a difference that is known costs nothing either")
}

// A call that waits for a hook is judged once, by Admit.
func TestDryRunCountsOnce(t *testing.T) {
	t.Parallel()
	cfg := trial(paths("/*"), paths("/none"))
	cfg.Policies = append(cfg.Policies, Policy{Name: "ask", Namespace: "production", Action: ActionCustom, Provider: "h", Rules: []Rule{{}}})
	cfg.Hooks = map[string]Hook{"h": func(context.Context, *gatemesh.Call) error { return nil }}
	e := engine(t, cfg)
	c := call(t, gatemesh.CallInfo{Path: "/a"})
	_, ok, _ := e.AdmitCached(t.Context(), c)
	assert.False(t, ok)
	assert.Zero(t, dryRunOf(t, e).Judged)
	_, err := e.Admit(t.Context(), c)
	assert.NoError(t, err)
	assert.Equal(t, uint64(1), dryRunOf(t, e).Judged)

	for name, hooks := range map[string]bool{"cached": false, "with a hook": true} {
		next := cfg
		if !hooks {
			next.Policies = cfg.Policies[:1]
		}
		e := engine(t, next)
		chain, err := gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), e.Layer())
		require.NoError(t, err)
		service := grpctest.Serve(grpc.NewServer(gatemesh.Must(grpcmesh.NewServer(chain)).Options()...), nil)
		assert.Equal(t, "OK", service.Check())
		service.Close()
		w := httptest.NewRecorder()
		chain.Handler(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/x", nil))
		assert.Equal(t, 404, w.Code)
		run := dryRunOf(t, e)
		assert.Equal(t, uint64(2), run.Judged, name)
		require.Len(t, run.Differences, 2, name)
		assert.Equal(t, uint64(2), run.Differing, name)
		for _, d := range run.Differences {
			assert.Equal(t, d.Path == "/x", d.Protocol == gatemesh.HTTP, name)
		}
	}
}

func TestDryRunUpdate(t *testing.T) {
	t.Parallel()
	e := engine(t, config(paymentPolicy()))
	_, ok := e.DryRun()
	assert.False(t, ok)
	_, ok = (&Engine{}).DryRun()
	assert.False(t, ok)

	cfg := trial(paths("/a"), paths("/b"))
	require.NoError(t, e.Update(cfg))
	require.Equal(t, Allow, verdict(t, e, call(t, gatemesh.CallInfo{Path: "/a"})))
	assert.Equal(t, uint64(2), dryRunOf(t, e).Differing) // verdict asks Admit and AdmitCached

	bad := cfg
	bad.Candidate = &Candidate{Limit: -1, Unselected: 9, Policies: []Policy{policyOf("p", ActionAllow, paths("nothing")), policyOf("p", ActionAllow)}}
	err := e.Update(bad)
	for _, want := range []string{
		"Config.Candidate.Limit", "Config.Candidate: policy: ", "Unselected", `Paths[0] "nothing"`, "another policy of this name",
	} {
		assert.ErrorContains(t, err, want)
	}
	assert.Equal(t, uint64(2), dryRunOf(t, e).Differing, "the old one stays")

	// The candidate takes Unselected over, or has its own.
	cfg = config()
	cfg.Unselected, cfg.Candidate = Allow, &Candidate{}
	require.NoError(t, e.Update(cfg))
	verdict(t, e, call(t, gatemesh.CallInfo{}))
	assert.Equal(t, DryRun{Judged: 2, Differences: []Difference{}}, dryRunOf(t, e))
	cfg.Candidate = &Candidate{Unselected: Deny}
	require.NoError(t, e.Update(cfg))
	verdict(t, e, call(t, gatemesh.CallInfo{}))
	assert.Equal(t, uint64(2), dryRunOf(t, e).Differing)
}

// What the candidate says of itself, and its AUDIT rules, reach nobody.
func TestDryRunIsSilent(t *testing.T) {
	t.Parallel()
	var rec recorder
	cfg := config(paymentPolicy())
	cfg.Observer = &rec
	cfg.Candidate = &Candidate{Policies: []Policy{policyOf("all", ActionAllow, Rule{}), policyOf("audit", ActionAudit, Rule{})}}
	e := engine(t, cfg)
	verdict(t, e, call(t, gatemesh.CallInfo{}))
	assert.Empty(t, rec.messages(gatemesh.EventNotice))
	assert.Equal(t, uint64(2), dryRunOf(t, e).Differing)
}

// F-12 for candidates: under updates, calls are judged by live alone and each
// snapshot is whole.
func TestF12_DryRunUnderUpdates(t *testing.T) {
	t.Parallel()
	cfgs := []Config{trial(paths("/a"), paths("/b")), trial(paths("/a"), paths("/a"))}
	e := engine(t, cfgs[0])
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			c := call(t, gatemesh.CallInfo{Path: "/a", Host: fmt.Sprintf("h%d.test", i)})
			for range 300 {
				_, err := e.Admit(context.Background(), c)
				assert.NoError(t, err)
				run, ok := e.DryRun()
				assert.True(t, ok)
				assert.LessOrEqual(t, len(run.Differences), 4)
			}
		})
	}
	for i := range 100 {
		require.NoError(t, e.Update(cfgs[i%2]))
	}
	wg.Wait()
}

func TestVerdictText(t *testing.T) {
	t.Parallel()
	for _, v := range []Verdict{Allow, Deny} {
		b, err := v.MarshalText()
		require.NoError(t, err)
		var back Verdict
		require.NoError(t, back.UnmarshalText(b))
		assert.Equal(t, v, back)
	}
	_, err := Verdict(0).MarshalText()
	assert.Error(t, err)
	var v Verdict
	assert.ErrorContains(t, v.UnmarshalText([]byte("ALLOW")), `"ALLOW"`)
}

func BenchmarkDryRun(b *testing.B) {
	cfg := config(paymentPolicy())
	c := call(b, gatemesh.CallInfo{Peer: peer(b, "production", "order-service"), Method: "POST", Path: "/v1/payments/42"})
	for _, on := range []bool{false, true} {
		if on {
			cfg.Candidate = &Candidate{Policies: cfg.Policies}
		}
		e := engine(b, cfg)
		b.Run(fmt.Sprint("candidate=", on), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = e.Admit(context.Background(), c)
			}
		})
	}
}

// A hook that has refused a call would do so for the candidate, if that asks it.
func TestDryRunHookRefusesAgain(t *testing.T) {
	t.Parallel()
	ask := Policy{Name: "ask", Namespace: "production", Action: ActionCustom, Provider: "h", Rules: []Rule{{}}}
	cfg := trial(paths("/*"), paths("/*"))
	cfg.Policies = append(cfg.Policies, ask)
	cfg.Hooks = map[string]Hook{"h": func(context.Context, *gatemesh.Call) error { return errors.New("no") }}
	for differ, policies := range [][]Policy{append([]Policy{ask}, cfg.Candidate.Policies...), cfg.Candidate.Policies} {
		cfg.Candidate = &Candidate{Policies: policies}
		e := engine(t, cfg)
		_, err := e.Admit(t.Context(), call(t, gatemesh.CallInfo{Path: "/a"}))
		require.Error(t, err)
		assert.Equal(t, uint64(differ), dryRunOf(t, e).Differing)
	}
}
