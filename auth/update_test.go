package auth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
)

// hosts are two endpoints by these names: one has the key "ed", the other "next".
type hosts struct{ old, new endpoint }

func oldAndNew() *hosts {
	h := &hosts{}
	h.old.serve(edDoc())
	h.new.serve(nextDoc())
	return h
}

func (h *hosts) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == "old" {
		return h.old.RoundTrip(r)
	}
	return h.new.RoundTrip(r)
}

// at is the configuration of a key set that host publishes.
func (h *hosts) at(host string) JWKSConfig {
	return JWKSConfig{URL: "https://" + host + "/jwks", Client: &http.Client{Transport: h}}
}

func nextDoc() string { return jwksOf(jwkOf("next", edPublic(otherEd()), nil)) }

// slowly answers after d, and hears no context.
func slowly(d time.Duration, doc string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		time.Sleep(d)
		return status(200, doc)(r)
	}
}

// following returns a JWKS for cfg. It is closed when the test ends.
func following(t testing.TB, cfg JWKSConfig) *JWKS {
	t.Helper()
	j, err := NewJWKS(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close()) })
	return j
}

// JWT-12 when the place changes: what the new one does not have is refused as
// soon as it was read, remembered or not, and nobody is refused before.
func TestJWT12_Update(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := oldAndNew()
		h.new.set(slowly(time.Second, nextDoc()))
		j := following(t, h.at("old"))
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = j }))
		synctest.Wait()
		remembered, next := edToken(t, payload(time.Now(), nil)), kidToken(t, "next")
		require.Equal(t, "ok", tokenReason(t, a, remembered))
		time.Sleep(11 * time.Second) // past the first cool-down, for what follows to be missing
		require.Equal(t, "token_key_unknown", tokenReason(t, a, next))

		require.NoError(t, j.Update(h.at("new")))
		began := time.Now()
		synctest.Wait()
		require.Equal(t, []time.Time{began}, h.new.fetches(), "at once, in the cool-down")
		assert.Equal(t, "ok", tokenReason(t, a, remembered), "nobody pays for the change")
		assert.Equal(t, "ok", tokenReason(t, a, edToken(t, payload(time.Now(), m{"jti": "t2"}))))
		assert.Equal(t, "ok", tokenReason(t, a, next), "it waits, though it was missing from the old place")
		assert.Equal(t, time.Second, time.Since(began))
		for _, token := range []string{remembered, edToken(t, payload(time.Now(), m{"jti": "t3"}))} {
			assert.Equal(t, "token_key_unknown", tokenReason(t, a, token), "the old place has no say")
		}
		assert.Len(t, h.old.fetches(), 2)
		time.Sleep(time.Hour)
		assert.Len(t, h.old.fetches(), 2, "nobody asks there any more")
	})
}

// JWT-13 when the place changes: the new one is away.
func TestJWT13_Update(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(*http.Request) (*http.Response, error){
		"refused": refused, "black hole": blackHole, "500": status(500, ""), "no keys": status(200, `{"keys":[]}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h, w := oldAndNew(), &watcher{}
				h.new.set(outage)
				j := following(t, h.at("old"))
				synctest.Wait()
				seen := time.Now()
				time.Sleep(time.Minute)
				cfg := h.at("new")
				cfg.MaxStale, cfg.Observer = 10*time.Minute, w
				require.NoError(t, j.Update(cfg))
				time.Sleep(time.Until(seen.Add(10 * time.Minute)))
				assert.Equal(t, 1, j.Keys(time.Now()).Len(), "the last good keys are in use")
				assert.NotEqual(t, breaker.Closed, j.version.Load().breaker.State())
				time.Sleep(time.Nanosecond)
				assert.Nil(t, j.Keys(time.Now()), "MaxStale is counted from when the old place was read")
				h.new.serve(nextDoc())
				time.Sleep(22 * time.Second)
				_, known := j.Keys(time.Now()).find("next", "EdDSA")
				assert.True(t, known)
				all := w.all()
				assert.Contains(t, all[0].Message, "key set https://new/jwks cannot be fetched; the last good keys stay in use")
				assert.Equal(t, "key set https://new/jwks is in use", all[len(all)-1].Message)
			})
		})
	}
}

// A fetch under way is no fetch of the new configuration, even if it ends well.
func TestJWKSUpdate_FetchUnderWay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change  func(h *hosts, c *JWKSConfig)
		want    string // the key id that is found
		old     int    // fetches from the old place
		waiters time.Duration
	}{
		"another place":        {func(h *hosts, c *JWKSConfig) { c.URL = h.at("new").URL }, "next", 1, 1500 * time.Millisecond},
		"another client":       {func(h *hosts, c *JWKSConfig) { c.Client = &http.Client{Transport: h, Timeout: time.Minute} }, "ed", 2, 2 * time.Second},
		"another transport":    {func(h *hosts, c *JWKSConfig) { c.Client.Transport = struct{ *hosts }{h} }, "ed", 2, 2 * time.Second},
		"another jar":          {func(_ *hosts, c *JWKSConfig) { c.Client.Jar = gatemesh.Must(cookiejar.New(nil)) }, "ed", 2, 2 * time.Second},
		"another timeout":      {func(_ *hosts, c *JWKSConfig) { c.FetchTimeout = 7 * time.Second }, "ed", 2, 2 * time.Second},
		"another cap":          {func(_ *hosts, c *JWKSConfig) { c.MaxBody = 4096 }, "ed", 2, 2 * time.Second},
		"another cool-down":    {func(_ *hosts, c *JWKSConfig) { c.Cooldown = time.Second }, "ed", 2, 2 * time.Second},
		"nothing":              {func(*hosts, *JWKSConfig) {}, "ed", 1, time.Second},
		"an equal client":      {func(_ *hosts, c *JWKSConfig) { d := *c.Client; c.Client = &d }, "ed", 1, time.Second},
		"another interval":     {func(_ *hosts, c *JWKSConfig) { c.RefreshInterval = time.Minute }, "ed", 1, time.Second},
		"another MaxStale":     {func(_ *hosts, c *JWKSConfig) { c.MaxStale = 24 * time.Hour }, "ed", 1, time.Second},
		"another Observer":     {func(_ *hosts, c *JWKSConfig) { c.Observer = &watcher{} }, "ed", 1, time.Second},
		"the defaults spelled": {func(_ *hosts, c *JWKSConfig) { c.RefreshInterval, c.Cooldown = 5*time.Minute, 10*time.Second }, "ed", 1, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h, w := oldAndNew(), &watcher{}
				h.old.set(func(r *http.Request) (*http.Response, error) {
					fetch := len(h.old.fetches())
					time.Sleep(time.Second)
					if fetch == 1 && test.old > 1 { // what must not be stored
						return status(200, nextDoc())(r)
					}
					return status(200, edDoc())(r)
				})
				h.new.set(slowly(500*time.Millisecond, nextDoc()))
				cfg := h.at("old")
				cfg.Observer, cfg.FetchTimeout = w, 5*time.Second
				j := following(t, cfg)
				began := time.Now()
				var wg sync.WaitGroup
				for range 3 { // before the update
					wg.Go(func() {
						assert.Equal(t, 1, j.Refresh(t.Context(), test.want).Len())
						assert.Equal(t, test.waiters, time.Since(began))
					})
				}
				time.Sleep(500 * time.Millisecond)
				test.change(h, &cfg)
				require.NoError(t, j.Update(cfg))
				wg.Go(func() { // and after
					assert.Equal(t, 1, j.Refresh(t.Context(), test.want).Len())
					assert.Equal(t, test.waiters, time.Since(began))
				})
				time.Sleep(500 * time.Millisecond) // the old fetch ends
				synctest.Wait()
				if test.waiters > time.Second {
					assert.Nil(t, j.Keys(time.Now()), "what it found is not of this configuration")
				}
				wg.Wait()
				_, known := j.Keys(time.Now()).find(test.want, "EdDSA")
				assert.True(t, known)
				time.Sleep(5 * time.Second)
				assert.Len(t, h.old.fetches(), test.old)
				assert.Equal(t, breaker.Closed, j.version.Load().breaker.State())
				for _, e := range w.all() {
					assert.NotEqual(t, gatemesh.EventFault, e.Kind, e.Message)
				}
			})
		})
	}
}

// An Update ends the fetch under way, it does not wait for its timeout.
func TestJWKSUpdate_EndsFetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := oldAndNew()
		h.old.set(blackHole)
		cfg := h.at("old")
		cfg.FetchTimeout = time.Minute
		j := following(t, cfg)
		synctest.Wait()
		began := time.Now()
		require.NoError(t, j.Update(h.at("new")))
		require.NoError(t, j.Update(h.at("old")), "and back")
		require.NoError(t, j.Update(h.at("new")), "and there again")
		assert.Equal(t, 1, j.Refresh(t.Context(), "next").Len())
		assert.Zero(t, time.Since(began))
	})
}

// Updates that change nothing about fetches cannot starve them.
func TestJWKSUpdate_AllTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{}
		e.set(slowly(1500*time.Millisecond, edDoc()))
		cfg := JWKSConfig{URL: "https://idp.example/jwks", Client: &http.Client{Transport: e}}
		j := following(t, cfg)
		for i := range 20 * 60 {
			time.Sleep(time.Second)
			cfg.MaxStale = time.Hour + time.Duration(i)
			cfg.Observer = gatemesh.ObserverFunc(func(context.Context, gatemesh.Event) {}) // not comparable
			require.NoError(t, j.Update(cfg))
		}
		n := len(e.fetches())
		assert.GreaterOrEqual(t, n, 4)
		assert.LessOrEqual(t, n, 5)
		assert.Equal(t, 1, j.Keys(time.Now()).Len())
	})
}

func TestJWKSUpdate_Schedule(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		down       bool // from the first fetch on
		change     func(*JWKSConfig)
		from, upTo time.Duration // when the next fetch begins, after the last ended
	}{
		"as it was":                   {false, func(*JWKSConfig) {}, 270 * time.Second, 300 * time.Second},
		"shorter":                     {false, func(c *JWKSConfig) { c.RefreshInterval = time.Minute }, 54 * time.Second, time.Minute},
		"shorter than what has gone":  {false, func(c *JWKSConfig) { c.RefreshInterval, c.Cooldown = 10*time.Second, 10*time.Second }, 30 * time.Second, 30 * time.Second},
		"longer":                      {false, func(c *JWKSConfig) { c.RefreshInterval = time.Hour }, 54 * time.Minute, time.Hour},
		"within the cool-down":        {false, func(c *JWKSConfig) { c.RefreshInterval, c.Cooldown = time.Minute, time.Minute }, time.Minute, time.Minute},
		"failed, as it was":           {true, func(*JWKSConfig) {}, 90 * time.Second, 100 * time.Second},
		"failed, shorter interval":    {true, func(c *JWKSConfig) { c.RefreshInterval = time.Minute }, 54 * time.Second, time.Minute},
		"failed, shorter cool-down":   {true, func(c *JWKSConfig) { c.Cooldown = 20 * time.Second }, 36 * time.Second, 40 * time.Second},
		"failed, no cool-down is due": {true, func(c *JWKSConfig) { c.Cooldown = time.Second }, 30 * time.Second, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := &endpoint{}
				e.serve(edDoc())
				if test.down {
					e.set(refused)
				}
				cfg := JWKSConfig{URL: "https://idp.example/jwks", Client: &http.Client{Transport: e}, Cooldown: 50 * time.Second}
				j := following(t, cfg)
				synctest.Wait()
				ended := time.Now()
				time.Sleep(30 * time.Second)
				test.change(&cfg)
				require.NoError(t, j.Update(cfg))
				time.Sleep(2 * time.Hour)
				require.Greater(t, len(e.fetches()), 1)
				gap := e.fetches()[1].Sub(ended)
				assert.GreaterOrEqual(t, gap, test.from)
				assert.LessOrEqual(t, gap, test.upTo)
			})
		})
	}
}

func TestJWKSUpdate_MaxStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := oldAndNew()
		j := following(t, h.at("old"))
		synctest.Wait()
		h.old.set(refused)
		time.Sleep(30 * time.Minute)
		cfg := h.at("old")
		cfg.MaxStale = 29 * time.Minute
		require.NoError(t, j.Update(cfg))
		assert.Nil(t, j.Keys(time.Now()))
		cfg.MaxStale = 31 * time.Minute
		require.NoError(t, j.Update(cfg))
		assert.Equal(t, 1, j.Keys(time.Now()).Len())
	})
}

// A shorter cool-down is one for those who wait for the longer one, too.
func TestJWKSUpdate_Cooldown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := oldAndNew()
		cfg := h.at("old")
		cfg.Cooldown = 2 * time.Minute
		j := following(t, cfg)
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		j.Refresh(t.Context(), "next") // is missing for six minutes
		h.old.serve(nextDoc())
		time.Sleep(10 * time.Second)
		j.Refresh(t.Context(), "next")
		require.Len(t, h.old.fetches(), 2)
		cfg.Cooldown = 10 * time.Second
		require.NoError(t, j.Update(cfg))
		_, known := j.Refresh(t.Context(), "next").find("next", "EdDSA")
		assert.True(t, known)
	})
}

func TestJWKSUpdate_Breaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, w := oldAndNew(), &watcher{}
		h.old.set(retryLater("60"))
		cfg := h.at("old")
		j := following(t, cfg)
		for j.version.Load().breaker.State() == breaker.Closed {
			time.Sleep(time.Second)
		}
		b, n := j.version.Load().breaker, len(h.old.fetches())
		cfg.Cooldown, cfg.Observer, cfg.Client = time.Second, w, &http.Client{Transport: h, Timeout: time.Second}
		require.NoError(t, j.Update(cfg))
		assert.Same(t, b, j.version.Load().breaker)
		assert.Equal(t, breaker.Open, b.State(), "the place has not changed")
		synctest.Wait()
		assert.Len(t, h.old.fetches(), n, "and has asked for patience")
		began := time.Now()
		assert.Nil(t, j.Refresh(t.Context(), "ed"))
		assert.Zero(t, time.Since(began))

		h.new.set(slowly(time.Second, nextDoc()))
		moved := h.at("new")
		moved.Observer = w
		require.NoError(t, j.Update(moved))
		b = j.version.Load().breaker
		assert.Equal(t, breaker.Closed, b.State(), "failures of one place say nothing of another")
		assert.Equal(t, "breaker key set https://new/jwks (closed)", fmt.Sprint(b))
		assert.Equal(t, "JWKS https://new/jwks", fmt.Sprint(j))
		assert.Equal(t, 1, j.Refresh(t.Context(), "next").Len(), "it is waited for")
		assert.Equal(t, time.Second, time.Since(began))
		synctest.Wait()
		require.Len(t, w.all(), 1)
		assert.Equal(t, "key set https://new/jwks is in use", w.all()[0].Message)
		time.Sleep(10 * time.Minute)
		assert.Len(t, w.all(), 1, "said once")

		h.new.set(refused)
		time.Sleep(10 * time.Minute)
		assert.NotEqual(t, breaker.Closed, b.State())
		assert.Len(t, h.old.fetches(), n)
	})
}

// Two addresses that differ in their query alone are two places.
func TestJWKSUpdate_Query(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := oldAndNew()
		h.old.set(status(403, ""))
		j := following(t, h.at("old"))
		time.Sleep(5 * time.Minute)
		require.Equal(t, breaker.Open, j.version.Load().breaker.State())
		h.old.serve(edDoc())
		cfg := h.at("old")
		cfg.URL += "?token=SECRET"
		require.NoError(t, j.Update(cfg))
		assert.Equal(t, 1, j.Refresh(t.Context(), "ed").Len())
		assert.NotContains(t, fmt.Sprintf("%v %+v %#v", j, j, j), "SECRET")
	})
}

// The new policy of the breaker counts: its delay follows the cool-down.
func TestJWKSUpdate_BreakerDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := oldAndNew()
		h.old.set(refused)
		cfg := h.at("old")
		j := following(t, cfg)
		cfg.Cooldown = time.Second
		require.NoError(t, j.Update(cfg))
		time.Sleep(5 * time.Minute)
		assert.Equal(t, breaker.Open, j.version.Load().breaker.State())
		times := h.old.fetches()
		assert.LessOrEqual(t, times[len(times)-1].Sub(times[len(times)-2]), 2*time.Second)
	})
}

func TestJWKSUpdate_Observer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, before, after := oldAndNew(), &watcher{}, &watcher{}
		half := jwksOf(jwkOf("ed", edPublic(edKey()), nil), m{"kty": "unheard of"})
		h.old.serve(half)
		cfg := h.at("old")
		cfg.Observer = before
		j := following(t, cfg)
		synctest.Wait()
		require.Len(t, before.all(), 1)

		// A change made by the Observer itself, on the fetching goroutine.
		h.new.serve(half)
		cfg = h.at("new")
		cfg.Observer = gatemesh.ObserverFunc(func(ctx context.Context, e gatemesh.Event) {
			after.Observe(ctx, e)
			c := h.at("new")
			c.Observer = after
			assert.NoError(t, j.Update(c))
		})
		require.NoError(t, j.Update(cfg))
		synctest.Wait()
		require.Len(t, after.all(), 1)
		assert.Equal(t, "key set https://new/jwks has keys that cannot be used", after.all()[0].Message, "said of the new place, too")
		h.new.set(refused)
		time.Sleep(6 * time.Minute)
		assert.Greater(t, len(after.all()), 3)
		assert.Len(t, before.all(), 1)

		require.NoError(t, j.Update(h.at("new")))
		n := len(after.all())
		time.Sleep(6 * time.Minute)
		assert.Len(t, after.all(), n, "nobody is told")
	})
}

// Who asks, and how often, counts from the Update on, for the fetch under way too.
func TestJWKSUpdate_ObserverOfFetchUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, before, after := oldAndNew(), &watcher{}, &watcher{}
		h.old.set(slowly(time.Second, ""))
		cfg := h.at("old")
		cfg.Observer = before
		j := following(t, cfg)
		synctest.Wait()
		cfg.Observer, cfg.RefreshInterval = after, 10*time.Second // after a failure, it would be 20
		require.NoError(t, j.Update(cfg))
		time.Sleep(11*time.Second + 500*time.Millisecond)
		assert.Len(t, h.old.fetches(), 2)
		assert.Len(t, after.all(), 1)
		assert.Empty(t, before.all())
	})
}

// Fetches that an Update interrupts are no failures.
func TestJWKSUpdate_Interrupts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, w := oldAndNew(), &watcher{}
		h.old.set(blackHole)
		cfg := h.at("old")
		cfg.Observer = w
		j := following(t, cfg)
		for range 2 * maxFailures {
			synctest.Wait()
			cfg.FetchTimeout += time.Minute / 10
			require.NoError(t, j.Update(cfg))
		}
		synctest.Wait()
		assert.Len(t, h.old.fetches(), 1+2*maxFailures)
		assert.Equal(t, breaker.Closed, j.version.Load().breaker.State())
		assert.Empty(t, w.all())
	})
}

// An Update between the end of a fetch and the storing of what it found, as
// when somebody acts on what the breaker says.
func TestJWKSUpdate_JustBeforeStoring(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := oldAndNew()
		h.old.set(refused)
		h.new.set(slowly(time.Second, nextDoc()))
		cfg := h.at("old")
		var j *JWKS
		var updated atomic.Bool
		cfg.Observer = gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
			if e.Layer == "breaker" && e.Kind == gatemesh.EventNotice { // closed
				assert.NoError(t, j.Update(h.at("new")))
				updated.Store(true)
			}
		})
		j = following(t, cfg)
		for j.version.Load().breaker.State() == breaker.Closed {
			time.Sleep(time.Second)
		}
		h.old.serve(edDoc())
		for !updated.Load() {
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		assert.Nil(t, j.Keys(time.Now()), "the old place has no say any more")
		time.Sleep(time.Second)
		_, known := j.Keys(time.Now()).find("next", "EdDSA")
		assert.True(t, known)
		assert.Len(t, h.new.fetches(), 1)
	})
}

func TestSameValue(t *testing.T) {
	t.Parallel()
	f := func() {}
	x, y := new(int), new(int)
	for _, test := range []struct {
		a, b any
		want bool
	}{{nil, nil, true}, {nil, x, false}, {x, nil, false}, {x, x, true}, {x, y, false}, {f, f, false}, {x, f, false}, {[]any{1}, []any{1}, false}} {
		assert.Equal(t, test.want, sameValue(test.a, test.b), "%T %T", test.a, test.b)
	}
}

func TestJWKSUpdate_File(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, doc string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(doc), 0o600))
		return path
	}
	ed, next, empty := write("ed", edDoc()), write("next", nextDoc()), write("empty", `{"keys":[]}`)
	synctest.Test(t, func(t *testing.T) {
		j := following(t, JWKSConfig{File: ed})
		assert.Equal(t, 1, j.Refresh(t.Context(), "ed").Len())
		for _, cfg := range []JWKSConfig{{File: empty}, {File: filepath.Join(dir, "missing")}, {File: ed, MaxBody: 3}} {
			cfg.MaxStale = 5 * time.Minute
			require.ErrorContains(t, j.Update(cfg), "JWKSConfig.File")
			assert.Equal(t, "JWKS "+ed, fmt.Sprint(j))
			assert.Equal(t, time.Hour, j.version.Load().cfg.MaxStale, "all or nothing")
		}
		require.NoError(t, j.Update(JWKSConfig{File: next}))
		_, known := j.Refresh(t.Context(), "next").find("next", "EdDSA")
		assert.True(t, known)
		_, known = j.Keys(time.Now()).find("ed", "EdDSA")
		assert.False(t, known)
		h := oldAndNew()
		require.NoError(t, j.Update(h.at("old")))
		_, known = j.Refresh(t.Context(), "ed").find("ed", "EdDSA")
		assert.True(t, known)
	})
}

func TestJWKSUpdate_Faults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := oldAndNew()
		j := following(t, h.at("old"))
		synctest.Wait()
		err := j.Update(JWKSConfig{
			URL: "http://idp.example/jwks", RefreshInterval: time.Millisecond, FetchTimeout: -1,
			MaxStale: -1, Cooldown: time.Hour, MaxBody: -1,
		})
		for _, want := range []string{"InsecureHTTP", "RefreshInterval", "FetchTimeout", "MaxStale", "Cooldown", "MaxBody"} {
			assert.ErrorContains(t, err, want)
		}
		require.Error(t, j.Update(JWKSConfig{}))
		time.Sleep(time.Hour)
		assert.Greater(t, len(h.old.fetches()), 11, "it goes on as it was")
		require.NoError(t, j.Close())
		n := len(h.old.fetches())
		require.ErrorIs(t, j.Update(h.at("new")), errJWKSClosed)
		assert.Equal(t, "JWKS https://old/jwks", fmt.Sprint(j))
		time.Sleep(time.Hour)
		assert.Len(t, h.old.fetches(), n)
		assert.Empty(t, h.new.fetches())
	})
}

func TestJWKSZero(t *testing.T) {
	t.Parallel()
	var j JWKS
	assert.Nil(t, j.Keys(time.Now()))
	assert.Nil(t, j.Refresh(t.Context(), "x"))
	require.ErrorIs(t, j.Update(JWKSConfig{URL: "https://idp.example"}), errJWKSUnset)
	assert.Equal(t, "unset JWKS", fmt.Sprint(&j))
	require.NoError(t, j.Close())
}

// published is a key set on a real socket and one in a file.
func published(t testing.TB) (url, file string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(edDoc())) }))
	t.Cleanup(srv.Close)
	file = filepath.Join(t.TempDir(), "jwks.json")
	require.NoError(t, os.WriteFile(file, []byte(edDoc()), 0o600))
	return srv.URL, file
}

// LC_01: a thousand key sets come, change and go, and leave nothing behind. It
// is not parallel: it counts what is open in the process.
func Test_LC_01_JWKS(t *testing.T) {
	url, file := published(t)
	cfgs := []JWKSConfig{{URL: url}, {URL: url + "/other"}, {File: file}, {URL: url, RefreshInterval: time.Minute}}
	once := func(i int) {
		j, err := NewJWKS(cfgs[i%4])
		require.NoError(t, err)
		if i%3 > 0 { // else it is changed while the first fetch is under way
			require.Equal(t, 1, j.Refresh(t.Context(), "ed").Len())
		}
		require.NoError(t, j.Update(cfgs[(i+1)%4]))
		require.NoError(t, j.Update(cfgs[(i/4)%4]))
		if i%2 > 0 {
			require.Equal(t, 1, j.Refresh(t.Context(), "ed").Len())
		}
		require.NoError(t, j.Close())
		require.NoError(t, j.Close())
		require.ErrorIs(t, j.Update(cfgs[0]), errJWKSClosed)
	}
	once(1) // what the runtime keeps for itself
	nothingStays(t, func() {
		for i := range 1000 {
			once(i)
		}
	})
}

// LC_01, while it is used and changed by many.
func Test_LC_01_JWKSInUse(t *testing.T) {
	url, file := published(t)
	nothingStays(t, func() {
		for round := range 20 {
			j, err := NewJWKS(JWKSConfig{URL: url})
			require.NoError(t, err)
			var closed atomic.Bool
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := range 50 {
						cfg := JWKSConfig{URL: fmt.Sprint(url, "/", i%3), RefreshInterval: time.Duration(1+g) * time.Minute}
						if i%5 == 0 {
							cfg.URL, cfg.File = "", file
						}
						gone := closed.Load()
						if err := j.Update(cfg); err != nil || gone {
							assert.ErrorIs(t, err, errJWKSClosed)
						}
						if g < 2 && i == 5+round {
							assert.NoError(t, j.Close())
							closed.Store(true)
						}
					}
				})
				wg.Go(func() {
					for i := range 50 {
						j.Refresh(t.Context(), fmt.Sprint("ed", i))
						j.Keys(time.Now())
						_ = fmt.Sprint(j)
					}
				})
			}
			wg.Wait()
		}
	})
}

// nothingStays fails if f leaves goroutines or file descriptors for longer than
// a second.
func nothingStays(t *testing.T, f func()) {
	t.Helper()
	files, routines := openFiles(t), runtime.NumGoroutine()
	f()
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.LessOrEqual(c, openFiles(t), files, "file descriptors")
		assert.LessOrEqual(c, runtime.NumGoroutine(), routines+1, "goroutines; one is that of this check")
	}, time.Second, 10*time.Millisecond)
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, fs.ErrNotExist) {
		return 0 // no such thing here
	}
	require.NoError(t, err)
	return len(d)
}
