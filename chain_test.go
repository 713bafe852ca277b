package gatemesh_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func pass(h http.Handler) http.Handler { return h }

func TestNewChainRefusesAWrongOrder(t *testing.T) {
	t.Parallel()
	yes := gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) { return gatemesh.Admission{}, nil })
	facts := func(f ...gatemesh.Fact) []gatemesh.Fact { return f }
	auth := gatemesh.Layer{Name: "auth", Gate: yes, Gives: facts(gatemesh.FactPrincipal)}
	keys := gatemesh.Layer{Name: "keys", Gate: yes, Gives: facts(gatemesh.FactPrincipal)}
	limit := gatemesh.Layer{Name: "limit", Gate: yes, Needs: facts(gatemesh.FactPrincipal), Gives: facts(gatemesh.FactConsumerLimit)}
	cache := gatemesh.Layer{Name: "cache", Handler: pass, After: facts(gatemesh.FactConsumerLimit, gatemesh.FactPolicy)}
	own := gatemesh.Layer{Name: "own", Gate: yes, Needs: facts("tenant"), Gives: facts("tenant")}

	for _, test := range []struct {
		name   string
		layers []gatemesh.Layer
		want   string
	}{
		{"empty", nil, ""},
		{"right", []gatemesh.Layer{auth, limit, cache}, ""},
		{"after what is absent", []gatemesh.Layer{cache}, ""},
		{"needs a later one", []gatemesh.Layer{limit, auth},
			`gatemesh: chain: "limit" needs the principal that "auth" gives, and must stand after it`},
		{"needs what nobody gives", []gatemesh.Layer{limit},
			`gatemesh: chain: "limit" needs the fact "principal", which no layer before it gives`},
		{"needs what it gives itself", []gatemesh.Layer{own},
			`gatemesh: chain: "own" needs the fact "tenant", which no layer before it gives`},
		{"before what it must stand after", []gatemesh.Layer{auth, cache, limit},
			`gatemesh: chain: "cache" must stand after "limit", which gives the consumer limit`},
		{"two principals", []gatemesh.Layer{auth, keys},
			`gatemesh: chain: "auth" and "keys" both give the principal; which one holds would be a matter of order`},
		{"no name", []gatemesh.Layer{{Gate: yes}}, `gatemesh: chain: layer 0 has no Name`},
		{"neither gate nor handler", []gatemesh.Layer{{Name: "x"}}, `gatemesh: chain: "x" must have exactly one of Gate, Handler and Retry`},
		{"both", []gatemesh.Layer{{Name: "x", Gate: yes, Handler: pass}}, `gatemesh: chain: "x" must have exactly one of Gate, Handler and Retry`},
		{"all at once", []gatemesh.Layer{{}, limit, auth}, "gatemesh: chain: layer 0 has no Name\n" +
			"gatemesh: chain: \"\" must have exactly one of Gate, Handler and Retry\n" +
			`gatemesh: chain: "limit" needs the principal that "auth" gives, and must stand after it`},
	} {
		c, err := gatemesh.NewChain(entry(gatemesh.EntryConfig{}), test.layers...)
		if test.want == "" {
			assert.NoError(t, err, test.name)
			continue
		}
		assert.Nil(t, c, test.name)
		assert.EqualError(t, err, test.want, test.name)
	}
	for _, e := range []*gatemesh.Entry{nil, {}} {
		_, err := gatemesh.NewChain(e)
		assert.EqualError(t, err, "gatemesh: chain: entry is required")
	}
}

func TestChainCopiesItsLayers(t *testing.T) {
	t.Parallel()
	layers := []gatemesh.Layer{refuses("a", gatemesh.Deny(gatemesh.PermissionDenied, "no", ""))}
	c := gatemesh.Must(gatemesh.NewChain(entry(gatemesh.EntryConfig{}), layers...))
	layers[0] = admits("b", gatemesh.Admission{})
	assert.Equal(t, []string{"a"}, c.Layers())
	w := httptest.NewRecorder()
	c.Handler(noContent).ServeHTTP(w, request("/"))
	assert.Equal(t, http.StatusForbidden, w.Code)
}

func TestGatesOnly(t *testing.T) {
	t.Parallel()
	require.NoError(t, chain(gatemesh.EntryConfig{}, admits("a", gatemesh.Admission{})).GatesOnly())
	c := chain(gatemesh.EntryConfig{}, gatemesh.Middleware("cors", pass), admits("a", gatemesh.Admission{}), gatemesh.Middleware("gzip", pass))
	assert.EqualError(t, c.GatesOnly(), `gatemesh: chain: "cors", "gzip" is HTTP middleware and has no gRPC form`)
}

// TestChainOrder checks that layers run as listed, gates and middleware mixed.
func TestChainOrder(t *testing.T) {
	t.Parallel()
	var order string
	g := func(name string) gatemesh.Layer {
		return gate(name, func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			order += name
			return gatemesh.Admission{}, nil
		})
	}
	m := func(name string) gatemesh.Layer {
		return gatemesh.Middleware(name, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				order += name
				next.ServeHTTP(w, r)
			})
		})
	}
	for want, layers := range map[string][]gatemesh.Layer{
		"h": nil, "ah": {g("a")}, "abh": {g("a"), g("b")}, "1h": {m("1")}, "1ab2c3h": {m("1"), g("a"), g("b"), m("2"), g("c"), m("3")},
		"a12bch": {g("a"), m("1"), m("2"), g("b"), g("c")},
	} {
		order = ""
		h := chain(gatemesh.EntryConfig{}, layers...).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { order += "h" }))
		h.ServeHTTP(httptest.NewRecorder(), request("/"))
		assert.Equal(t, want, order)
	}
}

// TestMiddlewareThatLosesTheCall fails closed, wherever the call went.
func TestMiddlewareThatLosesTheCall(t *testing.T) {
	t.Parallel()
	var other context.Context // of a call that has ended
	chain(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		other = r.Context()
	})).ServeHTTP(httptest.NewRecorder(), request("/"))

	for name, replacement := range map[string]context.Context{"dropped": context.Background(), "of another chain": other} {
		handled := false
		observer := &recorder{}
		h := chain(gatemesh.EntryConfig{Observer: observer},
			gatemesh.Middleware("loses", func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r.WithContext(replacement)) })
			}),
			admits("first", gatemesh.Admission{}), admits("last", gatemesh.Admission{}),
		).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { handled = true }))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request("/"))
		assert.Equal(t, http.StatusInternalServerError, w.Code, name)
		assert.False(t, handled, name)
		faults := observer.of(gatemesh.EventFault)
		require.Len(t, faults, 1, name)
		assert.Equal(t, "last", faults[0].Layer)
		assert.Equal(t, "no call in the request's context", faults[0].Message)
		assert.Equal(t, gatemesh.Internal, observer.outcome(t).Code)
	}
}

// TestContextOfAnEndedCall must not admit another request: a middleware that
// keeps a context would carry one caller's consents over to the next.
func TestContextOfAnEndedCall(t *testing.T) {
	t.Parallel()
	var kept context.Context
	handled := 0
	h := chain(gatemesh.EntryConfig{},
		gatemesh.Middleware("keeps", func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if kept == nil {
					kept = r.Context()
				}
				next.ServeHTTP(w, r.WithContext(kept))
			})
		}),
		gate("only alice", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			if c.Header().Get("User") != "alice" {
				return gatemesh.Admission{}, gatemesh.Deny(gatemesh.PermissionDenied, "no", "")
			}
			return gatemesh.Admission{}, nil
		}),
	).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { handled++ }))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request("/", "User", "alice"))
	require.Equal(t, http.StatusOK, w.Code)
	w = httptest.NewRecorder()
	h.ServeHTTP(w, request("/", "User", "mallory"))
	assert.Equal(t, http.StatusInternalServerError, w.Code)
	assert.Equal(t, 1, handled)
}

// TestMiddlewareThatCallsNextTwice: gates judge a call once.
func TestMiddlewareThatCallsNextTwice(t *testing.T) {
	t.Parallel()
	twice := gatemesh.Middleware("twice", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(httptest.NewRecorder(), r)
			next.ServeHTTP(w, r)
		})
	})
	for name, err := range map[string]error{"admitted": nil, "refused": gatemesh.Deny(gatemesh.PermissionDenied, "no", "").WithField("X-Why", "no")} {
		var asked, handled atomic.Int32
		g := gate("g", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			asked.Add(1)
			return gatemesh.Admission{}, err
		})
		h := chain(gatemesh.EntryConfig{}, twice, g).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { handled.Add(1) }))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request("/"))
		assert.EqualValues(t, 1, asked.Load(), name)
		if err == nil {
			assert.EqualValues(t, 2, handled.Load())
			continue
		}
		assert.Zero(t, handled.Load())
		assert.Equal(t, http.StatusForbidden, w.Code)
		assert.Equal(t, []string{"no"}, w.Header()["X-Why"])
	}
}

func TestGateHandler(t *testing.T) {
	t.Parallel()
	observer := &recorder{}
	l := refuses("limit", gatemesh.Deny(gatemesh.ResourceExhausted, "slow", "Slow down.").WithRetryAfter(1))
	h := gatemesh.GateHandler(l, observer)(noContent)

	w := httptest.NewRecorder()
	h.ServeHTTP(w, request("/"))
	assert.Equal(t, http.StatusInternalServerError, w.Code, "without an Entry")
	faults := observer.of(gatemesh.EventFault)
	require.Len(t, faults, 1)
	assert.Equal(t, "limit", faults[0].Layer)
	w = httptest.NewRecorder()
	gatemesh.GateHandler(l, nil)(noContent).ServeHTTP(w, request("/"))
	assert.Equal(t, http.StatusInternalServerError, w.Code, "and without an Observer")

	w = httptest.NewRecorder()
	entry(gatemesh.EntryConfig{}).Handler(h).ServeHTTP(w, request("/"))
	assert.Equal(t, http.StatusTooManyRequests, w.Code)
	assert.Equal(t, []string{"1"}, w.Header()["Retry-After"])

	w = httptest.NewRecorder()
	entry(gatemesh.EntryConfig{}).Handler(gatemesh.GateHandler(admits("yes", gatemesh.Admission{}), nil)(noContent)).ServeHTTP(w, request("/"))
	assert.Equal(t, http.StatusNoContent, w.Code)

	assert.PanicsWithValue(t, "gatemesh: GateHandler: layer x has no Gate", func() { gatemesh.GateHandler(gatemesh.Layer{Name: "x"}, nil) })

	// An outbound call is no inbound one.
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: func(context.Context, string) (gatemesh.Destination, bool) { return gatemesh.Destination{}, true },
	}))
	x, d := out.Start(context.Background(), gatemesh.OutboundRequest{Path: "/"})
	require.Nil(t, d)
	w = httptest.NewRecorder()
	gatemesh.GateHandler(admits("yes", gatemesh.Admission{}), nil)(noContent).ServeHTTP(w, request("/").WithContext(x.Context()))
	assert.Equal(t, http.StatusInternalServerError, w.Code)
}

// TestAdmissionIsStamped checks what a later gate and the handler see.
func TestAdmissionIsStamped(t *testing.T) {
	t.Parallel()
	user := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: "alice"})
	peer := gatemesh.Must(gatemesh.NewPeer("td", "/a", nil))
	route := &gatemesh.Route{Name: "r"}
	h := chain(gatemesh.EntryConfig{},
		admits("who", gatemesh.Admission{Principal: user, Peer: peer}),
		admits("where", gatemesh.Admission{Route: route, Lane: "v2", Destination: &gatemesh.Destination{Service: "s", Namespace: "n", Subset: "v2", Port: 80}}),
		gate("reads", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			assert.Same(t, user, c.Principal())
			assert.Same(t, peer, c.Peer())
			assert.Same(t, route, c.Route())
			assert.Equal(t, "v2", c.Lane())
			return gatemesh.Admission{}, nil // changes nothing
		}),
	).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		c := gatemesh.FromContext(r.Context())
		assert.Same(t, user, c.Principal())
		assert.Equal(t, "s.n/v2:80", c.Destination().String())
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		assert.Same(t, c, gatemesh.FromContext(ctx))
	}))
	h.ServeHTTP(httptest.NewRecorder(), request("/"))
}

// TestSharedAdmission: gates return the same slices for every call, and one
// call must not write into them.
func TestSharedAdmission(t *testing.T) {
	t.Parallel()
	fields := make([]gatemesh.Field, 1, 8)
	fields[0] = gatemesh.Field{Name: "A", Value: "1"}
	consumed := make([]string, 1, 8)
	consumed[0] = "Authorization"
	h := chain(gatemesh.EntryConfig{},
		admits("a", gatemesh.Admission{Header: fields, Consumed: consumed}),
		admits("b", gatemesh.Admission{Header: []gatemesh.Field{{Name: "B", Value: "2"}}, Consumed: []string{"X-Api-Key"}}),
	).Handler(noContent)
	h.ServeHTTP(httptest.NewRecorder(), request("/"))
	assert.Equal(t, gatemesh.Field{}, fields[:2][1])
	assert.Empty(t, consumed[:2][1])
}
