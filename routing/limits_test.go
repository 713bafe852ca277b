package routing_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

// silent never answers.
var silent = roundTripper(func(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, context.Cause(r.Context())
})

// ends keeps how calls to upstreams have ended.
type ends struct{ outcomes []gatemesh.Outcome }

func (e *ends) Finish(_ *gatemesh.Call, o gatemesh.Outcome) { e.outcomes = append(e.outcomes, o) }

func (e *ends) layer() gatemesh.Layer {
	return layer("ends", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Finish: e}, nil
	})
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name           string
		route          routing.Route
		service        *routing.Route
		contentType    string
		within         time.Duration // of the caller
		status         int
		after          time.Duration
		reason         string
		callersTimeout bool
	}{
		{"route", routing.Route{Timeout: time.Second}, nil, "", 0, 504, time.Second, "timeout", false},
		{"attempt", routing.Route{AttemptTimeout: 2 * time.Second}, nil, "", 0, 504, 2 * time.Second, "timeout", false},
		{"shorter of both", routing.Route{Timeout: 3 * time.Second, AttemptTimeout: 2 * time.Second}, &routing.Route{AttemptTimeout: time.Second}, "", 0, 504, time.Second, "timeout", false},
		{"service is longer", routing.Route{Timeout: time.Second}, &routing.Route{Timeout: time.Minute}, "", 0, 504, time.Second, "timeout", false},
		{"service alone", routing.Route{}, &routing.Route{Timeout: time.Minute}, "", 0, 504, time.Minute, "timeout", false},
		{"gRPC", routing.Route{Timeout: time.Second}, nil, "application/grpc", 0, 200, time.Second, "", false},
		{"caller's is shorter", routing.Route{Timeout: time.Minute}, nil, "", time.Second, 504, time.Second, "deadline_exceeded", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := &ends{}
				h := filtered{upstream: silent, route: tt.route, service: tt.service, cfg: routing.Config{Outbound: []gatemesh.Layer{e.layer()}}}.handler(t)
				req := httptest.NewRequest("POST", "/", nil)
				if tt.contentType != "" {
					req.Header.Set("Content-Type", tt.contentType)
					req.ProtoMajor = 2
				}
				if tt.within > 0 {
					ctx, cancel := context.WithTimeout(req.Context(), tt.within)
					defer cancel()
					req = req.WithContext(ctx)
				}
				start := time.Now()
				w := httptest.NewRecorder()
				h.ServeHTTP(w, req)
				assert.Equal(t, tt.after, time.Since(start))
				assert.Equal(t, tt.status, w.Code)
				if tt.reason != "" {
					assert.Equal(t, tt.reason, reason(t, w.Result()))
				} else {
					assert.Equal(t, "4", w.Header().Get("Grpc-Status"))
				}
				require.Len(t, e.outcomes, 1)
				o := e.outcomes[0]
				assert.Equal(t, gatemesh.DeadlineExceeded, o.Code)
				assert.Equal(t, tt.callersTimeout, o.Expired, "whose fault it is")
				assert.False(t, o.Canceled)
				assert.Nil(t, o.Denial)
			})
		})
	}
}

// TestTimeoutOfBody: what has begun is cut short.
func TestTimeoutOfBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var released atomic.Bool
		h := filtered{route: routing.Route{Timeout: time.Second}, upstream: roundTripper(func(r *http.Request) (*http.Response, error) {
			context.AfterFunc(r.Context(), func() { released.Store(true) })
			body, w := io.Pipe()
			go func() {
				_, _ = io.WriteString(w, "begun")
				<-r.Context().Done()
				w.CloseWithError(context.Cause(r.Context()))
			}()
			return &http.Response{StatusCode: 200, Body: body, Header: http.Header{}, Request: r, ContentLength: 10}, nil
		})}.handler(t)
		w := httptest.NewRecorder()
		req := httptest.NewRequest("GET", "/", nil)
		req = req.WithContext(context.WithValue(req.Context(), http.ServerContextKey, &http.Server{}))
		start := time.Now()
		assert.PanicsWithValue(t, http.ErrAbortHandler, func() { h.ServeHTTP(w, req) })
		assert.Equal(t, time.Second, time.Since(start))
		assert.Equal(t, "begun", w.Body.String())
		synctest.Wait()
		assert.True(t, released.Load())
	})
}

// TestTimeoutIsReleased: an answer in time leaves no timer behind.
func TestTimeoutIsReleased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ctx context.Context
		h := filtered{route: routing.Route{Timeout: time.Hour, AttemptTimeout: time.Minute}, upstream: roundTripper(func(r *http.Request) (*http.Response, error) {
			ctx = r.Context()
			return answering(r)
		})}.handler(t)
		require.Equal(t, 200, do(t, h, "GET", "/").StatusCode)
		assert.ErrorIs(t, ctx.Err(), context.Canceled)
		end, ok := ctx.Deadline()
		assert.True(t, ok)
		assert.Equal(t, time.Now().Add(time.Minute), end, "the shorter one is what the upstream is told")
	})
}

// retrier tries again at once, at most so many times.
type retrier int

func (r retrier) Retry(_ context.Context, c *gatemesh.Call, a gatemesh.Attempt) (time.Duration, bool) {
	return 0, a.Code == gatemesh.DeadlineExceeded && c.Attempt() < int(r)
}

// TestAttemptTimeout bounds each attempt, and Timeout all of them.
func TestAttemptTimeout(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		timeout  time.Duration
		attempts int
		after    time.Duration
	}{{0, 3, 3 * time.Second}, {2500 * time.Millisecond, 3, 2500 * time.Millisecond}, {1500 * time.Millisecond, 2, 1500 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			attempts := 0
			policy := &gatemesh.RetryPolicy{Attempts: 3}
			var seen *gatemesh.RetryPolicy
			h := filtered{
				route:   routing.Route{Timeout: tt.timeout, AttemptTimeout: time.Second},
				service: &routing.Route{Retry: policy},
				cfg: routing.Config{Outbound: []gatemesh.Layer{{Name: "retry", Retry: retrier(3)}, layer("look", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
					seen = c.Route().Retry
					return gatemesh.Admission{}, nil
				})}},
				upstream: roundTripper(func(r *http.Request) (*http.Response, error) {
					attempts++
					return silent(r)
				}),
			}.handler(t)
			start := time.Now()
			resp := do(t, h, "GET", "/")
			assert.Equal(t, 504, resp.StatusCode)
			assert.Equal(t, "timeout", reason(t, resp))
			assert.Equal(t, tt.attempts, attempts)
			assert.Equal(t, tt.after, time.Since(start))
			assert.Equal(t, policy, seen, "the Retrier finds what the rule of the service says")
		})
	}
}

// TestTogetherIsKept: what two routes say together is not made for each call.
func TestTogetherIsKept(t *testing.T) {
	t.Parallel()
	var routes []*gatemesh.Route
	h := filtered{upstream: answering, route: routing.Route{Timeout: time.Minute}, service: &routing.Route{AttemptTimeout: time.Second},
		cfg: routing.Config{Outbound: []gatemesh.Layer{layer("look", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			routes = append(routes, c.Route())
			return gatemesh.Admission{}, nil
		})}}}.handler(t)
	for range 2 {
		require.Equal(t, 200, do(t, h, "GET", "/").StatusCode)
	}
	assert.Same(t, routes[0], routes[1])
	assert.Equal(t, time.Minute, routes[0].Timeout)
	assert.Equal(t, time.Second, routes[0].AttemptTimeout)
	assert.Equal(t, "all", routes[0].Name)
}

// TestPX03_TimeoutOfUpgrade bounds the handshake, and not the connection.
func TestPX03_TimeoutOfUpgrade(t *testing.T) {
	t.Parallel()
	shake := func() *http.Request {
		req := httptest.NewRequest("GET", "/", nil)
		for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
			req.Header.Set(name, value)
		}
		return req
	}
	synctest.Test(t, func(t *testing.T) {
		h := filtered{route: routing.Route{Timeout: time.Second}, upstream: silent}.handler(t)
		w := httptest.NewRecorder()
		start := time.Now()
		h.ServeHTTP(w, shake())
		assert.Equal(t, 504, w.Code)
		assert.Equal(t, time.Second, time.Since(start))
	})
	synctest.Test(t, func(t *testing.T) {
		var ctx context.Context
		h := filtered{route: routing.Route{Timeout: time.Second}, upstream: roundTripper(func(r *http.Request) (*http.Response, error) {
			ctx = r.Context()
			return &http.Response{StatusCode: 101, Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, Request: r, Body: &conn{}}, nil
		})}.handler(t)
		caller, leave := context.WithCancel(t.Context())
		w := httptest.NewRecorder() // which cannot be hijacked, so that the connection stays open
		h.ServeHTTP(w, shake().WithContext(caller))
		time.Sleep(30 * time.Second)
		require.NoError(t, ctx.Err(), "an upgraded connection lives on")
		leave()
		require.ErrorIs(t, context.Cause(ctx), context.Canceled)
	})
}

// ownContext is no context of package context, so that what is made of it and
// not released leaves a goroutine behind, which synctest reports.
type ownContext struct {
	context.Context
	done chan struct{}
}

func (c ownContext) Done() <-chan struct{} { return c.done }
func (c ownContext) Err() error            { return nil }
func (c ownContext) Value(any) any         { return nil }

// TestTimeoutIsAlwaysReleased: also where a fault has refused the call, and where
// the connection was to be upgraded.
func TestTimeoutIsAlwaysReleased(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		route  routing.Route
		header http.Header
		status int
	}{
		"refused": {routing.Route{Timeout: time.Hour, Filters: routing.Filters{Fault: &routing.Fault{AbortStatus: 503, AbortPercent: 100}}}, nil, 503},
		"upgrade": {routing.Route{Timeout: time.Hour, AttemptTimeout: time.Minute}, http.Header{"Upgrade": {"x"}, "Connection": {"upgrade"}}, 200},
		"plain":   {routing.Route{Timeout: time.Hour, AttemptTimeout: time.Minute}, nil, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var status int
				base := roundTripper(func(r *http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
				})
				tt.route.Name, tt.route.Backends = "all", to("", backend).Backends
				_, rt := headless(t, []routing.Route{tt.route}, base, nil, nil)
				done := make(chan struct{})
				req, err := http.NewRequestWithContext(ownContext{context.Background(), done}, "GET", "http://users/", nil)
				require.NoError(t, err)
				maps.Copy(req.Header, tt.header)
				resp, err := rt.RoundTrip(req)
				if err != nil {
					status = denied(t, err).HTTPStatus()
				} else {
					status = resp.StatusCode
					_, _ = io.Copy(io.Discard, resp.Body)
					require.NoError(t, resp.Body.Close())
				}
				assert.Equal(t, tt.status, status)
			})
		})
	}
}

// TestTimeoutOfRefusedUpgrade: an answer that upgrades nothing is bounded as any other.
func TestTimeoutOfRefusedUpgrade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		base := roundTripper(func(r *http.Request) (*http.Response, error) {
			body, w := io.Pipe()
			go func() {
				<-r.Context().Done()
				w.CloseWithError(context.Cause(r.Context()))
			}()
			return &http.Response{StatusCode: 200, Body: body, Header: http.Header{}, Request: r}, nil
		})
		_, rt := headless(t, []routing.Route{{Name: "all", Timeout: time.Second, Backends: to("", backend).Backends}}, base, nil, nil)
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://users/", nil)
		require.NoError(t, err)
		req.Header.Set("Upgrade", "x")
		start := time.Now()
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(start))
		require.NoError(t, resp.Body.Close())
	})
}

// conn is an upgraded connection that says nothing.
type conn struct{ strings.Reader }

func (*conn) Write(p []byte) (int, error) { return len(p), nil }
func (*conn) Close() error                { return nil }
