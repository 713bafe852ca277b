package breaker

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// told collects what callees are told by their callers.
type told struct {
	mu  sync.Mutex
	all []string
}

func (s *told) add(v string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, v)
}

func (s *told) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.all
	s.all = nil
	return all
}

// serve has h answer the request r of a peer.
func serve(h http.Handler, r *http.Request) *http.Response {
	in := httptest.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, "/", nil)
	in.Header, in.TLS = r.Header.Clone(), &tls.ConnectionState{}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, in)
	return w.Result()
}

// tree is depth services in memory, of which each calls the next one with a Retry
// of its own, and the last fails always. It returns what to call the first one
// with, and what each was told.
func tree(t *testing.T, depth int, f ...func(*RetryConfig)) (http.RoundTripper, []*told) {
	t.Helper()
	var all []*told
	rt := http.RoundTripper(newUpstream(status(503)))
	for i := range depth {
		said := &told{}
		all = append([]*told{said}, all...)
		next, last := outbound(t, newRetry(t, f...).Layer()).Transport(rt), i == 0
		h := chainOf(t).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if last {
				w.WriteHeader(503)
				return
			}
			code, err := send(t, next, request(r.Context(), "next"))
			assert.NoError(t, err)
			w.WriteHeader(code)
		}))
		rt = roundTrip(func(r *http.Request) (*http.Response, error) {
			said.add(r.Header.Get(gatemesh.HopHeader))
			return serve(h, r), nil
		})
	}
	return outbound(t, newRetry(t, f...).Layer()).Transport(rt), all
}

// TestF09_BudgetTravels: every service of a tree knows which attempt it is part
// of, and how many can follow; and retries nothing itself, also if none can.
func TestF09_BudgetTravels(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const calls = 2000
		rt, services := tree(t, 3)
		_, _ = send(t, rt, request(t.Context(), "first"))
		for i, s := range services {
			assert.Equal(t, []string{"retries=2", "attempt=2, retries=1", "attempt=3, retries=0"}, s.take(), i)
		}
		for range calls {
			_, _ = send(t, rt, request(t.Context(), "first"))
		}
		var last []string
		for i, s := range services {
			all := s.take()
			assert.LessOrEqual(t, len(all), calls*11/10, i)
			assert.GreaterOrEqual(t, len(all), calls*21/20, i)
			if i > 0 {
				assert.Equal(t, last, all, "what goes on is what came")
			}
			last = all
			retried := 0
			for _, v := range all {
				switch v {
				case "retries=0": // the most
				case "retries=1", "retries=2":
					retried++
				}
			}
			assert.Less(t, retried, len(all)/10, "who has no budget does not promise any")
		}
	})
}

// TestF09_DespiteTheCaller: of three attempts at each of three services, the last
// one sees 10 and not 27, as nobody tries more often than its caller still can.
func TestF09_DespiteTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rt, services := tree(t, 3, func(c *RetryConfig) { c.DespiteCaller = true })
		_, _ = send(t, rt, request(t.Context(), "first"))
		assert.Equal(t, []string{"retries=2", "attempt=2, retries=1", "attempt=3, retries=0"}, services[0].take())
		assert.Equal(t, []string{
			"retries=2", "attempt=2, retries=1", "attempt=3, retries=0",
			"attempt=2, retries=1", "attempt=3, retries=0",
			"attempt=3, retries=0",
		}, services[1].take())
		assert.Len(t, services[2].take(), 10)
	})
}

// What a callee is told can be left is what there can be: of the attempts, of the
// budget, and of what the route says.
func TestRetriesLeft(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*RetryConfig)
		rule   *gatemesh.RetryPolicy
		hop    string // of the peer that is behind the call
		want   []string
		then   []string // at the next call
	}{
		"by the attempts":      {want: []string{"retries=2", "attempt=2, retries=1", "attempt=3, retries=0"}},
		"by the route":         {rule: &gatemesh.RetryPolicy{Attempts: 2}, want: []string{"retries=1", "attempt=2, retries=0"}},
		"the route says never": {rule: &gatemesh.RetryPolicy{Attempts: 1}, want: []string{""}},
		"by the budget": {
			change: func(c *RetryConfig) { c.MinPerSecond = 0.01 },
			want:   []string{"retries=1", "attempt=2, retries=0"}, then: []string{"retries=0"},
		},
		"by the caller":           {hop: "retries=5", want: []string{"retries=5"}},
		"by one who says no more": {hop: "attempt=2", want: []string{"attempt=2"}},
		"despite him": {
			change: func(c *RetryConfig) { c.DespiteCaller = true }, hop: "retries=1",
			want: []string{"retries=1", "attempt=2, retries=0"},
		},
		"despite him, who has none": {
			change: func(c *RetryConfig) { c.DespiteCaller = true }, hop: "attempt=3, retries=0",
			want: []string{"attempt=3, retries=0"},
		},
		"despite him, who says nothing of it": {
			change: func(c *RetryConfig) { c.DespiteCaller = true }, hop: "attempt=2",
			want: []string{"attempt=2, retries=2", "attempt=3, retries=1", "attempt=4, retries=0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				if test.change == nil {
					test.change = func(*RetryConfig) {}
				}
				var said told
				rt := outbound(t, routed(test.rule), newRetry(t, test.change).Layer()).
					Transport(newUpstream(func(r *http.Request) (*http.Response, error) {
						said.add(r.Header.Get(gatemesh.HopHeader))
						return status(503)(r)
					}))
				call := func() {
					r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
					if test.hop != "" {
						r.Header.Set(gatemesh.HopHeader, test.hop)
						r.TLS = &tls.ConnectionState{}
					}
					chainOf(t).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						_, _ = send(t, rt, request(r.Context(), "b"))
					})).ServeHTTP(httptest.NewRecorder(), r)
				}
				call()
				assert.Equal(t, test.want, said.take())
				if test.then != nil {
					call()
					assert.Equal(t, test.then, said.take())
				}
			})
		})
	}
}

func TestRetriesOfNone(t *testing.T) {
	t.Parallel()
	var zero Retry
	left, ours := zero.Retries(t.Context(), nil)
	assert.Zero(t, left)
	assert.False(t, ours)
	assert.False(t, zero.Hedge(t.Context(), nil))
}

// comeFrom makes calls of a verified peer, or of somebody else, to a crowd.
func (c *crowd) comeFrom(t testing.TB, n int, path, hop string, peer bool) {
	for range n {
		c.wg.Go(func() {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			r.Header.Set(gatemesh.HopHeader, hop)
			if peer {
				r.TLS = &tls.ConnectionState{}
			}
			w := httptest.NewRecorder()
			c.h.ServeHTTP(w, r)
			key := http.StatusText(w.Code)
			if w.Code == 503 {
				assert.Contains(t, w.Body.String(), "overloaded")
				key = w.Header().Get("Retry-After") + w.Header().Get(gatemesh.RetryHeader)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.answers[key]++
		})
	}
}

// Of the calls of a priority, those go first that can be tried elsewhere, and are
// told that they may. Nobody gains by what it says beyond who says nothing.
func TestLimiterLastAttempts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		path, hop string
		peer      bool
		waits     int
		told      string
	}{
		"nothing said":               {path: "/", peer: true, waits: 4, told: "1no"},
		"the first of three":         {path: "/", hop: "retries=2", peer: true, waits: 3},
		"the first of two":           {path: "/", hop: "attempt=1, retries=1", peer: true, waits: 3},
		"the only one":               {path: "/", hop: "retries=0", peer: true, waits: 4, told: "1no"},
		"the last":                   {path: "/", hop: "attempt=3, retries=0", peer: true, waits: 4, told: "1no"},
		"tried elsewhere":            {path: "/", hop: "attempt=2, retries=1", peer: true, waits: 4, told: "1no"},
		"retried, nobody knows":      {path: "/", hop: "attempt=2", peer: true, waits: 4, told: "1no"},
		"a client says that":         {path: "/", hop: "retries=2", waits: 4, told: "1no"},
		"low":                        {path: "/low", hop: "retries=0", peer: true, waits: 2, told: "1no"},
		"low, the first of three":    {path: "/low", hop: "retries=2", peer: true, waits: 1},
		"lowest, the first":          {path: "/lowest", hop: "retries=2", peer: true},
		"lowest, the last":           {path: "/lowest", hop: "retries=0", peer: true, told: "1no"},
		"highest, the first":         {path: "/highest", hop: "retries=2", peer: true, waits: 7},
		"highest, says it is no one": {path: "/highest", hop: "retries=0", peer: true, waits: 8, told: "1no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLimiter(t, LimiterConfig{Min: 8, Max: 8, MaxWait: time.Second, Priority: byPath})
				c := newCrowd(t, l)
				c.comeFrom(t, 8, "/lowest", "", false) // there is room for all
				synctest.Wait()
				require.EqualValues(t, 8, c.in.Load())
				c.comeFrom(t, 20, test.path, test.hop, test.peer)
				synctest.Wait()
				assert.Equal(t, test.waits, l.Stats().Waiting)
				assert.Equal(t, 20-test.waits, c.count(test.told))
				close(c.release)
				c.wg.Wait()
				assert.Equal(t, 8+test.waits, c.count("OK"))
			})
		})
	}
}

// TestLimiterElsewhere: what one replica refuses is answered by another one. If
// all refuse, two are asked.
func TestLimiterElsewhere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		busy     []bool
		attempts int
		code     int
		asked    int64
	}{
		"one of two":       {[]bool{true, false, false}, 3, 200, 2},
		"all":              {[]bool{true, true, true}, 3, 503, 2},
		"no second chance": {[]bool{true, false, false}, 1, 503, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var replicas []*crowd
				for _, busy := range test.busy {
					c := newCrowd(t, newLimiter(t, LimiterConfig{Min: 1, Max: 1, DisableQueue: true}))
					if busy {
						c.come(t, 1, "/")
					} else {
						close(c.release)
					}
					replicas = append(replicas, c)
				}
				synctest.Wait()
				u := newUpstream(func(r *http.Request) (*http.Response, error) {
					for i, c := range replicas {
						addr := string(rune('a' + i))
						if gatemesh.TriedEndpoint(r.Context(), addr) {
							continue
						}
						gatemesh.RecordEndpoint(r.Context(), addr)
						return serve(c.h, r), nil
					}
					return nil, errDown
				})
				rt := outbound(t, newRetry(t, func(c *RetryConfig) { c.MaxAttempts = test.attempts }).Layer()).Transport(u)
				began := time.Now()
				code, err := send(t, rt, request(t.Context(), "a"))
				require.NoError(t, err)
				assert.Equal(t, test.code, code)
				assert.Equal(t, test.asked, u.attempts.Load())
				assert.Less(t, time.Since(began), 25*time.Millisecond, "another replica need not be waited for")
				for i, c := range replicas {
					if test.busy[i] {
						close(c.release)
					}
					c.wg.Wait()
				}
			})
		})
	}
}
