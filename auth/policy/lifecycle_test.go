package policy

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
)

// TestLC01_Lifecycle does not run in parallel: it counts what is left. An
// Engine needs no closing.
func TestLC01_Lifecycle(t *testing.T) {
	pay := call(t, gatemesh.CallInfo{Peer: peer(t, "production", "order-service"), Method: "POST", Path: "/v1/payments/1"})
	require.NoError(t, leaktest.Check(1000, func() {
		e := engine(t, config(paymentPolicy()))
		require.Equal(t, Allow, verdict(t, e, pay))
		require.NoError(t, e.Update(config()))
		require.Equal(t, Deny, verdict(t, e, pay))
	}))
}

type seenKey struct{}

// Policies are replaced 1,000 times, in the middle of calls: each call is
// judged by one version from its hook to its last rule, and never by none.
func TestF12_NoCallSeesAMix(t *testing.T) {
	t.Parallel()
	var e *Engine
	var updates, allowed, refused atomic.Int64
	var versions [2]Config
	for v := range versions {
		mine, other := strconv.Itoa(v), strconv.Itoa(1-v)
		versions[v] = config(
			asking("ask", "update", to(Operation{Paths: []string{"/v"}})),
			policyOf("not the other", ActionDeny, Rule{
				To: []Operation{{Paths: []string{"/v"}}}, When: []Condition{{Key: "request.headers[X-Version]", Values: []string{other}}},
			}),
			policyOf("mine", ActionAllow, when("request.headers[X-Version]", mine)),
			policyOf("always", ActionAllow, to(Operation{Paths: []string{"/always"}})),
		)
		versions[v].Hooks = map[string]Hook{"update": func(ctx context.Context, _ *gatemesh.Call) error {
			*ctx.Value(seenKey{}).(*string) = mine
			return e.Update(versions[updates.Add(1)%2])
		}}
	}
	e = engine(t, versions[0])
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range 250 {
				var seen string
				ctx := context.WithValue(context.Background(), seenKey{}, &seen)
				version := strconv.Itoa(n % 2)
				_, err := e.Admit(ctx, call(t, gatemesh.CallInfo{Path: "/v", Header: http.Header{"X-Version": {version}}}))
				assert.Equal(t, seen == version, err == nil, "asked by %s, sent %s: %v", seen, version, err)
				if err == nil {
					allowed.Add(1)
				} else {
					refused.Add(1)
				}
				_, err = e.Admit(ctx, call(t, gatemesh.CallInfo{Path: "/always"}))
				assert.NoError(t, err)
				_, err = e.Admit(ctx, call(t, gatemesh.CallInfo{Path: "/never"}))
				assert.Error(t, err)
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 1000, updates.Load())
	assert.Positive(t, allowed.Load())
	assert.Positive(t, refused.Load())
}
