package manifest_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/internal/race"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/routing"
)

// version is a folder in which everything is about one service: what is routed,
// split, accepted and allowed.
func version(service, subset string, s signer) string {
	return strings.NewReplacer("SERVICE", service, "SUBSET", subset, "JWKS", s.jwks()).Replace(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: shop}
spec:
  gatewayClassName: gatemesh
  listeners: [{name: http, protocol: HTTP, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{name: gw}]
  rules:
  - backendRefs: [{name: SERVICE, port: 80}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: SERVICE, namespace: shop}
spec:
  hosts: [SERVICE]
  http:
  - route: [{destination: {host: SERVICE, subset: SUBSET}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: SERVICE, namespace: shop}
spec:
  host: SERVICE
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: a, namespace: shop}
spec:
  jwtRules: [{issuer: SERVICE, audiences: [api], jwks: 'JWKS'}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  rules: [{from: [{source: {requestPrincipals: ["SERVICE/*"]}}], to: [{operation: {paths: ["/SERVICE"]}}]}]
`)
}

// stack is the inside of a gateway that follows a folder.
type stack struct {
	router *routing.Router
	who    *auth.Authenticator
	may    *policy.Engine
	split  *canary.Splitter
	keys   *manifest.Authentication
}

func (s *stack) configs(set *manifest.Set) (routing.Config, auth.Config, policy.Config, *manifest.Authentication, error) {
	keys, err := set.Authentication(manifest.AuthenticationConfig{Workload: gateway, Previous: s.keys})
	if err != nil {
		return routing.Config{}, auth.Config{}, policy.Config{}, nil, err
	}
	var to []routing.Upstream
	for _, service := range []string{"a", "b"} {
		for _, v := range []string{"v1", "v2"} {
			to = append(to, routing.Upstream{Service: service, Namespace: "shop", URL: "http://127.0.0.1:1", Labels: map[string]string{"version": v}})
		}
	}
	return routing.Config{
			Listeners: set.RouteListeners(nil), Routes: set.Routes(), Services: set.Services(gateway), Subsets: set.Subsets(), Upstreams: to,
		}, keys.Config(),
		policy.Config{Workload: gateway, Policies: set.Policies(), Unselected: policy.Deny}, keys, nil
}

func newStack(t *testing.T, set *manifest.Set) *stack {
	s := &stack{}
	r, a, p, keys, err := s.configs(set)
	require.NoError(t, err)
	s.router, s.who, s.may, s.keys = gatemesh.Must(routing.New(r)), gatemesh.Must(auth.New(a)), gatemesh.Must(policy.New(p)), keys
	s.split = gatemesh.Must(canary.New(canary.Config{Services: s.router}))
	t.Cleanup(func() {
		assert.NoError(t, s.router.Close())
		assert.NoError(t, s.keys.Close())
	})
	return s
}

// apply is what a server does with a Set.
func (s *stack) apply(set *manifest.Set) error {
	r, a, p, keys, err := s.configs(set)
	if err != nil {
		return err
	}
	if err := gatemesh.Apply(s.router.Change(r), s.who.Change(a), s.may.Change(p)); err != nil {
		_ = keys.Close() // what was in use stays
		return err
	}
	old := s.keys
	s.keys = keys
	return old.Close()
}

// TestF12_Reload: a folder is replaced 1,000 times under load. Every call that
// is let in was routed, authenticated, allowed and split by one and the same
// version of it, although the folder changes between any two of these. Nobody
// meets a policy that is not there.
func TestF12_Reload(t *testing.T) {
	t.Parallel()
	const callers = 4
	reloads := race.Fewer(1000)
	dir, keys := t.TempDir(), newSigner(1)
	texts := [2]string{version("a", "v1", keys), version("b", "v2", keys)}
	write(t, filepath.Join(dir, "all.yaml"), texts[0])
	first, err := manifest.LoadDir(dir)
	require.NoError(t, err)
	s := newStack(t, first)

	// changed is closed by the next change; ended, when there are no more.
	var changed atomic.Pointer[chan struct{}]
	fresh := func() { c := make(chan struct{}); changed.Store(&c) }
	fresh()
	applied, ended := make(chan struct{}), make(chan struct{})
	w, err := manifest.NewWatcher(manifest.WatcherConfig{
		Dir: dir, Current: first, Interval: time.Millisecond,
		Apply: func(set *manifest.Set) error {
			if err := s.apply(set); err != nil {
				return err
			}
			was := *changed.Load()
			fresh()
			close(was)
			applied <- struct{}{}
			return nil
		},
		Observer: gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) { assert.NoError(t, e.Err) }),
	})
	require.NoError(t, err)

	var between atomic.Int64
	// All callers but one wait for a change in the middle of each call; that one
	// waits every 16th time, so that calls begin in the middle of changes, too.
	change := func(name string) gatemesh.Layer {
		return gatemesh.Layer{Name: name, Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			if c.RawQuery() == "" {
				return gatemesh.Admission{}, nil
			}
			select {
			case <-*changed.Load():
				between.Add(1)
			case <-ended:
			}
			return gatemesh.Admission{}, nil
		})}
	}
	chain, err := gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})),
		s.router.Layer(), change("one"), s.who.Layer(), change("two"), s.may.Layer(), change("three"), s.split.Layer())
	require.NoError(t, err)
	h := chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := gatemesh.FromContext(r.Context()).Destination()
		_, _ = fmt.Fprint(w, "/", to.Service, to.Subset)
	}))

	var load sync.WaitGroup
	var admitted, strangers, nobody atomic.Int64
	tokens := map[string]http.Header{"/a": bearer(keys.token("a", "api")), "/b": bearer(keys.token("b", "api"))}
	want := map[string]string{"/a": "/av1", "/b": "/bv2"}
	for i := range callers {
		load.Go(func() {
			for n := i; ; n++ {
				select {
				case <-ended:
					return
				default:
				}
				path := [2]string{"/a", "/b"}[n%2]
				target := path
				if i > 0 || n%16 == 0 {
					target += "?wait"
				}
				answer := serve(t, h, target, tokens[path])
				switch answer.Code {
				case http.StatusOK:
					admitted.Add(1)
					assert.Equal(t, want[path], answer.Body.String())
				case http.StatusUnauthorized: // the other version: its tokens are of another issuer
					strangers.Add(1)
				default:
					assert.Fail(t, "a mix", "%d %s", answer.Code, answer.Body)
				}
				if n%8 == 7 {
					nobody.Add(1)
					assert.Equal(t, http.StatusForbidden, serve(t, h, target, nil).Code, "a policy is always there")
				}
			}
		})
	}
	for n := range reloads {
		next := filepath.Join(dir, "next")
		write(t, next, fmt.Sprintf("%s# %d\n", texts[(n+1)%2], n))
		require.NoError(t, os.Rename(next, filepath.Join(dir, "all.yaml")))
		<-applied
	}
	close(ended)
	load.Wait()
	require.NoError(t, w.Close())
	for _, n := range []*atomic.Int64{&between, &admitted, &strangers, &nobody} {
		assert.Positive(t, n.Load())
	}
	t.Logf("%d reloads: %d let in, %d of the other issuer, %d without a token, %d changes in the middle of a call",
		reloads, admitted.Load(), strangers.Load(), nobody.Load(), between.Load())
}

// A configuration that one component refuses changes none of them.
func TestRefusedReload(t *testing.T) {
	t.Parallel()
	keys := newSigner(1)
	parse := func(text string) *manifest.Set {
		set, err := manifest.Parse("a.yaml", []byte(text))
		require.NoError(t, err)
		return set
	}
	s := newStack(t, parse(version("a", "v1", keys)))
	chain, err := gatemesh.NewChain(gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})), s.router.Layer(), s.who.Layer(), s.may.Layer(), s.split.Layer())
	require.NoError(t, err)
	h := chain.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	good := func() int { return serve(t, h, "/a", bearer(keys.token("a", "api"))).Code }
	require.Equal(t, 200, good())
	err = s.apply(parse(strings.ReplaceAll(version("b", "v2", keys), "name: b, port", "name: c, port")))
	require.ErrorContains(t, err, "routing:", "there is no upstream c")
	assert.Equal(t, 200, good())
	err = s.apply(parse(strings.Replace(version("b", "v2", keys), "audiences: [api], ", "", 1)))
	require.ErrorContains(t, err, "audiences is required")
	assert.Equal(t, 200, good())
	require.NoError(t, s.apply(parse(version("b", "v2", keys))))
	assert.Equal(t, 401, good())
}
