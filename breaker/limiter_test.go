package breaker

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/grpcmesh"
)

func newLimiter(t testing.TB, cfg LimiterConfig) *Limiter {
	t.Helper()
	l, err := NewLimiter(cfg)
	require.NoError(t, err)
	return l
}

// byPath takes the priority from the path.
func byPath(c *gatemesh.Call) Priority {
	return map[string]Priority{"/lowest": Lowest, "/low": Low, "/high": High, "/highest": Highest, "/exempt": Exempt, "/beyond": 100, "/below": -100}[c.Path()]
}

// crowd makes calls that stay in the handler until they are let go.
type crowd struct {
	h       http.Handler
	in      atomic.Int64
	release chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex
	answers map[string]int
}

func newCrowd(t testing.TB, l *Limiter) *crowd {
	c := &crowd{release: make(chan struct{}), answers: map[string]int{}}
	c.h = chainOf(t, l.Layer()).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.in.Add(1)
		<-c.release
		c.in.Add(-1)
	}))
	return c
}

func (c *crowd) come(t testing.TB, n int, path string) {
	for range n {
		c.wg.Go(func() {
			w := httptest.NewRecorder()
			c.h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			if w.Code == 503 {
				assert.Equal(t, "1", w.Header().Get("Retry-After"))
				assert.Equal(t, "no", w.Header().Get(gatemesh.RetryHeader))
				assert.Contains(t, w.Body.String(), "overloaded")
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.answers[fmt.Sprint(path, " ", w.Code)]++
		})
	}
}

func (c *crowd) count(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers[key]
}

func TestLimiterBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		seen := &watcher{}
		l := newLimiter(t, LimiterConfig{Min: 8, Max: 8, MaxWait: time.Second, Priority: byPath, Observer: seen})
		c := newCrowd(t, l)
		c.come(t, 100, "/")
		synctest.Wait()
		assert.EqualValues(t, 8, c.in.Load())
		assert.Equal(t, LimiterStats{Limit: 8, InFlight: 8, Waiting: 4, Calls: 100, Waited: 4, Refused: 88}, l.Stats())
		assert.Equal(t, 88, c.count("/ 503"))
		assert.Len(t, seen.read(), 1, "once, not for each")

		// Those that wait get their turn, or are refused when the wait is over.
		for range 8 {
			c.release <- struct{}{}
		}
		synctest.Wait()
		assert.EqualValues(t, 4, c.in.Load())
		c.come(t, 8, "/")
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, 88+4, c.count("/ 503"))
		assert.Zero(t, l.Stats().Waiting)
		close(c.release)
		c.wg.Wait()
		assert.Zero(t, l.Stats().InFlight)
	})
}

// Others leave room for those that matter, and a flood of anything does not
// keep a health check away.
func TestLimiterPriorities(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, LimiterConfig{Min: 8, Max: 8, MaxWait: time.Second, Priority: byPath})
		c := newCrowd(t, l)
		waits := func(path string, n int) {
			t.Helper()
			c.come(t, 50, path)
			synctest.Wait()
			assert.Equal(t, n, l.Stats().Waiting, path)
		}
		c.come(t, 8, "/lowest") // there is room for all
		synctest.Wait()
		assert.EqualValues(t, 8, c.in.Load())
		waits("/lowest", 0)
		waits("/below", 0)
		waits("/low", 2)
		waits("/", 4)
		waits("/high", 6)
		waits("/highest", 8)
		c.come(t, 50, "/exempt")
		c.come(t, 50, "/beyond")
		synctest.Wait()
		assert.EqualValues(t, 108, c.in.Load())
		assert.Equal(t, 8, l.Stats().InFlight)
		close(c.release)
		c.wg.Wait()
		assert.Equal(t, 2, c.count("/highest 200"))
		assert.Equal(t, 100, c.count("/exempt 200")+c.count("/beyond 200"))
		assert.Zero(t, l.Stats().InFlight)
	})
}

func TestLimiterWithoutQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, LimiterConfig{Min: 8, Max: 8, DisableQueue: true, Priority: byPath})
		c := newCrowd(t, l)
		c.come(t, 20, "/highest")
		synctest.Wait()
		assert.Equal(t, 12, c.count("/highest 503"))
		close(c.release)
		c.wg.Wait()
	})
}

// However a call ends, its place is free, once.
func TestLimiterFreesPlaces(t *testing.T) {
	t.Parallel()
	refuse := gatemesh.Layer{Name: "no", Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		switch c.Path() {
		case "/refused":
			return gatemesh.Admission{}, gatemesh.Deny(gatemesh.PermissionDenied, "no", "No.")
		case "/panics":
			panic("x")
		}
		return gatemesh.Admission{}, nil
	})}
	l := newLimiter(t, LimiterConfig{Min: 5, Max: 5, DisableQueue: true})
	s := httptest.NewServer(chainOf(t, l.Layer(), refuse).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/panic":
			panic("x")
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/late":
			_, _ = w.Write([]byte("x"))
			panic("x")
		case "/hijack":
			conn, _, err := w.(http.Hijacker).Hijack()
			if assert.NoError(t, err) {
				_ = conn.Close()
			}
		case "/error":
			w.WriteHeader(500)
		}
	})))
	defer s.Close()
	for range 20 {
		for _, path := range []string{"/", "/panic", "/abort", "/late", "/hijack", "/refused", "/panics", "/error"} {
			resp, err := s.Client().Get(s.URL + path)
			if err == nil {
				assert.NotEqual(t, 503, resp.StatusCode)
				_ = resp.Body.Close()
			}
		}
	}
	assert.Eventually(t, func() bool { return l.Stats().InFlight == 0 }, 10*time.Second, time.Millisecond)
	assert.Zero(t, l.Stats().Refused)
}

// A stream holds its place until it begins to answer.
func TestLimiterStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, LimiterConfig{Min: 1, Max: 1, DisableQueue: true})
		begin, end := make(chan struct{}), make(chan struct{})
		h := chainOf(t, l.Layer()).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-begin
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-end
		}))
		var wg sync.WaitGroup
		wg.Go(func() { h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)) })
		synctest.Wait()
		assert.Equal(t, 1, l.Stats().InFlight)
		begin <- struct{}{}
		synctest.Wait()
		assert.Zero(t, l.Stats().InFlight)
		close(end)
		wg.Wait()
		assert.Zero(t, l.Stats().InFlight, "freed once")
	})
}

// The limit falls when answers take longer, and what tells nothing does not count.
func TestLimiterAdapts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var slow, fails atomic.Bool
		l := newLimiter(t, LimiterConfig{Min: 2, Max: 200, Initial: 40, DisableQueue: true})
		h := chainOf(t, l.Layer()).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d := 10 * time.Millisecond
			if slow.Load() {
				d = 200 * time.Millisecond
			}
			time.Sleep(d)
			if fails.Load() {
				w.WriteHeader(500)
			}
		}))
		run := func(d time.Duration) {
			var wg sync.WaitGroup
			end := time.Now().Add(d)
			for range 30 {
				wg.Go(func() {
					for time.Now().Before(end) {
						w := httptest.NewRecorder()
						h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
						if w.Code == 503 {
							time.Sleep(10 * time.Millisecond)
						}
					}
				})
			}
			wg.Wait()
		}
		run(20 * time.Second)
		before := l.Stats().Limit
		assert.GreaterOrEqual(t, before, 30, "all calls find a place")
		slow.Store(true)
		fails.Store(true)
		run(20 * time.Second)
		assert.GreaterOrEqual(t, l.Stats().Limit, before, "failures tell nothing")
		fails.Store(false)
		run(20 * time.Second)
		assert.Less(t, l.Stats().Limit, before)
	})
}

func TestLimiterUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, LimiterConfig{Min: 8, Max: 8, DisableQueue: true, Priority: byPath})
		c := newCrowd(t, l)
		c.come(t, 6, "/")
		synctest.Wait()
		require.NoError(t, l.Update(LimiterConfig{Min: 10, Max: 20, DisableQueue: true, Priority: byPath}))
		assert.Equal(t, 10, l.Stats().Limit, "the limit stays, within its bounds")
		assert.Equal(t, 6, l.Stats().InFlight, "calls under way count")
		c.come(t, 5, "/")
		synctest.Wait()
		assert.EqualValues(t, 10, c.in.Load())
		assert.Equal(t, 1, c.count("/ 503"))
		require.NoError(t, l.Update(LimiterConfig{Min: 10, Max: 20, DisableQueue: true, Priority: byPath, MaxWait: time.Second}))
		assert.Equal(t, 10, l.Stats().InFlight, "the same bounds, the same engine")
		close(c.release)
		c.wg.Wait()
		assert.Zero(t, l.Stats().InFlight)
		require.Error(t, l.Update(LimiterConfig{Min: -1}))
		assert.Equal(t, 10, l.Stats().Limit)
	})
}

func TestLimiterConfig(t *testing.T) {
	t.Parallel()
	_, err := NewLimiter(LimiterConfig{Min: -1, Max: maxLimit + 1, Initial: -1, MaxWait: time.Hour})
	for _, field := range []string{"Min", "Max", "Initial", "MaxWait"} {
		require.ErrorContains(t, err, "LimiterConfig."+field+" ")
	}
	_, err = NewLimiter(LimiterConfig{Min: 20, Max: 10})
	require.ErrorContains(t, err, "LimiterConfig.Max 10 is not between 20")
	assert.Equal(t, 50, newLimiter(t, LimiterConfig{}).Stats().Limit)
	assert.Equal(t, 2000, newLimiter(t, LimiterConfig{Min: 2000}).Stats().Limit)
	var zero Limiter
	c, err := gatemesh.NewCall(gatemesh.CallInfo{})
	require.NoError(t, err)
	_, err = zero.Admit(t.Context(), c)
	require.Error(t, err)
	_, ok, err := zero.AdmitCached(t.Context(), c)
	require.True(t, ok)
	require.Error(t, err)
	require.Error(t, zero.Update(LimiterConfig{}))
	assert.Zero(t, zero.Stats())
}

// Health checks pass over gRPC whatever the load; other calls are refused
// before they are decoded, or wait.
func TestLimiter_GRPC(t *testing.T) {
	t.Parallel()
	for name, exempt := range map[string]bool{"health": true, "others": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := LimiterConfig{Min: 1, Max: 1, DisableQueue: true}
			if !exempt {
				cfg.Priority = func(*gatemesh.Call) Priority { return Normal }
			}
			l := newLimiter(t, cfg)
			server, err := grpcmesh.NewServer(chainOf(t, l.Layer()))
			require.NoError(t, err)
			s := &callee{}
			began, release := make(chan struct{}, 2), make(chan struct{})
			s.set(func(context.Context) error { began <- struct{}{}; <-release; return nil })
			client := connectGRPCTo(t, s, server.Options())
			got := make(chan codes.Code, 2)
			go func() { got <- check(t.Context(), client) }()
			<-began
			if exempt {
				go func() { got <- check(t.Context(), client) }()
				<-began
			} else {
				assert.Equal(t, codes.Unavailable, check(t.Context(), client))
				assert.EqualValues(t, 1, s.calls.Load())
			}
			close(release)
			assert.Equal(t, codes.OK, <-got)
			if exempt {
				assert.Equal(t, codes.OK, <-got)
			}
			assert.Zero(t, l.Stats().InFlight)
		})
	}
}

func TestLimiterAllocs(t *testing.T) {
	l := newLimiter(t, LimiterConfig{})
	c, err := gatemesh.NewCall(gatemesh.CallInfo{})
	require.NoError(t, err)
	ctx := t.Context()
	assert.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		adm, _ := l.Admit(ctx, c)
		adm.Finish.Finish(c, gatemesh.Outcome{})
	}), 1.0, "failsafe-go's permit")
}

func BenchmarkLimiter(b *testing.B) {
	l := newLimiter(b, LimiterConfig{})
	c, err := gatemesh.NewCall(gatemesh.CallInfo{})
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		adm, _ := l.Admit(context.Background(), c)
		adm.Finish.Finish(c, gatemesh.Outcome{})
	}
}
