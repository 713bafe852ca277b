// Package bench measures gatemesh beside what people use instead, in one run:
//
//	go test -bench . -benchmem ./bench/...
package bench

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/ratelimit"
)

const (
	issuer   = "https://auth.example.com/"
	audience = "https://api.example.com"
	tokens   = 64 // different users, in turn
)

// plenty is a limit that is charged on every call and never reached.
var plenty = ratelimit.Limit{Requests: 1_000_000_000, Per: time.Second}

// sink is a ResponseWriter that costs nothing of its own.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(status int)      { s.status = status }

// fixture is the same work for every contestant: RS256 tokens of several
// users, ten policy rules of which the last one allows the call, ten header
// fields as a browser and a proxy send them.
type fixture struct {
	key      *rsa.PrivateKey
	requests []*http.Request
	rules    []policy.Rule
	next     http.Handler
}

func newFixture(tb testing.TB) *fixture {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(tb, err)
	f := &fixture{key: key, next: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })}
	for i := range tokens {
		t := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
			"iss": issuer, "aud": audience, "sub": "user-" + strconv.Itoa(i), "scope": "orders users",
			"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
			"name": strings.Repeat("n", 200), // tokens of about 700 bytes, as identity providers issue
		})
		t.Header["kid"] = "k1"
		token, err := t.SignedString(key)
		require.NoError(tb, err)
		r := httptest.NewRequest(http.MethodGet, "/v1/users/42", nil)
		r.Host = "api.example.com"
		r.Header = http.Header{
			"Authorization": {"Bearer " + token}, "Accept": {"application/json"}, "Accept-Encoding": {"gzip, br"},
			"Accept-Language": {"en"}, "User-Agent": {"bench/1.0"}, "Cookie": {"session=0123456789abcdef"},
			"Cache-Control": {"no-cache"}, "Pragma": {"no-cache"}, "Referer": {"https://www.example.com/"}, "Dnt": {"1"},
		}
		f.requests = append(f.requests, r)
	}
	for i := range 10 {
		f.rules = append(f.rules, policy.Rule{
			From: []policy.Source{{RequestPrincipals: []string{issuer + "/*"}}},
			To:   []policy.Operation{{Methods: []string{"GET"}, Paths: []string{fmt.Sprintf("/v%d/users/*", 10-i)}}},
		})
	}
	return f
}

// gatemesh is Entry, cached JWT, consumer limit and policy.
func (f *fixture) gatemesh(tb testing.TB, fields bool) http.Handler {
	keys, err := auth.StaticKeys(auth.StaticKey{ID: "k1", Key: &f.key.PublicKey})
	require.NoError(tb, err)
	who, err := auth.New(auth.Config{Issuers: []auth.Issuer{{
		Issuer: issuer, Audience: []string{audience}, Algorithms: []string{"RS256"}, Keys: keys,
	}}})
	require.NoError(tb, err)
	limit, err := ratelimit.New(ratelimit.Config{
		Name: "consumer", Key: ratelimit.ByConsumer(), Limit: plenty, DisableFields: !fields,
	})
	require.NoError(tb, err)
	rules, err := policy.New(policy.Config{
		Workload:   gatemesh.Workload{Name: "bench", TrustDomain: "cluster.local", Namespace: "bench", ServiceAccount: "bench"},
		Policies:   []policy.Policy{{Name: "ten", Namespace: "bench", Rules: f.rules}},
		Unselected: policy.Deny,
	})
	require.NoError(tb, err)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
	require.NoError(tb, err)
	chain, err := gatemesh.NewChain(entry, who.Layer(), limit.Layer(), rules.Layer())
	require.NoError(tb, err)
	return chain.Handler(f.next)
}

// naive is what one writes in an afternoon: golang-jwt on every request, a map
// of x/time/rate limiters behind a mutex, and the same ten rules in a loop.
func (f *fixture) naive() http.Handler {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuer(issuer),
		jwt.WithAudience(audience), jwt.WithExpirationRequired())
	var mu sync.Mutex
	limiters := map[string]*rate.Limiter{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims := jwt.MapClaims{}
		raw, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		if _, err := parser.ParseWithClaims(raw, claims, func(*jwt.Token) (any, error) { return &f.key.PublicKey, nil }); err != nil {
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		sub, _ := claims.GetSubject()
		mu.Lock()
		l := limiters[sub]
		if l == nil {
			l = rate.NewLimiter(1<<30, 1<<30)
			limiters[sub] = l
		}
		mu.Unlock()
		if !l.Allow() {
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
		for _, rule := range f.rules {
			if strings.HasPrefix(issuer+"/"+sub, strings.TrimSuffix(rule.From[0].RequestPrincipals[0], "*")) &&
				r.Method == rule.To[0].Methods[0] && strings.HasPrefix(r.URL.Path, strings.TrimSuffix(rule.To[0].Paths[0], "*")) {
				ctx := context.WithValue(r.Context(), subjectKey{}, sub)
				f.next.ServeHTTP(w, r.WithContext(ctx))
				return
			}
		}
		http.Error(w, "forbidden", http.StatusForbidden)
	})
}

type subjectKey struct{}

// contestants are the stacks by name.
func (f *fixture) contestants(tb testing.TB) []struct {
	name    string
	handler http.Handler
} {
	return []struct {
		name    string
		handler http.Handler
	}{
		{"bare", f.next},
		{"gatemesh", f.gatemesh(tb, false)},
		{"gatemesh-fields", f.gatemesh(tb, true)},
		{"naive", f.naive()},
	}
}

// BenchmarkChain bounds what admission costs a request: bare is the handler
// alone, gatemesh-fields adds the RateLimit fields of the response.
func BenchmarkChain(b *testing.B) {
	f := newFixture(b)
	for _, c := range f.contestants(b) {
		b.Run(c.name, func(b *testing.B) {
			w := &sink{header: http.Header{}}
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				c.handler.ServeHTTP(w, f.requests[i%tokens])
				i++
			}
			require.Equal(b, http.StatusNoContent, w.status)
		})
	}
}

// BenchmarkChainParallel shows that no lock is shared by all cores.
func BenchmarkChainParallel(b *testing.B) {
	f := newFixture(b)
	for _, c := range f.contestants(b) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				w := &sink{header: http.Header{}}
				for i := 0; pb.Next(); i++ {
					clear(w.header)
					c.handler.ServeHTTP(w, f.requests[i%tokens])
				}
				if w.status != 0 && w.status != http.StatusNoContent {
					b.Errorf("status %d", w.status)
				}
			})
		})
	}
}

// TestChainAllocations holds the promise of the documentation: at most 4
// allocations for an admitted call, at most 8 with RateLimit fields.
func TestChainAllocations(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		name   string
		fields bool
		most   float64
	}{{"plain", false, 4}, {"fields", true, 8}} {
		t.Run(c.name, func(t *testing.T) {
			h := f.gatemesh(t, c.fields)
			w := &sink{header: http.Header{}}
			for _, r := range f.requests { // every token is seen once
				h.ServeHTTP(w, r)
			}
			i := 0
			got := testing.AllocsPerRun(1000, func() {
				clear(w.header)
				h.ServeHTTP(w, f.requests[i%tokens])
				i++
			})
			require.Equal(t, http.StatusNoContent, w.status)
			require.LessOrEqual(t, got, c.most)
		})
	}
}

// TestContestantsAgree sees to it that no stack wins by not doing its work.
func TestContestantsAgree(t *testing.T) {
	f := newFixture(t)
	forged := f.requests[0].Clone(t.Context())
	forged.Header.Set("Authorization", forged.Header.Get("Authorization")+"AAAA")
	elsewhere := f.requests[0].Clone(t.Context())
	elsewhere.URL.Path = "/v77/users/42"
	for _, c := range f.contestants(t)[1:] {
		for _, want := range []struct {
			r      *http.Request
			status int
		}{{f.requests[1], 204}, {forged, 401}, {elsewhere, 403}} {
			w := httptest.NewRecorder()
			c.handler.ServeHTTP(w, want.r)
			require.Equal(t, want.status, w.Code, c.name)
		}
	}
}
