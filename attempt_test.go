package gatemesh_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// upTo retries everything that failed, after a second, until there have been n attempts.
type upTo struct {
	n     int
	asked []gatemesh.Attempt
}

func (u *upTo) Retry(_ context.Context, c *gatemesh.Call, a gatemesh.Attempt) (time.Duration, bool) {
	u.asked = append(u.asked, a)
	return time.Second, a.Code != gatemesh.OK && c.Attempt() < u.n
}

func retrying(u gatemesh.Retrier) gatemesh.Layer {
	return gatemesh.Layer{Name: "retry", Retry: u, Gives: []gatemesh.Fact{gatemesh.FactAttempt}, After: []gatemesh.Fact{gatemesh.FactSpan}}
}

// script answers one attempt after the other: a status, or an error.
type script struct {
	steps   []any
	bodies  []string
	headers []http.Header
	answers []*body
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	i := len(s.bodies)
	sent := ""
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		sent = string(b)
		_ = r.Body.Close()
	}
	s.bodies, s.headers = append(s.bodies, sent), append(s.headers, r.Header)
	switch step := s.steps[i].(type) {
	case error:
		s.answers = append(s.answers, nil)
		return nil, step
	default:
		b := &body{Reader: strings.NewReader(strconv.Itoa(i + 1))}
		s.answers = append(s.answers, b)
		return &http.Response{StatusCode: step.(int), Body: b, ContentLength: 1, Header: http.Header{"X-Answer": {strconv.Itoa(i + 1)}}}, nil
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	reset := errors.New("reset")
	for _, test := range []struct {
		name   string
		steps  []any
		body   io.Reader // nil: none
		layers func(d *diary) []gatemesh.Layer
		status int // 0: an error
		told   string
		tries  int
	}{
		{name: "first is good", steps: []any{200}, status: 200, told: "ac", tries: 1},
		{name: "third is good", steps: []any{503, reset, 200}, status: 200, told: "aaac", tries: 3},
		{name: "none is good, the last one counts", steps: []any{reset, 500, 503}, status: 503, told: "aaac", tries: 3},
		{name: "the last one is an error", steps: []any{503, 503, reset}, told: "aaac", tries: 3},
		{name: "a body that can be had again", steps: []any{503, 200}, body: bytes.NewReader([]byte("payload")), status: 200, told: "aac", tries: 2},
		{name: "a body that cannot", steps: []any{503}, body: io.NopCloser(strings.NewReader("payload")), status: 503, told: "ac", tries: 1},
		{
			name: "a gate refuses the second attempt, and the first answer stands", steps: []any{503}, status: 503, told: "ac", tries: 2,
			layers: func(*diary) []gatemesh.Layer {
				return []gatemesh.Layer{gate("second", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
					if c.Attempt() == 2 {
						return gatemesh.Admission{}, gatemesh.Deny(gatemesh.Unavailable, "open", "Open.")
					}
					return gatemesh.Admission{}, nil
				})}
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, observer, u, s := &diary{}, &recorder{}, &upTo{n: 3}, &script{steps: test.steps}
				layers := []gatemesh.Layer{
					d.layer("c"), retrying(u),
					gate("attempt field", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
						return gatemesh.Admission{Header: []gatemesh.Field{{Name: "X-Attempt", Value: strconv.Itoa(c.Attempt())}, {Name: "X-Mine", Value: ""}}}, nil
					}),
				}
				if test.layers != nil {
					layers = append(layers, test.layers(d)...)
				}
				layers = append(layers, d.layer("a"))
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://callee/", test.body)
				require.NoError(t, err)
				r.Header.Set("X-Mine", "is taken off")
				begin := time.Now()
				resp, err := outbound(observer, layers...).Transport(s).RoundTrip(r)
				if test.status == 0 {
					require.ErrorIs(t, err, reset)
				} else {
					require.NoError(t, err)
					require.Equal(t, test.status, resp.StatusCode)
					assert.Equal(t, strconv.Itoa(len(test.steps)), bodyOf(t, resp))
					require.NoError(t, resp.Body.Close())
				}
				for i, b := range s.answers {
					assert.Equal(t, strconv.Itoa(i+1), s.headers[i].Get("X-Attempt"))
					assert.NotContains(t, s.headers[i], "X-Mine")
					if b != nil {
						assert.Equal(t, 1, b.closed, "answer %d", i+1)
					}
					if test.body != nil {
						assert.Equal(t, "payload", s.bodies[i])
					}
				}
				assert.Len(t, s.bodies, len(test.steps))
				assert.Equal(t, time.Duration(test.tries-1)*time.Second, time.Since(begin).Round(time.Second))
				told, _ := d.read()
				assert.Equal(t, test.told, told, "each attempt's gates are told once, the call's last of all")
				assert.Equal(t, test.tries, observer.outcome(t).Attempts)
				assert.Len(t, observer.of(gatemesh.EventRetried), len(test.steps)-1)
				assert.Equal(t, "is taken off", r.Header.Get("X-Mine"), "of the copy")
			})
		})
	}
}

// The caller's end cuts a wait short, and what there is stands.
func TestRetry_CallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		observer, s := &recorder{}, &script{steps: []any{errors.New("reset")}}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://callee/", http.NoBody)
		require.NoError(t, err)
		begin := time.Now()
		_, err = outbound(observer, retrying(&upTo{n: 3})).Transport(s).RoundTrip(r)
		require.EqualError(t, err, "reset")
		assert.Equal(t, 500*time.Millisecond, time.Since(begin))
		o := observer.outcome(t)
		assert.True(t, o.Expired)
		assert.False(t, o.Canceled)
		assert.Equal(t, gatemesh.DeadlineExceeded, o.Code)
	})
}

type panickyRetrier struct{}

func (panickyRetrier) Retry(context.Context, *gatemesh.Call, gatemesh.Attempt) (time.Duration, bool) {
	panic("no idea")
}

func TestRetry_Panics(t *testing.T) {
	t.Parallel()
	observer := &recorder{}
	rt := outbound(observer, retrying(panickyRetrier{})).Transport(&script{steps: []any{503}})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", http.NoBody)
	require.NoError(t, err)
	resp, err := rt.RoundTrip(r)
	require.NoError(t, err)
	assert.Equal(t, 503, resp.StatusCode)
	require.NoError(t, resp.Body.Close())
	assert.Len(t, observer.of(gatemesh.EventPanic), 1)
	assert.Len(t, observer.of(gatemesh.EventFinished), 1)
}

// A base that panics ends the attempt and the call.
func TestRetry_BasePanics(t *testing.T) {
	t.Parallel()
	d, observer := &diary{}, &recorder{}
	rt := outbound(observer, d.layer("c"), retrying(&upTo{n: 3}), d.layer("a")).Transport(roundTrip(func(*http.Request) (*http.Response, error) { panic("oh") }))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", http.NoBody)
	require.NoError(t, err)
	assert.Panics(t, func() { _, _ = rt.RoundTrip(r) })
	told, o := d.read()
	assert.Equal(t, "ac", told)
	assert.True(t, o.Panicked)
	assert.True(t, observer.outcome(t).Panicked)
}

func TestEndpointsOfAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		observer := &recorder{}
		n := 0
		rt := outbound(observer, retrying(&upTo{n: 3})).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			n++
			addr := strconv.Itoa(n)
			assert.False(t, gatemesh.TriedEndpoint(r.Context(), addr))
			gatemesh.RecordEndpoint(r.Context(), addr)
			assert.Equal(t, n > 1, gatemesh.TriedEndpoint(r.Context(), "1"))
			return nil, errors.New("refused")
		}))
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", http.NoBody)
		require.NoError(t, err)
		_, err = rt.RoundTrip(r)
		require.EqualError(t, err, "refused")
		assert.Equal(t, 3, n)
		assert.Equal(t, "3", observer.outcome(t).Endpoint)
		retried := observer.of(gatemesh.EventRetried)
		require.Len(t, retried, 2)
		assert.Equal(t, "1", retried[0].Outcome.Endpoint)
		assert.Equal(t, "2", retried[1].Outcome.Endpoint)
	})
	gatemesh.RecordEndpoint(t.Context(), "1") // nobody's
	assert.False(t, gatemesh.TriedEndpoint(t.Context(), "1"))
}

// The order of outbound layers is checked like that of a chain.
func TestNewOutbound_Order(t *testing.T) {
	t.Parallel()
	layer := func(name string, gives, after, needs gatemesh.Fact) gatemesh.Layer {
		l := admits(name, gatemesh.Admission{})
		for _, f := range []struct {
			to   *[]gatemesh.Fact
			fact gatemesh.Fact
		}{{&l.Gives, gives}, {&l.After, after}, {&l.Needs, needs}} {
			if f.fact != "" {
				*f.to = []gatemesh.Fact{f.fact}
			}
		}
		return l
	}
	span := layer("span", gatemesh.FactSpan, "", "")
	identity := layer("identity", gatemesh.FactIdentity, gatemesh.FactAttempt, "")
	inject := layer("inject", "", gatemesh.FactAttempt, gatemesh.FactSpan)
	retry := retrying(&upTo{})
	for _, test := range []struct {
		layers []gatemesh.Layer
		want   string
	}{
		{[]gatemesh.Layer{span, retry, identity, inject}, ""},
		{[]gatemesh.Layer{identity}, ""},
		{[]gatemesh.Layer{retry, span}, `gatemesh: outbound: "retry" must stand after "span", which gives the span`},
		{[]gatemesh.Layer{identity, retry}, `gatemesh: outbound: "identity" must stand after "retry", which gives the attempt`},
		{[]gatemesh.Layer{retry, inject}, `gatemesh: outbound: "inject" needs the fact "span", which no layer before it gives`},
		{[]gatemesh.Layer{retry, retry}, `gatemesh: outbound: "retry" and "retry" would both retry, which multiplies attempts`},
	} {
		_, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: toMesh, Layers: test.layers})
		if test.want == "" {
			assert.NoError(t, err)
		} else {
			assert.EqualError(t, err, test.want)
		}
	}
	_, err := gatemesh.NewChain(entry(gatemesh.EntryConfig{}), retry)
	assert.EqualError(t, err, `gatemesh: chain: "retry" retries and belongs into an Outbound`)
}

type ctxKey struct{}

// TestAdmissionContext: what a gate puts into the context is there for the
// gates behind it, the handler, the response's hooks and the events.
func TestAdmissionContext(t *testing.T) {
	t.Parallel()
	puts := func(name string) gatemesh.Layer {
		return gate(name, func(ctx context.Context, _ *gatemesh.Call) (gatemesh.Admission, error) {
			before, _ := ctx.Value(ctxKey{}).(string)
			return gatemesh.Admission{Context: context.WithValue(ctx, ctxKey{}, before+name)}, nil
		})
	}
	var seen []string
	note := gatemesh.ObserverFunc(func(ctx context.Context, e gatemesh.Event) {
		v, _ := ctx.Value(ctxKey{}).(string)
		seen = append(seen, e.Layer+"="+v)
	})
	foreign := gatemesh.Middleware("foreign", func(next http.Handler) http.Handler { return next })
	h := chain(gatemesh.EntryConfig{Observer: note}, puts("a"), puts("b"), foreign, admits("plain", gatemesh.Admission{}), puts("c")).
		Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			v, _ := r.Context().Value(ctxKey{}).(string)
			seen = append(seen, "handler="+v)
			assert.NotNil(t, gatemesh.FromContext(r.Context()))
		}))
	w := newRecorderFor(h, request("/"))
	assert.Equal(t, 200, w.Code)
	assert.Equal(t, []string{"a=a", "b=ab", "plain=ab", "c=abc", "handler=abc", "=abc"}, seen)

	strange := gate("strange", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Context: context.Background()}, nil
	})
	assert.Equal(t, 500, newRecorderFor(chain(gatemesh.EntryConfig{}, strange).Handler(noContent), request("/")).Code, "it would lose the call")
}

// A deadline that a gate puts on an outbound call is ours, not the caller's.
func TestAdmissionContext_Deadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		observer := &recorder{}
		deadline := gate("deadline", func(ctx context.Context, _ *gatemesh.Call) (gatemesh.Admission, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			return gatemesh.Admission{Context: ctx, Finish: finishFunc(func(*gatemesh.Call, gatemesh.Outcome) { cancel() })}, nil
		})
		rt := outbound(observer, deadline).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			assert.Equal(t, time.Now().Add(time.Second), gatemesh.FromContext(r.Context()).Deadline())
			<-r.Context().Done()
			return nil, r.Context().Err()
		}))
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", http.NoBody)
		require.NoError(t, err)
		_, err = rt.RoundTrip(r)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		o := observer.outcome(t)
		assert.Equal(t, gatemesh.DeadlineExceeded, o.Code)
		assert.False(t, o.Expired)
		assert.False(t, o.Canceled)
	})
}

// What carries an identity does not go to hosts outside of the mesh, whoever
// put it on the request.
func TestNoIdentityOutside(t *testing.T) {
	t.Parallel()
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: gatemesh.MeshHosts(nil)}))
	var sent http.Header
	rt := out.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		sent = r.Header
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://third.party/", http.NoBody)
	require.NoError(t, err)
	r.Header = http.Header{"X-Gatemesh-Identity": {"secret"}, "x_gatemesh_identity": {"secret"}, "X-Other": {"kept"}}
	resp, err := rt.RoundTrip(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, http.Header{"X-Other": {"kept"}}, sent)
	assert.Len(t, r.Header, 3, "the request is the caller's")
}

func newRecorderFor(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
