package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
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

// server is a TokenVerifier without a network: an authorization server.
type server struct {
	answer atomic.Pointer[VerifierFunc]
	calls  atomic.Int64
	now    atomic.Int64 // calls under way
	most   atomic.Int64
}

func newServer(f VerifierFunc) *server {
	s := &server{}
	s.set(f)
	return s
}

func (s *server) set(f VerifierFunc) { s.answer.Store(&f) }

func (s *server) VerifyToken(ctx context.Context, token string) (map[string]any, error) {
	s.calls.Add(1)
	s.most.Store(max(s.most.Load(), s.now.Add(1)))
	defer s.now.Add(-1)
	return (*s.answer.Load())(ctx, token)
}

// active says that every token is good for another d.
func active(d time.Duration, change m) VerifierFunc {
	return func(_ context.Context, token string) (map[string]any, error) {
		return decoded(payload(time.Now(), m{"exp": time.Now().Add(d).Unix(), "sub": "user of " + token}), change), nil
	}
}

// decoded makes decoded JSON of claims with changes.
func decoded(claims, change m) m {
	for k, v := range change {
		claims[k] = v
	}
	out, err := decodeObject(gatemesh.Must(json.Marshal(claims)), nil)
	return gatemesh.Must(out, err)
}

func down(context.Context, string) (map[string]any, error) { return nil, errors.New("down") }

func hole(ctx context.Context, _ string) (map[string]any, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// fieldOf returns a header field of a refusal, or "".
func fieldOf(d *gatemesh.Denial, name string) string {
	for _, f := range d.Header {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

func newOpaqueAuth(t testing.TB, v TokenVerifier, f ...func(*Config)) *Authenticator {
	t.Helper()
	cfg := Config{Opaque: &Opaque{Verifier: v, Issuer: testIssuer, Audience: []string{testAudience}}}
	for _, f := range f {
		f(&cfg)
	}
	a, err := New(cfg)
	require.NoError(t, err)
	return a
}

// TestOpaqueCacheLife: with the authorization server down, a token that was good
// is so for five minutes, or until it ends.
func TestOpaqueCacheLife(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		lifetime, good, bad time.Duration
	}{
		{15 * time.Minute, 4*time.Minute + 59*time.Second, 5*time.Minute + time.Second},
		{2 * time.Minute, 2*time.Minute - time.Second, 2 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(active(test.lifetime, nil))
			a := newOpaqueAuth(t, s)
			require.Equal(t, "ok", tokenReason(t, a, "warm"))
			s.set(down)
			time.Sleep(test.good)
			assert.Equal(t, "ok", tokenReason(t, a, "warm"))
			assert.EqualValues(t, 1, s.calls.Load())
			time.Sleep(test.bad - test.good)
			assert.Equal(t, "token_unverifiable", tokenReason(t, a, "warm"))
			assert.EqualValues(t, 2, s.calls.Load())
		})
	}
}

// TestBR02_OpaqueOutage: while the server is away, what is remembered passes and
// the rest is refused, at once when the breaker is open; when it is back, so are
// they.
func TestBR02_OpaqueOutage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		outage VerifierFunc
		back   time.Duration // delay + 1 s, or what Retry-After got
	}{
		"killed":     {down, 6 * time.Second},
		"black hole": {hole, 6 * time.Second},
		"panics":     {func(context.Context, string) (map[string]any, error) { panic("oh") }, 6 * time.Second},
		"Retry-After": {func(context.Context, string) (map[string]any, error) {
			return nil, &statusError{503, 999999999 * time.Second}
		}, 61 * time.Second},
	} {
		for status, code := range map[int]gatemesh.Code{0: gatemesh.Unauthenticated, 503: gatemesh.Unavailable} {
			t.Run(fmt.Sprint(name, status), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := newServer(active(time.Hour, nil))
					a := newOpaqueAuth(t, s, func(c *Config) { c.UnavailableStatus = status })
					require.Equal(t, "ok", tokenReason(t, a, "warm"))
					s.set(test.outage)
					var wg sync.WaitGroup
					for i := range 50 {
						wg.Go(func() {
							began := time.Now()
							_, err := a.Admit(t.Context(), bearerCall(t, fmt.Sprint("cold", i)))
							var d *gatemesh.Denial
							assert.ErrorAs(t, err, &d)
							assert.Equal(t, "token_unverifiable", d.Reason)
							assert.Equal(t, code, d.Code)
							assert.Equal(t, code == gatemesh.Unauthenticated, fieldOf(d, "WWW-Authenticate") == "Bearer")
							assert.Equal(t, code == gatemesh.Unavailable, fieldOf(d, "Retry-After") != "")
							assert.LessOrEqual(t, time.Since(began), 2*time.Second)
						})
					}
					wg.Wait()
					require.Equal(t, breaker.Open, a.state.Latest().opaque.breaker.State())
					calls := s.calls.Load()
					began := time.Now()
					for i := range 1000 {
						assert.Equal(t, "token_unverifiable", tokenReason(t, a, fmt.Sprint("colder", i)))
						assert.Equal(t, "ok", tokenReason(t, a, "warm"))
					}
					assert.Zero(t, time.Since(began), "at once")
					assert.Equal(t, calls, s.calls.Load(), "nobody is asked")
					s.set(active(time.Hour, nil))
					time.Sleep(test.back)
					assert.Equal(t, "ok", tokenReason(t, a, "cold1"), "not remembered as bad")
					assert.Equal(t, "ok", tokenReason(t, a, "cold2"))
					synctest.Wait()
					assert.Zero(t, s.now.Load())
				})
			})
		}
	}
}

// TestBR01_OpaqueNeutral: bad tokens, callers that leave and a server that does
// not accept our own credentials open no breaker.
func TestBR01_OpaqueNeutral(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer  VerifierFunc
		cancels bool
		want    string
	}{
		"inactive": {func(context.Context, string) (map[string]any, error) { return nil, ErrInactive }, false, "token_inactive"},
		"forbidden": {func(context.Context, string) (map[string]any, error) {
			return nil, gatemesh.Deny(gatemesh.PermissionDenied, "no", "No.")
		}, false, "no"},
		"our secret is wrong":    {func(context.Context, string) (map[string]any, error) { return nil, &statusError{401, 0} }, false, "token_unverifiable"},
		"a token that upsets it": {func(context.Context, string) (map[string]any, error) { return nil, &statusError{500, 0} }, false, "token_unverifiable"},
		"cancelled": {func(context.Context, string) (map[string]any, error) {
			time.Sleep(time.Second)
			return nil, ErrInactive
		}, true, "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newServer(test.answer)
				a := newOpaqueAuth(t, s)
				for i := range 100 {
					ctx, cancel := context.WithCancel(t.Context())
					if test.cancels {
						time.AfterFunc(time.Millisecond, cancel)
					}
					_, err := a.Admit(ctx, bearerCall(t, fmt.Sprint(i)))
					assert.Equal(t, test.want, gatemesh.AsDenial(ctx, err).Reason)
					cancel()
				}
				time.Sleep(time.Second)
				assert.EqualValues(t, 100, s.calls.Load())
				assert.Equal(t, breaker.Closed, a.state.Latest().opaque.breaker.State())
			})
		})
	}
}

// TestOpaqueOneFlight: calls with the same token share one verification, and
// each waits as long as it likes.
func TestOpaqueOneFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(func(ctx context.Context, token string) (map[string]any, error) {
			time.Sleep(time.Second)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return active(time.Hour, nil)(ctx, token)
		})
		a := newOpaqueAuth(t, s)
		first, leave := context.WithCancel(t.Context())
		hasty, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		results := make(chan string, 102)
		ask := func(ctx context.Context) {
			_, err := a.Admit(ctx, bearerCall(t, "token"))
			if err != nil {
				results <- gatemesh.AsDenial(ctx, err).Reason
				return
			}
			results <- "ok"
		}
		go ask(first)
		synctest.Wait()
		go ask(hasty)
		for range 100 {
			go ask(t.Context())
		}
		synctest.Wait()
		leave()
		assert.Equal(t, "canceled", <-results, "who began it may leave")
		assert.Equal(t, "deadline", strings.TrimSuffix(<-results, "_exceeded"))
		for range 100 {
			assert.Equal(t, "ok", <-results)
		}
		assert.EqualValues(t, 1, s.calls.Load())
		synctest.Wait()
		assert.Empty(t, a.state.Latest().flights.under)
	})
}

// TestOpaqueBounds: no more calls at a time than MaxConcurrent, and nobody waits
// for a place longer than Timeout. Whoever gives up waiting takes none along.
func TestOpaqueBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(func(ctx context.Context, token string) (map[string]any, error) {
			time.Sleep(1500 * time.Millisecond)
			return active(time.Hour, nil)(ctx, token)
		})
		a := newOpaqueAuth(t, s, func(c *Config) { c.Opaque.MaxConcurrent = 10 })
		var ok, refused atomic.Int64
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				ctx, cancel := t.Context(), func() {}
				if i >= 500 { // waits for the same tokens, and leaves
					ctx, cancel = context.WithTimeout(ctx, time.Duration(i)*time.Millisecond)
				}
				defer cancel()
				began := time.Now()
				_, err := a.Admit(ctx, bearerCall(t, fmt.Sprint(i%500)))
				assert.LessOrEqual(t, time.Since(began), 2*time.Second)
				if err == nil {
					ok.Add(1)
				} else {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 10, s.most.Load())
		assert.GreaterOrEqual(t, ok.Load(), int64(10))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Empty(t, a.state.Latest().opaque.places)
		assert.Empty(t, a.state.Latest().flights.under)
		assert.Equal(t, "ok", tokenReason(t, a, "another"))
	})
}

// TestOpaqueLeaderLeaves: when who asks first gives up waiting for a place,
// another one who waits for the same token goes on.
func TestOpaqueLeaderLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(func(ctx context.Context, token string) (map[string]any, error) {
			time.Sleep(800 * time.Millisecond)
			return active(time.Hour, nil)(ctx, token)
		})
		a := newOpaqueAuth(t, s, func(c *Config) { c.Opaque.MaxConcurrent = 1 })
		go tokenReason(t, a, "other") // takes the place
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		go func() { _, _ = a.Admit(ctx, bearerCall(t, "token")) }()
		synctest.Wait()
		assert.Equal(t, "ok", tokenReason(t, a, "token"))
		assert.EqualValues(t, 2, s.calls.Load())
	})
}

// TestOpaqueInactive: a token that is not good is not asked about again at once,
// however many there are.
func TestOpaqueInactive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(func(context.Context, string) (map[string]any, error) { return nil, ErrInactive })
		a := newOpaqueAuth(t, s)
		for range 10 {
			assert.Equal(t, "token_inactive", tokenReason(t, a, "bad"))
		}
		assert.EqualValues(t, 1, s.calls.Load())
		s.set(active(time.Hour, nil))
		time.Sleep(5 * time.Second)
		assert.Equal(t, "ok", tokenReason(t, a, "bad"))
		s.set(func(context.Context, string) (map[string]any, error) { return nil, ErrInactive })
		for i := range maxRefused + 1000 {
			tokenReason(t, a, fmt.Sprint("invented", i))
		}
		assert.LessOrEqual(t, len(a.state.Latest().opaque.refused.by), maxRefused)
	})
	s := newServer(func(context.Context, string) (map[string]any, error) { return nil, ErrInactive })
	a := newOpaqueAuth(t, s, func(c *Config) { c.Opaque.InactiveTTL = -1 })
	for range 3 {
		tokenReason(t, a, "bad")
	}
	assert.EqualValues(t, 3, s.calls.Load())
}

// TestOpaqueClaims: what is said of a token is judged like the claims of a JWT.
func TestOpaqueClaims(t *testing.T) {
	t.Parallel()
	ago, later := time.Now().Add(-time.Minute).Unix(), time.Now().Add(time.Minute).Unix()
	for _, test := range []struct {
		name   string
		change m
		config func(*Opaque)
		want   string
	}{
		{"good", m{}, nil, "ok"},
		{"no issuer", m{"iss": nil}, nil, "token_issuer"},
		{"another issuer", m{"iss": testIssuer + "/"}, nil, "token_issuer"},
		{"an issuer that is none", m{"iss": 1}, nil, "token_issuer"},
		{"for others", m{"aud": "others"}, nil, "token_audience"},
		{"for us and others", m{"aud": []string{"others", testAudience}}, nil, "ok"},
		{"for nobody", m{"aud": []string{}}, nil, "token_audience"},
		{"for anybody", m{"aud": "others"}, func(o *Opaque) { o.Audience, o.InsecureAnyAudience = nil, true }, "ok"},
		{"another claim", m{"client_id": "app"}, func(o *Opaque) { o.Audience, o.AudienceClaim = []string{"app"}, "client_id" }, "ok"},
		{"expired", m{"exp": ago}, nil, "token_expired"},
		{"expired, tolerated", m{"exp": ago}, func(o *Opaque) { o.Leeway = 2 * time.Minute }, "ok"},
		{"expiry of a wrong type", m{"exp": "1999999999"}, nil, "token_malformed"},
		{"not yet", m{"nbf": later}, nil, "token_not_yet_valid"},
		{"scopes", m{"scope": "read write"}, func(o *Opaque) { o.RequiredScopes = []string{"read"} }, "ok"},
		{"a scope is missing", m{"scope": "reader"}, func(o *Opaque) { o.RequiredScopes = []string{"read"} }, "scope_missing"},
		{"subject of a wrong type", m{"sub": 7}, nil, "token_malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := newOpaqueAuth(t, newServer(active(time.Hour, test.change)), func(c *Config) {
				if test.config != nil {
					test.config(c.Opaque)
				}
			})
			assert.Equal(t, test.want, tokenReason(t, a, "token"))
		})
	}
	noExpiry := func(context.Context, string) (map[string]any, error) {
		return m{"sub": "u", "aud": testAudience}, nil // iss and exp are optional
	}
	synctest.Test(t, func(t *testing.T) {
		assert.Equal(t, "token_malformed", tokenReason(t, newOpaqueAuth(t, newServer(noExpiry)), "token"), "without an end")
		s := newServer(noExpiry)
		a := newOpaqueAuth(t, s, func(c *Config) { c.Opaque.Lifetime = time.Minute })
		adm, err := a.Admit(t.Context(), bearerCall(t, "token"))
		require.NoError(t, err)
		assert.Equal(t, time.Now().Add(time.Minute), adm.Until)
		s.set(down)
		time.Sleep(time.Minute)
		assert.Equal(t, "token_unverifiable", tokenReason(t, a, "token"))
	})
	own := newServer(func(context.Context, string) (map[string]any, error) {
		return m{"sub": "u", "aud": testAudience, "exp": float64(later)}, nil // not from JSON
	})
	adm, err := newOpaqueAuth(t, own).Admit(t.Context(), bearerCall(t, "token"))
	require.NoError(t, err)
	assert.Equal(t, "u", adm.Principal.Subject())
	assert.Equal(t, testIssuer, adm.Principal.Issuer())
	assert.Equal(t, "function", adm.Principal.Method())
	assert.Equal(t, []string{"Authorization"}, adm.Consumed)
}

// TestOpaqueAndIssuers: a JWT that names an Issuer is judged by its keys alone;
// the others go where opaque tokens go.
func TestOpaqueAndIssuers(t *testing.T) {
	t.Parallel()
	s := newServer(active(time.Hour, m{"iss": "https://opaque.example"}))
	a := newOpaqueAuth(t, s, func(c *Config) {
		c.Issuers = []Issuer{edIssuer(t)}
		c.Opaque.Issuer = "https://opaque.example"
	})
	now := time.Now()
	assert.Equal(t, "ok", tokenReason(t, a, edToken(t, payload(now, nil))))
	forged := sign(t, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": "ed"}, payload(now, nil))
	assert.Equal(t, "token_signature", tokenReason(t, a, forged))
	assert.Equal(t, "token_expired", tokenReason(t, a, edToken(t, payload(now, m{"exp": now.Add(-time.Hour).Unix()}))))
	assert.Zero(t, s.calls.Load())
	foreign := sign(t, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": "ed"}, payload(now, m{"iss": "https://foreign.example"}))
	for i, token := range []string{foreign, "a.b", "opaque", "a.b.c", "AbC-._~+/=="} {
		assert.Equal(t, "ok", tokenReason(t, a, token), token)
		assert.EqualValues(t, i+1, s.calls.Load())
	}
	for _, token := range []string{"", "=", "a b", "a\"b", "a,b", "ä", "a=b", "a\x00"} {
		c := bearerCall(t, token)
		assert.Equal(t, "token_malformed", reason(t, a, c), "%q", token)
		_, ok, err := a.AdmitCached(t.Context(), c)
		assert.False(t, ok)
		assert.Error(t, err, "%q", token)
	}
	assert.EqualValues(t, 5, s.calls.Load())
	_, ok, err := a.AdmitCached(t.Context(), bearerCall(t, "unseen"))
	assert.False(t, ok)
	assert.NoError(t, err)
	_, ok, err = a.AdmitCached(t.Context(), bearerCall(t, "opaque"))
	assert.True(t, ok)
	assert.NoError(t, err)
	assert.EqualValues(t, 5, s.calls.Load(), "who cannot wait asks nobody")
}

// TestOpaqueUpdate: what was remembered holds as long as the same would be said.
func TestOpaqueUpdate(t *testing.T) {
	t.Parallel()
	s := newServer(active(time.Hour, nil))
	cfg := func(f ...func(*Opaque)) Config {
		o := &Opaque{Verifier: s, Issuer: testIssuer, Audience: []string{testAudience}}
		for _, f := range f {
			f(o)
		}
		return Config{Opaque: o, Issuers: []Issuer{edIssuer(t, func(is *Issuer) { is.Issuer = "https://jwt.example" })}}
	}
	a := gatemesh.Must(New(cfg()))
	require.Equal(t, "ok", tokenReason(t, a, "token"))
	require.NoError(t, a.Update(cfg()))
	require.Equal(t, "ok", tokenReason(t, a, "token"))
	require.EqualValues(t, 1, s.calls.Load())
	for i, change := range []func(*Opaque){
		func(o *Opaque) { o.Audience = append(o.Audience, "more") },
		func(o *Opaque) { o.Leeway = time.Second },
		func(o *Opaque) { o.Breaker.Failures = 1 },
		func(o *Opaque) { o.Lifetime = time.Second },
		func(o *Opaque) { o.Verifier = VerifierFunc(s.VerifyToken) },
		func(o *Opaque) { o.Audience = []string{"another"} },
	} {
		require.NoError(t, a.Update(cfg(change)))
		want := "ok"
		if i == 5 {
			want = "token_audience"
		}
		require.Equal(t, want, tokenReason(t, a, "token"))
		require.EqualValues(t, i+2, s.calls.Load())
	}
	without := cfg()
	without.Opaque = nil
	require.NoError(t, a.Update(without))
	assert.Equal(t, "token_malformed", tokenReason(t, a, "token"))
}

// What was said by an Opaque holds only if nothing about it has changed.
func TestOpaqueSame(t *testing.T) {
	t.Parallel()
	cfg := Opaque{Verifier: newServer(down), Issuer: testIssuer, Audience: []string{testAudience}}.withDefaults()
	made := func(o Opaque, realm string) *opaque {
		m, err := newOpaque(&o, realm)
		require.NoError(t, err)
		return m
	}
	assert.True(t, made(cfg, "").same(&cfg, ""))
	assert.False(t, made(cfg, "").same(&cfg, "realm"))
	changes := []func(*Opaque){
		func(o *Opaque) { o.Verifier = newServer(down) },
		func(o *Opaque) { o.Issuer = "x" },
		func(o *Opaque) { o.Audience = []string{"x"} },
		func(o *Opaque) { o.AudienceClaim = "x" },
		func(o *Opaque) { o.InsecureAnyAudience = true },
		func(o *Opaque) { o.RequiredScopes = []string{"x"} },
		func(o *Opaque) { o.Leeway = 1 },
		func(o *Opaque) { o.Lifetime = 1 },
		func(o *Opaque) { o.Timeout = 1 },
		func(o *Opaque) { o.MaxConcurrent = 1 },
		func(o *Opaque) { o.InactiveTTL = 1 },
		func(o *Opaque) { o.Breaker.Delay = time.Second },
		func(o *Opaque) { o.Observer = &watcher{} },
	}
	assert.Equal(t, reflect.TypeFor[Opaque]().NumField(), len(changes), "a field is not compared")
	for i, change := range changes {
		other := cfg
		change(&other)
		assert.False(t, made(cfg, "").same(&other, ""), i)
	}
}

// TestOpaqueGetsAnIssuer: what was accepted of a JWT by asking does not hold when
// its issuer is one that is judged by keys.
func TestOpaqueGetsAnIssuer(t *testing.T) {
	t.Parallel()
	s := newServer(func(context.Context, string) (map[string]any, error) {
		return m{"sub": "u", "aud": testAudience, "exp": float64(time.Now().Add(time.Hour).Unix())}, nil
	})
	cfg := Config{Opaque: &Opaque{Verifier: s, Issuer: "https://opaque.example", Audience: []string{testAudience}}}
	a, err := New(cfg)
	require.NoError(t, err)
	forged := sign(t, "EdDSA", otherEd(), m{"alg": "EdDSA", "kid": "ed"}, payload(time.Now(), nil))
	require.Equal(t, "ok", tokenReason(t, a, forged))
	cfg.Issuers = []Issuer{edIssuer(t)}
	require.NoError(t, a.Update(cfg))
	assert.Equal(t, "token_signature", tokenReason(t, a, forged))
}

// TestOpaqueRemembersRefusals: a token that is active and not for us is not asked
// about for every call.
func TestOpaqueRemembersRefusals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		later := time.Now().Add(time.Second).Unix()
		for want, test := range map[string]struct {
			change m
			calls  int64
		}{
			"token_audience": {m{"aud": "others"}, 1}, "token_issuer": {m{"iss": "x"}, 1}, "scope_missing": {m{"scope": ""}, 1},
			"token_malformed": {m{"exp": "x"}, 1}, "token_not_yet_valid": {m{"nbf": later}, 10},
		} {
			s := newServer(active(time.Hour, test.change))
			a := newOpaqueAuth(t, s, func(c *Config) { c.Opaque.RequiredScopes = []string{"read"} })
			if want != "scope_missing" {
				a = newOpaqueAuth(t, s)
			}
			for range 10 {
				assert.Equal(t, want, tokenReason(t, a, "token"))
			}
			assert.Equal(t, test.calls, s.calls.Load(), want)
		}
	})
}

// TestTokensForEver: an expiry past the end of nanoseconds, in 2262, is one.
func TestTokensForEver(t *testing.T) {
	t.Parallel()
	for _, exp := range []int64{9_000_000_000, 9_999_999_999, 253402300799} {
		s := newServer(func(context.Context, string) (map[string]any, error) {
			return m{"sub": "u", "aud": testAudience, "exp": float64(exp)}, nil
		})
		a := newOpaqueAuth(t, s, func(c *Config) {
			c.Issuers = []Issuer{edIssuer(t)}
			c.Opaque.Issuer = "https://opaque.example"
		})
		jwt := edToken(t, payload(time.Now(), m{"exp": exp}))
		for range 10 {
			assert.Equal(t, "ok", tokenReason(t, a, "token"))
			assert.Equal(t, "ok", tokenReason(t, a, jwt))
		}
		assert.EqualValues(t, 1, s.calls.Load(), exp)
		assert.NotNil(t, a.state.Latest().cache.get(jwt))
	}
}

// TestOpaqueProbes: whoever has a token that the server answers with a failure
// does not keep the breaker from closing.
func TestOpaqueProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(down)
		a := newOpaqueAuth(t, s)
		for i := range 5 {
			tokenReason(t, a, fmt.Sprint(i))
		}
		require.Equal(t, breaker.Open, a.state.Latest().opaque.breaker.State())
		s.set(func(ctx context.Context, token string) (map[string]any, error) {
			if token == "bad" {
				return nil, &statusError{500, 0}
			}
			return active(time.Hour, nil)(ctx, token)
		})
		time.Sleep(5 * time.Second)
		assert.Equal(t, "token_unverifiable", tokenReason(t, a, "bad"), "the probe")
		assert.Equal(t, breaker.Closed, a.state.Latest().opaque.breaker.State(), "it was answered")
		assert.Equal(t, "ok", tokenReason(t, a, "alice"))
	})
}

func TestOpaqueFaults(t *testing.T) {
	t.Parallel()
	faults := func(o Opaque) string {
		_, err := New(Config{Opaque: &o})
		require.Error(t, err)
		return err.Error()
	}
	all := faults(Opaque{Leeway: -1, Lifetime: -1, Timeout: -1, MaxConcurrent: -1, InactiveTTL: time.Hour, RequiredScopes: []string{}, Breaker: breaker.Policy{Failures: -1}})
	for _, field := range []string{"Verifier", "Issuer", "Audience", "Leeway", "Lifetime", "Timeout", "MaxConcurrent", "InactiveTTL", "RequiredScopes", "Breaker"} {
		assert.Contains(t, all, "Config.Opaque."+field)
	}
	assert.Contains(t, faults(Opaque{Verifier: (*Introspection)(nil)}), "Verifier is required")
	assert.Contains(t, faults(Opaque{Verifier: VerifierFunc(nil)}), "Verifier is required")
	assert.Contains(t, faults(Opaque{Audience: []string{"a"}, InsecureAnyAudience: true}), "InsecureAnyAudience contradicts Audience")
	assert.Contains(t, faults(Opaque{Audience: []string{""}}), "empty string")
	_, err := New(Config{Issuers: []Issuer{edIssuer(t)}, UnavailableStatus: 500, Opaque: &Opaque{Issuer: testIssuer}})
	assert.ErrorContains(t, err, "is one of Issuers, too")
	assert.ErrorContains(t, err, "Config.UnavailableStatus 500 is neither 401 nor 503")
}

// TestUnavailableStatus: keys that cannot be had are 503, if so configured, and
// key ids that nobody has are not.
func TestUnavailableStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{}
		e.set(refused)
		j := newJWKS(t, e)
		a, err := New(Config{Issuers: []Issuer{edIssuer(t, func(is *Issuer) { is.Keys = j })}, UnavailableStatus: http.StatusServiceUnavailable})
		require.NoError(t, err)
		_, err = a.Admit(t.Context(), bearerCall(t, edToken(t, payload(time.Now(), nil))))
		d := gatemesh.AsDenial(t.Context(), err)
		assert.Equal(t, gatemesh.Unavailable, d.Code)
		assert.Equal(t, "1", fieldOf(d, "Retry-After"))
		e.serve(edDoc())
		time.Sleep(time.Minute)
		assert.Equal(t, "ok", tokenReason(t, a, edToken(t, payload(time.Now(), nil))))
		_, err = a.Admit(t.Context(), bearerCall(t, kidToken(t, "nobody's")))
		assert.Equal(t, gatemesh.Unauthenticated, gatemesh.AsDenial(t.Context(), err).Code)
	})
}

// TestIntrospection speaks to a real server.
func TestIntrospection(t *testing.T) {
	t.Parallel()
	good := string(gatemesh.Must(json.Marshal(payload(time.Now(), m{"active": true, "token_type": "Bearer"}))))
	with := func(change m) string { return string(gatemesh.Must(json.Marshal(payload(time.Now(), change)))) }
	var answer atomic.Pointer[http.HandlerFunc]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*answer.Load())(w, r) }))
	defer srv.Close()
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	says := func(status int, body string, fields ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			assert.Equal(t, http.MethodPost, r.Method)
			assert.Equal(t, "application/x-www-form-urlencoded", r.Header.Get("Content-Type"))
			assert.NoError(t, r.ParseForm())
			assert.Equal(t, url.Values{"token": {"to+ken/="}, "token_type_hint": {"access_token"}}, r.PostForm)
			id, secret, ok := r.BasicAuth()
			assert.True(t, ok)
			assert.Equal(t, []string{"gate+way", "s%3Acret"}, []string{id, secret}, "escaped (RFC 6749 §2.3.1)")
			for i := 0; i < len(fields); i += 2 {
				w.Header().Set(fields[i], fields[i+1])
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	in, err := NewIntrospection(IntrospectionConfig{URL: srv.URL + "/introspect?x=secret", ClientID: "gate way", ClientSecret: "s:cret", MaxBody: 4096})
	require.NoError(t, err)
	defer func() { require.NoError(t, in.Close()) }()
	assert.Equal(t, "token introspection at "+srv.URL+"/introspect", fmt.Sprintf("%+v", in))
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"active", says(200, good), "ok"},
		{"not active", says(200, `{"active":false}`), "token_inactive"},
		{"not active, the rest is nobody's business", says(200, with(m{"active": false})), "token_inactive"},
		{"no boolean", says(200, with(m{"active": "true"})), "token_unverifiable"},
		{"no member", says(200, with(nil)), "token_unverifiable"},
		{"another case", says(200, `{"Active":true,"active":false}`), "token_unverifiable"},
		{"twice", says(200, `{"active":false,"active":true}`), "token_unverifiable"},
		{"HTML", says(200, "<html>"), "token_unverifiable"},
		{"empty", says(200, ""), "token_unverifiable"},
		{"truncated", says(200, good[:len(good)-1]), "token_unverifiable"},
		{"too long", says(200, good+strings.Repeat(" ", 5000)), "token_unverifiable"},
		{"created", says(201, good), "token_unverifiable"},
		{"our secret is wrong", says(401, good), "token_unverifiable"},
		{"failure", says(500, good), "token_unverifiable"},
		{"redirect", says(307, "", "Location", other.URL), "token_unverifiable"},
		{"needs a proof", says(200, with(m{"active": true, "token_type": "DPoP"})), "token_inactive"},
		{"a refresh token", says(200, with(m{"active": true, "token_use": "refresh_token"})), "token_inactive"},
		{"an access token", says(200, with(m{"active": true, "token_use": "access_token", "token_type": "bearer"})), "ok"},
		{"connection lost", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "token_unverifiable"},
	} {
		answer.Store(&test.answer)
		a := newOpaqueAuth(t, in)
		adm, err := a.Admit(t.Context(), bearerCall(t, "to+ken/="))
		if test.want == "ok" {
			require.NoError(t, err, test.name)
			assert.Equal(t, "alice", adm.Principal.Subject())
			assert.Equal(t, "introspection", adm.Principal.Method())
			assert.Equal(t, "t1", adm.Principal.Credential())
			continue
		}
		d := gatemesh.AsDenial(t.Context(), err)
		assert.Equal(t, test.want, d.Reason, test.name)
		assert.Equal(t, gatemesh.Unauthenticated, d.Code, test.name)
		assert.Equal(t, d.Reason == "token_inactive", strings.Contains(fieldOf(d, "WWW-Authenticate"), "invalid_token"), test.name)
		for _, secret := range []string{"to+ken", "to%2Bken", "x=secret", "cret"} {
			assert.NotContains(t, fmt.Sprint(errors.Unwrap(d)), secret, test.name)
		}
	}
	assert.Zero(t, elsewhere.Load())

	// What the owner of one token can put into its claims opens no breaker.
	deep := http.HandlerFunc(says(200, `{"active":true,"x":`+strings.Repeat("[", 30)+strings.Repeat("]", 30)+`}`))
	answer.Store(&deep)
	a := newOpaqueAuth(t, in, func(c *Config) { c.Opaque.Breaker.Failures = 1 })
	for range 3 {
		assert.Equal(t, "token_unverifiable", tokenReason(t, a, "to+ken/="))
	}
	assert.Equal(t, breaker.Closed, a.state.Latest().opaque.breaker.State())

	post := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.NoError(t, r.ParseForm())
		assert.Equal(t, url.Values{"token": {"t"}, "token_type_hint": {"access_token"}, "client_id": {"c"}, "client_secret": {"s"}}, r.PostForm)
		assert.Empty(t, r.Header.Get("Authorization"))
		fmt.Fprint(w, good)
	})
	answer.Store(&post)
	in2, err := NewIntrospection(IntrospectionConfig{URL: srv.URL, ClientID: "c", ClientSecret: "s", CredentialsInBody: true, Client: srv.Client()})
	require.NoError(t, err)
	assert.Equal(t, "ok", tokenReason(t, newOpaqueAuth(t, in2), "t"))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		assert.NotContains(t, fmt.Sprintf(verb, IntrospectionConfig{URL: "https://idp/x?k=QUERY", ClientID: "c", ClientSecret: "SECRET"}), "SECRET")
		assert.NotContains(t, fmt.Sprintf(verb, []any{IntrospectionConfig{URL: "https://idp/x?k=QUERY"}, JWKSConfig{URL: "https://idp/x?k=QUERY"}}), "QUERY")
	}
	_, err = new(Introspection).VerifyToken(t.Context(), "t")
	assert.Error(t, err)
}

func TestIntrospectionFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cfg  IntrospectionConfig
		want []string
	}{
		{IntrospectionConfig{}, []string{"URL is not an absolute", "ClientID is required"}},
		{IntrospectionConfig{URL: "http://idp.example/i", ClientID: "c", MaxBody: -1}, []string{"InsecureHTTP would allow it", "ClientID and ClientSecret together", "MaxBody"}},
		{IntrospectionConfig{URL: "ftp://x", Client: http.DefaultClient}, []string{"URL is not an absolute"}},
	} {
		_, err := NewIntrospection(test.cfg)
		for _, w := range test.want {
			assert.ErrorContains(t, err, w)
		}
	}
}
