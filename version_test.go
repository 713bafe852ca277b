package gatemesh_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// number has a pointer, so that it is an object of its own for the collector.
type number struct {
	n int
	_ *int
}

// component is a gate with a number for configuration.
type component struct{ live gatemesh.Live[number] }

func (c *component) to(n int) gatemesh.Change {
	return gatemesh.NewChange(&c.live, func(*number) (*number, error) { return &number{n: n}, nil }, nil)
}

// layer reports the version that each call sees.
func (c *component) layer(name string, saw func(int)) gatemesh.Layer {
	return gate(name, func(_ context.Context, call *gatemesh.Call) (gatemesh.Admission, error) {
		saw(c.live.For(call).n)
		return gatemesh.Admission{}, nil
	})
}

// TestF12_OneVersion: a call sees one version in all components, whatever is
// applied while it goes from one to the next, and so does the call made for it.
// Every call brings about a change of its own in its middle.
func TestF12_OneVersion(t *testing.T) {
	t.Parallel()
	var a, b, c component
	require.NoError(t, gatemesh.Apply(a.to(0), b.to(0), c.to(0)))
	var versions, mixed atomic.Int64
	serveOne := func() {
		var seen []int
		saw := func(n int) { seen = append(seen, n) }
		change := gate("change", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			n := int(versions.Add(1))
			return gatemesh.Admission{}, gatemesh.Apply(a.to(n), b.to(n), c.to(n))
		})
		out := outbound(nil, change, c.layer("c", saw)).Transport(roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		}))
		h := chain(gatemesh.EntryConfig{}, a.layer("a", saw), change, b.layer("b", saw)).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://callee/", http.NoBody)
			assert.NoError(t, err)
			resp, err := out.RoundTrip(req)
			assert.NoError(t, err)
			assert.NoError(t, resp.Body.Close())
		}))
		h.ServeHTTP(httptest.NewRecorder(), request("/"))
		if assert.Len(t, seen, 3) && (seen[0] != seen[1] || seen[0] != seen[2]) {
			mixed.Add(1)
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 250 {
				serveOne()
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 2000, versions.Load())
	assert.Zero(t, mixed.Load())
}

func TestLive_UntilTheResponseBegins(t *testing.T) {
	t.Parallel()
	var a, b component
	require.NoError(t, gatemesh.Apply(a.to(1), b.to(1)))
	var late component
	h := chain(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := gatemesh.FromContext(r.Context())
		for i := 2; i < 5; i++ {
			require.NoError(t, gatemesh.Apply(a.to(i)))
		}
		require.NoError(t, gatemesh.Apply(b.to(2)))
		assert.Nil(t, late.live.For(c), "not there yet")
		require.NoError(t, gatemesh.Apply(late.to(7)))
		assert.Equal(t, 1, a.live.For(c).n)
		assert.Equal(t, 1, b.live.For(c).n)
		assert.Equal(t, 7, late.live.For(c).n, "what is new is new to everybody")
		assert.Equal(t, 4, a.live.Latest().n)
		assert.Equal(t, 4, a.live.For(nil).n)
		w.WriteHeader(http.StatusOK)
		assert.Equal(t, 4, a.live.For(c).n, "a stream goes on with the latest")
		assert.Equal(t, 2, b.live.For(c).n)
	}))
	h.ServeHTTP(httptest.NewRecorder(), request("/"))
	c := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{}))
	assert.Equal(t, 4, a.live.For(c).n, "a call of no connection has no past")
}

// A call that is made for none sees one version until it is answered.
func TestLive_Outbound(t *testing.T) {
	t.Parallel()
	var a component
	require.NoError(t, gatemesh.Apply(a.to(1)))
	first := 0
	rt := outbound(nil, a.layer("a", func(n int) { first = n })).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		require.NoError(t, gatemesh.Apply(a.to(2)))
		assert.Equal(t, 1, a.live.For(gatemesh.FromContext(r.Context())).n)
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
	}))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", http.NoBody)
	require.NoError(t, err)
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	assert.Equal(t, 1, first)
	assert.Equal(t, 2, a.live.For(gatemesh.FromContext(resp.Request.Context())).n)
	require.NoError(t, resp.Body.Close())
}

// What an attempt was answered is not the answer yet.
func TestLive_Retried(t *testing.T) {
	t.Parallel()
	var a component
	require.NoError(t, gatemesh.Apply(a.to(1)))
	var saw []int
	s := &script{steps: []any{503, 200}}
	rt := outbound(nil, retrying(&upTo{n: 2}), a.layer("a", func(n int) {
		saw = append(saw, n)
		assert.NoError(t, gatemesh.Apply(a.to(n+1)))
	})).Transport(s)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", http.NoBody)
	require.NoError(t, err)
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, []int{1, 1}, saw)
}

func TestApply_AllOrNothing(t *testing.T) {
	t.Parallel()
	var a, b component
	require.NoError(t, gatemesh.Apply(a.to(1), b.to(1)))
	wrong, worse := errors.New("wrong"), errors.New("worse")
	fails := func(c *component, err error) gatemesh.Change {
		return gatemesh.NewChange(&c.live, func(*number) (*number, error) { return nil, err }, func(_, _ *number) { t.Error("done without a change") })
	}
	err := gatemesh.Apply(a.to(2), fails(&b, wrong))
	require.ErrorIs(t, err, wrong)
	assert.Equal(t, 1, a.live.Latest().n)
	var c component
	err = gatemesh.Apply(fails(&b, wrong), fails(&c, worse))
	require.ErrorIs(t, err, wrong)
	require.ErrorIs(t, err, worse)
	assert.Equal(t, wrong, gatemesh.Apply(fails(&b, wrong)), "one change's error is its own")
	require.Error(t, gatemesh.Apply(a.to(3), a.to(4)), "which of them?")
	require.Error(t, gatemesh.Apply(gatemesh.Change{}))
	require.NoError(t, gatemesh.Apply())
	assert.Equal(t, 1, a.live.Latest().n)

	var order []string
	require.NoError(t, gatemesh.Apply(gatemesh.NewChange(&a.live, func(old *number) (*number, error) {
		order = append(order, "build")
		return &number{n: old.n + 1}, nil
	}, func(old, now *number) {
		order = append(order, "done")
		assert.Equal(t, []int{1, 2}, []int{old.n, now.n})
		assert.NoError(t, gatemesh.Apply(b.to(2)), "done may apply, too")
	})))
	assert.Equal(t, []string{"build", "done"}, order)
}

// What was replaced is garbage once no call sees it any more.
func TestLive_ForgetsTheReplaced(t *testing.T) { // not beside others, whose calls see versions, too
	var a component
	collected := make(chan int, 10)
	change := func(n int) gatemesh.Change {
		return gatemesh.NewChange(&a.live, func(*number) (*number, error) {
			v := &number{n: n}
			runtime.AddCleanup(v, func(n int) { collected <- n }, n)
			return v, nil
		}, nil)
	}
	require.NoError(t, gatemesh.Apply(change(1)))
	x, d := chain(gatemesh.EntryConfig{}).Start(t.Context(), gatemesh.Inbound{Method: "POST", Authority: "h", Path: "/"})
	require.Nil(t, d)
	for n := 2; n <= 3; n++ {
		require.NoError(t, gatemesh.Apply(change(n)))
	}
	runtime.GC()
	assert.Equal(t, 1, a.live.For(x.Call()).n, "the call still needs it")
	x.Finish(gatemesh.Outcome{})
	gone := map[int]bool{}
	for range 100 { // cleanups run some time after the collection
		runtime.GC()
		select {
		case n := <-collected:
			gone[n] = true
		case <-time.After(10 * time.Millisecond):
		}
		if gone[1] && gone[2] {
			break
		}
	}
	assert.True(t, gone[1] && gone[2], "kept for nobody")
	assert.False(t, gone[3])
	runtime.KeepAlive(x) // somebody may keep an ended call
	assert.Equal(t, 3, a.live.Latest().n)
}
