package ratelimit

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func newLimiter(t testing.TB, limit string, change ...func(*Config)) *Limiter {
	t.Helper()
	lim, err := ParseLimit(limit)
	require.NoError(t, err)
	cfg := Config{Name: "client", Key: ByClient(0), Limit: lim}
	for _, f := range change {
		f(&cfg)
	}
	l, err := New(cfg)
	require.NoError(t, err)
	return l
}

func TestZeroConfig(t *testing.T) {
	t.Parallel()
	l, err := New(Config{})
	assert.Nil(t, l)
	require.Error(t, err)
	assert.Equal(t, []string{
		"ratelimit: Config.Name is required",
		"ratelimit: Config.Key is required",
		"ratelimit: Config.Limit.Requests is required",
		"ratelimit: Config.Limit.Per is required",
	}, strings.Split(err.Error(), "\n"))
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"upper case", func(c *Config) { c.Name = "Client" }, "Config.Name"},
		{"quote", func(c *Config) { c.Name = `a"b` }, "Config.Name"},
		{"line break", func(c *Config) { c.Name = "a\r\nb" }, "Config.Name"},
		{"long", func(c *Config) { c.Name = strings.Repeat("a", 65) }, "Config.Name"},
		{"prefix too short", func(c *Config) { c.Key = ByClient(31) }, "Config.Key"},
		{"prefix too long", func(c *Config) { c.Key = ByClient(129) }, "Config.Key"},
		{"negative prefix", func(c *Config) { c.Key = ByClient(-1) }, "Config.Key"},
		{"no function", func(c *Config) { c.Key = ByFunc(nil) }, "Config.Key"},
		{"route of nothing", func(c *Config) { c.Key = Key{}.PerRoute() }, "Config.Key is required"},
		{"negative requests", func(c *Config) { c.Limit.Requests = -1 }, "Config.Limit.Requests"},
		{"requests", func(c *Config) { c.Limit.Requests = maxRequests + 1 }, "Config.Limit.Requests"},
		{"period", func(c *Config) { c.Limit.Per = time.Microsecond }, "Config.Limit.Per"},
		{"long period", func(c *Config) { c.Limit.Per = maxPer + 1 }, "Config.Limit.Per"},
		{"negative burst", func(c *Config) { c.Limit.Burst = -1 }, "Config.Limit.Burst"},
		{"negative keys", func(c *Config) { c.MaxKeys = -1 }, "Config.MaxKeys"},
		{"few keys", func(c *Config) { c.MaxKeys = 999 }, "Config.MaxKeys"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Name: "client", Key: ByClient(0), Limit: Limit{Requests: 1, Per: time.Minute}}
			tt.change(&cfg)
			_, err := New(cfg)
			assert.ErrorContains(t, err, "ratelimit: "+tt.want)
		})
	}
}

func TestZeroLimiterFailsClosed(t *testing.T) {
	t.Parallel()
	var l Limiter
	_, err := l.Admit(t.Context(), from(t, "192.0.2.1"))
	assert.Equal(t, gatemesh.Internal, gatemesh.AsDenial(t.Context(), err).Code)
	require.Error(t, l.Update(Config{Name: "client", Key: ByClient(0), Limit: Limit{Requests: 1, Per: time.Minute}}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	_, err = gatemesh.NewChain(entry, l.Layer())
	require.Error(t, err)
	w := httptest.NewRecorder()
	entry.Handler(l.Handler(http.NotFoundHandler())).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, 500, w.Code)
}

// TestQuotaIsExact: the 1,001st call within the minute is refused, however the
// thousand came, and passes as soon as the first of them is a minute old.
func TestQuotaIsExact(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, c := newLimiter(t, "1000/1m"), from(t, "192.0.2.1")
		require.Equal(t, 1000, admitted(t, l, c, 1000))
		require.False(t, admit(t, l, c), "the 1,001st")
		for range 59 {
			time.Sleep(time.Second)
			require.False(t, admit(t, l, c))
		}
		time.Sleep(time.Second - 1)
		require.False(t, admit(t, l, c), "a nanosecond before the minute is over")
		time.Sleep(time.Nanosecond)
		require.Equal(t, 1000, admitted(t, l, c, 2000), "all have come back at once, as they were used")
	})
}

// TestQuotaAcrossTheBoundary is where fixed windows and token buckets let
// nearly twice the quota through.
func TestQuotaAcrossTheBoundary(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, c := newLimiter(t, "1000/1m"), from(t, "192.0.2.1")
		ok := admitted(t, l, c, 1)
		time.Sleep(59 * time.Second)
		ok += admitted(t, l, c, 1000)
		for range 59 * 4 {
			time.Sleep(250 * time.Millisecond)
			ok += admitted(t, l, c, 10)
		}
		assert.Equal(t, 1001, ok, "in the 60 s from just before the second call, 1,000")

		b := newLimiter(t, "1000/1m,burst=1000")
		ok = admitted(t, b, c, 1000)
		for range 59 {
			time.Sleep(time.Second)
			ok += admitted(t, b, c, 100)
		}
		assert.InDelta(t, 1983, ok, 1, "which is why a bucket is no contract")
	})
}

func TestTokenBucket(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, c := newLimiter(t, "10/1s,burst=20"), from(t, "192.0.2.1")
		assert.Equal(t, 20, admitted(t, l, c, 50))
		time.Sleep(99 * time.Millisecond)
		assert.False(t, admit(t, l, c))
		time.Sleep(time.Millisecond)
		assert.Equal(t, 1, admitted(t, l, c, 5))
		time.Sleep(time.Hour)
		assert.Equal(t, 20, admitted(t, l, c, 50))
	})
}

func TestFields(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tests := []struct {
			limit, policy string
			wait          time.Duration // before the second call
			first, second string
			refused       string // after all others
			retry         string
		}{
			{"1000/1m", `"client";q=1000;w=60`, 20 * time.Second, `"client";r=999;t=60`, `"client";r=998;t=40`, `"client";r=0;t=40`, "40"},
			{"2/1h", `"client";q=2;w=3600`, 0, `"client";r=1;t=3600`, `"client";r=0;t=3600`, `"client";r=0;t=3600`, "3600"},
			{"2/100ms", `"client";q=2`, 0, `"client";r=1;t=1`, `"client";r=0;t=1`, `"client";r=0;t=1`, "1"},
			{"3/1500ms", `"client";q=3`, 0, `"client";r=2;t=2`, `"client";r=1;t=2`, `"client";r=0;t=2`, "2"},
			{"6/1m,burst=3", `"client";q=6;w=60;gatemesh-burst=3`, 5 * time.Second, `"client";r=2;t=10`, `"client";r=1;t=5`, `"client";r=0;t=5`, "5"},
			{"1/90m,burst=2", `"client";q=1;w=5400;gatemesh-burst=2`, 0, `"client";r=1;t=5400`, `"client";r=0;t=5400`, `"client";r=0;t=5400`, "5400"},
		}
		for _, tt := range tests {
			l, c := newLimiter(t, tt.limit), from(t, "192.0.2.1")
			quiet := newLimiter(t, tt.limit, func(c *Config) { c.DisableFields = true })
			for i, want := range []string{tt.first, tt.second} {
				time.Sleep(time.Duration(i) * tt.wait)
				adm, err := l.Admit(t.Context(), c)
				require.NoError(t, err)
				assert.Equal(t, map[string]string{"Ratelimit-Policy": tt.policy, "Ratelimit": want}, values(adm.Header), tt.limit)
				adm, err = quiet.Admit(t.Context(), c)
				require.NoError(t, err)
				assert.Empty(t, adm.Header)
			}
			admitted(t, l, c, 1000)
			admitted(t, quiet, c, 1000)
			_, err := l.Admit(t.Context(), c)
			assert.Equal(t, map[string]string{"Ratelimit-Policy": tt.policy, "Ratelimit": tt.refused, "Retry-After": tt.retry},
				values(gatemesh.AsDenial(t.Context(), err).Header), tt.limit)
			_, err = quiet.Admit(t.Context(), c)
			assert.Equal(t, map[string]string{"Retry-After": tt.retry}, values(gatemesh.AsDenial(t.Context(), err).Header))
		}
	})
}

func TestSeconds(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]int64{-1: 1, 0: 1, 1: 1, time.Second: 1, time.Second + 1: 2, time.Minute: 60} {
		assert.Equal(t, want, seconds(d), d)
	}
}

// TestRetryAfterIsTrue: who waits as long as told is served, and is never told
// to wait longer than the period.
func TestRetryAfterIsTrue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, limit := range []string{"50/10s", "50/10s,burst=7", "3/1m", "1/2m"} {
			l, c := newLimiter(t, limit), from(t, "192.0.2.1")
			for i := range 300 {
				_, err := l.Admit(t.Context(), c)
				if err == nil {
					time.Sleep(time.Duration(i%7) * 37 * time.Millisecond)
					continue
				}
				wait, perr := time.ParseDuration(values(gatemesh.AsDenial(t.Context(), err).Header)["Retry-After"] + "s")
				require.NoError(t, perr)
				require.GreaterOrEqual(t, wait, time.Second)
				require.LessOrEqual(t, wait, l.state.Latest().Limit.Per)
				time.Sleep(wait)
				require.True(t, admit(t, l, c), "%s after %s", limit, wait)
			}
		}
	})
}

func TestOutboundCallsGetNoResponseFields(t *testing.T) {
	t.Parallel()
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Parent: from(t, "192.0.2.1")})
	require.NoError(t, err)
	l := newLimiter(t, "1/1m")
	adm, err := l.Admit(t.Context(), c)
	require.NoError(t, err)
	assert.Empty(t, adm.Header)
	assert.False(t, admit(t, l, c))
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	l, c := newLimiter(t, "5/1h"), from(t, "192.0.2.1")
	good := l.state.Latest().Config
	require.Equal(t, 5, admitted(t, l, c, 10))

	for name, change := range map[string]func(*Config){
		"zero":       func(c *Config) { *c = Config{} },
		"limit":      func(c *Config) { c.Limit.Requests = -1 },
		"name":       func(c *Config) { c.Name = "other" },
		"key":        func(c *Config) { c.Key = ByConsumer() },
		"route":      func(c *Config) { c.Key = c.Key.PerRoute() },
		"table size": func(c *Config) { c.MaxKeys = 1 },
	} {
		cfg := good
		cfg.Limit.Requests = 1000
		change(&cfg)
		require.Error(t, l.Update(cfg), name)
		require.False(t, admit(t, l, c), "%s: the old configuration stays", name)
	}

	cfg := good
	cfg.Limit.Requests, cfg.DisableFields, cfg.MaxKeys = 8, true, 0
	require.NoError(t, l.Update(cfg))
	assert.Equal(t, 3, admitted(t, l, c, 10), "what was used counts")
	cfg.Limit = Limit{Requests: 1, Per: time.Hour, Burst: 4}
	require.NoError(t, l.Update(cfg))
	assert.False(t, admit(t, l, c))
	assert.Equal(t, 4, admitted(t, l, from(t, "192.0.2.2"), 10))
	cfg.MaxKeys = minKeys
	require.NoError(t, l.Update(cfg))
	assert.False(t, admit(t, l, c), "the same limit is not a fresh start")
	cfg.Key = ByClient(48)
	require.NoError(t, l.Update(cfg), "the same kind of key")
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	for _, limit := range []string{"1000/1h", "1/744h,burst=1000"} {
		l := newLimiter(t, limit)
		cfg := l.state.Latest().Config
		c := from(t, "192.0.2.1")
		var ok atomic.Int64
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				for i := range 200 {
					if i%50 == 0 {
						cfg := cfg
						cfg.DisableFields = i%100 == 0
						assert.NoError(t, l.Update(cfg))
					}
					if _, err := l.Admit(t.Context(), c); err == nil {
						ok.Add(1)
					}
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1000, ok.Load(), limit)
	}
}

// TestConcurrentUpdates changes the algorithm while calls come.
func TestConcurrentUpdates(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, "100/1h", func(c *Config) { c.MaxKeys = minKeys })
	cfg := l.state.Latest().Config
	var ok atomic.Int64
	var wg sync.WaitGroup
	mine := from(t, "192.0.2.1")
	others := make([]*gatemesh.Call, 16)
	for i := range others {
		others[i] = from(t, "198.51.100."+string(rune('0'+i%10)))
	}
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				if g == 0 && i%10 == 0 {
					cfg.Limit.Burst = 100 - cfg.Limit.Burst
					assert.NoError(t, l.Update(cfg))
				}
				if _, err := l.Admit(t.Context(), mine); err == nil {
					ok.Add(1)
				}
				_, _, _ = l.AdmitCached(t.Context(), others[(g+i)%len(others)])
			}
		})
	}
	wg.Wait()
	assert.LessOrEqual(t, ok.Load(), int64(101), "100 and what a bucket refills meanwhile")
}

type events struct {
	mu  sync.Mutex
	got []gatemesh.Event
}

func (o *events) Observe(_ context.Context, e gatemesh.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.got = append(o.got, e)
}

func TestFullTableIsReportedOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := &events{}
		n := 0
		l := newLimiter(t, "10/1h", func(c *Config) {
			c.MaxKeys, c.Observer = minKeys, o
			c.Key = ByFunc(func(*gatemesh.Call) (string, error) { n++; return string(numbered(n)), nil })
		})
		c := from(t, "192.0.2.1")
		for range 3 {
			require.Equal(t, 5*minKeys, admitted(t, l, c, 5*minKeys))
		}
		require.Len(t, o.got, 1)
		assert.Equal(t, gatemesh.EventFault, o.got[0].Kind)
		assert.Equal(t, "ratelimit client", o.got[0].Layer)
		assert.Contains(t, o.got[0].Message, "full")
		time.Sleep(time.Minute)
		admitted(t, l, c, 100)
		assert.Len(t, o.got, 2)
	})
}

func TestAllocs(t *testing.T) { // not parallel: it counts allocations
	principal := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Issuer: "https://idp.example", Subject: "248289761001", Consumer: "shop"})
	c, err := gatemesh.NewCall(gatemesh.CallInfo{
		Client: from(t, "2001:db8::1").Client(), Principal: principal, Route: &gatemesh.Route{Name: "shop/orders/0"},
	})
	require.NoError(t, err)
	byHost := ByFunc(func(c *gatemesh.Call) (string, error) { return c.Host(), nil })
	for _, k := range []Key{ByClient(0), ByConsumer(), ByConsumer().PerRoute(), byHost} {
		for _, limit := range []string{"1000000000/1h", "1000000000/1h,burst=1000000", "1/1m", "1/1m,burst=1"} {
			want := 2.0
			if strings.HasPrefix(limit, "1/") {
				want = 0 // refusals are made in advance
			}
			l := newLimiter(t, limit, func(c *Config) { c.Key = k })
			l.Admit(t.Context(), c)
			ctx := t.Context()
			assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { l.Admit(ctx, c) }), want, "%s with fields", limit)
			l = newLimiter(t, limit, func(c *Config) { c.Key, c.DisableFields = k, true })
			l.Admit(t.Context(), c)
			assert.Zero(t, testing.AllocsPerRun(100, func() { l.Admit(ctx, c) }), "%s without fields", limit)
		}
	}
}
