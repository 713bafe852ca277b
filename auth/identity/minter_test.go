package identity_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
)

// segments returns the decoded header and payload of a token.
func segments(tb testing.TB, token string) (header string, claims map[string]any) {
	tb.Helper()
	parts := strings.Split(token, ".")
	require.Len(tb, parts, 3)
	h, err := base64.RawURLEncoding.DecodeString(parts[0])
	require.NoError(tb, err)
	p, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(tb, err)
	require.NoError(tb, json.Unmarshal(p, &claims))
	return string(h), claims
}

func TestMintedToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinter(t, func(c *identity.MinterConfig) { c.Claims = []string{"tenant", "absent"} })
		header, claims := segments(t, mint(t, m, alice(), "v2"))
		now := float64(time.Now().Unix())
		assert.Equal(t, goodHeader, header)
		assert.Equal(t, map[string]any{
			"iss": issuer, "aud": []any{trustDomain}, "iat": now, "exp": now + 60,
			"sub": "alice", "client_id": "shop-app", "scp": []any{"orders:read", "orders:write"},
			"orig_iss": "https://idp.example", "orig_method": "jwt", "lane": "v2",
			"claims": map[string]any{"tenant": "acme"},
		}, claims, "what is not in Claims does not travel")
	})
}

func TestMintedOnlyForOnesOwnParent(t *testing.T) {
	t.Parallel()
	m := newMinter(t, nil)
	_ = mint(t, m, alice(), "") // somebody else's token is in the cache
	anonymous, err := gatemesh.NewCall(gatemesh.CallInfo{})
	require.NoError(t, err)
	received, err := gatemesh.NewCall(gatemesh.CallInfo{Principal: alice()})
	require.NoError(t, err)
	for name, c := range map[string]*gatemesh.Call{
		"no parent":                    anonymous,
		"parent without a principal":   outbound(t, nil, ""),
		"inbound call with its own":    received,
		"a call that nobody filled in": {},
	} {
		adm, err := m.Admit(t.Context(), c)
		require.NoError(t, err, name)
		assert.Equal(t, gatemesh.Admission{}, adm, name)
	}
}

// No two identities may share bytes: everything that differs must be told apart.
func TestMintedTokensDiffer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMinter(t, func(c *identity.MinterConfig) { c.Claims = []string{"tenant"} })
		seen := map[string]string{}
		for i, in := range []gatemesh.PrincipalInfo{
			{Subject: "a"}, {Subject: "b"}, {Consumer: "a"}, {Subject: "a", Consumer: "a"}, {Subject: "a", Issuer: "x"}, {Subject: "a", Method: "x"},
			{Subject: "a", Scopes: []string{"r"}}, {Subject: "a", Scopes: []string{"r w"}}, {Subject: "a", Scopes: []string{"r", "w"}},
			{Subject: "a", Claims: map[string]any{"tenant": "1"}}, {Subject: "a", Claims: map[string]any{"tenant": json.Number("1")}},
			{Subject: "a", Expires: time.Now().Add(10 * time.Second)},
		} {
			p := gatemesh.NewPrincipal(in)
			for _, lane := range []string{"", "v1", "v2"} {
				who := fmt.Sprint(i, lane)
				token := mint(t, m, p, lane)
				assert.Empty(t, seen[token], "%s has the token of", who)
				assert.Equal(t, token, mint(t, m, p, lane), "reused")
				seen[token] = who
			}
		}
	})
}

func TestMintedTokenIsReusedForHalfItsLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, p := newMinter(t, nil), alice()
		first := mint(t, m, p, "")
		time.Sleep(30*time.Second - time.Nanosecond)
		assert.Equal(t, first, mint(t, m, p, ""))
		time.Sleep(time.Nanosecond)
		second := mint(t, m, p, "")
		assert.NotEqual(t, first, second)
		assert.Equal(t, second, mint(t, m, p, ""))
	})
}

func TestMintedTokenNeverOutlivesTheCredential(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: "alice", Expires: start.Add(40*time.Second + 900*time.Millisecond)})
		m := newMinter(t, nil)
		first := mint(t, m, p, "")
		_, claims := segments(t, first)
		assert.EqualValues(t, start.Unix()+40, claims["exp"], "rounded down")
		time.Sleep(40*time.Second - time.Nanosecond)
		assert.Equal(t, first, mint(t, m, p, ""), "a new one would not live longer")
		time.Sleep(time.Nanosecond)
		adm, err := m.Admit(t.Context(), outbound(t, p, ""))
		assert.Equal(t, "unauthenticated credential_expired", reason(err))
		assert.Empty(t, adm.Header)
	})
}

func TestUnmintable(t *testing.T) {
	t.Parallel()
	type info = gatemesh.PrincipalInfo
	claim := func(v any) info { return info{Subject: "a", Claims: map[string]any{"tenant": v}} }
	secret := "s3cret"
	m := newMinter(t, func(c *identity.MinterConfig) { c.Claims = []string{"tenant"} })
	for name, in := range map[string]info{
		"nobody":             {Issuer: "https://idp.example"},
		"subject":            {Subject: secret + "\xff"},
		"consumer":           {Consumer: "\xc3\x28"},
		"issuer":             {Subject: "a", Issuer: "\xff"},
		"method":             {Subject: "a", Method: "\xff"},
		"scope":              {Subject: "a", Scopes: []string{"r", "\xff"}},
		"claim":              claim(secret + "\xff"),
		"claim in a list":    claim([]any{"a", "\xff"}),
		"claim in strings":   claim([]string{"\xff"}),
		"claim in an object": claim(map[string]any{"k": map[string]any{"\xff": 1.0}}),
		"claim of a type":    claim(struct{ S string }{secret}),
		"claim not a number": claim(json.Number(secret)),
		"claim infinite":     claim(math.Inf(1)),
		"too large":          {Subject: strings.Repeat(secret, 1100)},
	} {
		adm, err := m.Admit(t.Context(), outbound(t, gatemesh.NewPrincipal(in), ""))
		assert.Equal(t, "internal identity_unmintable", reason(err), name)
		assert.Empty(t, adm.Header, name)
		assert.NotEmpty(t, cause(err), name)
		assert.NotContains(t, fmt.Sprintf("%+v %s", err, cause(err)), secret, name)
	}
	_, err := m.Admit(t.Context(), outbound(t, alice(), "\xff"))
	assert.Equal(t, "internal identity_unmintable", reason(err), "lane")
}

func TestZeroMinterDenies(t *testing.T) {
	t.Parallel()
	var m identity.Minter
	_, err := m.Admit(t.Context(), outbound(t, alice(), ""))
	assert.Equal(t, "internal identity_unmintable", reason(err))
	_, ok := m.Key("k1")
	assert.False(t, ok)
	assert.Nil(t, m.JWKS())
}

func TestNewMinterReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := identity.NewMinter(identity.MinterConfig{})
	require.Error(t, err)
	for _, want := range []string{"MinterConfig.Issuer is required", "MinterConfig.Audience is required", "MinterConfig.Key is required"} {
		assert.ErrorContains(t, err, "identity: "+want)
	}

	k1, k2 := signingKey(1), signingKey(2)
	mixed := append([]byte(nil), k1.Private...)
	copy(mixed[32:], k2.Private[32:])
	for want, change := range map[string]func(*identity.MinterConfig){
		"Issuer is not UTF-8":                func(c *identity.MinterConfig) { c.Issuer = "\xff" },
		"Audience[1] is empty":               func(c *identity.MinterConfig) { c.Audience = []string{"a", ""} },
		"Key must have a private key of 64":  func(c *identity.MinterConfig) { c.Key.Private = c.Key.Private[:32] },
		"Key has a private key whose halves": func(c *identity.MinterConfig) { c.Key.Private = mixed },
		"Key has an ID":                      func(c *identity.MinterConfig) { c.Key.ID = `a","x":"` },
		"Next[0] has no key":                 func(c *identity.MinterConfig) { c.Next = []identity.PublicKey{{ID: "a"}} },
		"Next[0] must have a public key of 32": func(c *identity.MinterConfig) {
			c.Next = []identity.PublicKey{{ID: "a", Key: ed25519.PublicKey(k2.Private[:31])}}
		},
		`Previous[0] has the ID "k1"`: func(c *identity.MinterConfig) { c.Previous = []identity.PublicKey{k1.Public()} },
		`Previous[1] has the ID "k2"`: func(c *identity.MinterConfig) {
			c.Next, c.Previous = []identity.PublicKey{k2.Public()}, []identity.PublicKey{signingKey(3).Public(), k2.Public()}
		},
		"Lifetime is 4s":                          func(c *identity.MinterConfig) { c.Lifetime = 4 * time.Second },
		"Lifetime is 10m1s":                       func(c *identity.MinterConfig) { c.Lifetime = 601 * time.Second },
		"Lifetime is -1s":                         func(c *identity.MinterConfig) { c.Lifetime = -time.Second },
		`Claims[0]: "exp" is a registered claim`:  func(c *identity.MinterConfig) { c.Claims = []string{"exp"} },
		`Claims[0]: "orig_method" is a registere`: func(c *identity.MinterConfig) { c.Claims = []string{identity.MethodClaim} },
		`Claims[1]: "a" is there twice`:           func(c *identity.MinterConfig) { c.Claims = []string{"a", "a"} },
		"Claims[0] is not a name":                 func(c *identity.MinterConfig) { c.Claims = []string{""} },
		"CacheEntries is -1":                      func(c *identity.MinterConfig) { c.CacheEntries = -1 },
		"CacheEntries is 1048577":                 func(c *identity.MinterConfig) { c.CacheEntries = 1<<20 + 1 },
	} {
		cfg := minterConfig()
		change(&cfg)
		_, err := identity.NewMinter(cfg)
		assert.ErrorContains(t, err, "identity: MinterConfig."+want)
	}
}

func TestMinterCopiesItsConfig(t *testing.T) {
	t.Parallel()
	cfg := minterConfig()
	cfg.Claims = []string{"tenant"}
	cfg.Key.Private = append(cfg.Key.Private[:0:0], cfg.Key.Private...)
	m, err := identity.NewMinter(cfg)
	require.NoError(t, err)
	clear(cfg.Key.Private)
	cfg.Audience[0], cfg.Claims[0] = "evil", "email"
	token := mint(t, m, alice(), "")
	adm, err := verify(t, newVerifier(t, m, nil), token)
	require.NoError(t, err)
	_, hasMail := adm.Principal.Claim("email")
	assert.False(t, hasMail)
}

func TestMinterUpdate(t *testing.T) {
	t.Parallel()
	var notices recorder
	m := newMinter(t, nil)
	p := alice()
	before := mint(t, m, p, "")

	bad := minterConfig()
	bad.Key = identity.SigningKey{}
	require.Error(t, m.Update(bad))
	assert.Equal(t, before, mint(t, m, p, ""), "a bad configuration changes nothing")

	cfg := minterConfig()
	cfg.Observer = &notices
	cfg.Issuer = "https://other.internal"
	require.NoError(t, m.Update(cfg))
	_, claims := segments(t, mint(t, m, p, ""))
	assert.Equal(t, "https://other.internal", claims["iss"], "a token of the old configuration is not reused")
	assert.Empty(t, notices.all(), "the same key signs")

	cfg.Key, cfg.Previous = signingKey(2), []identity.PublicKey{signingKey(1).Public()}
	require.NoError(t, m.Update(cfg))
	header, _ := segments(t, mint(t, m, p, ""))
	assert.Contains(t, header, `"kid":"k2"`)
	require.Len(t, notices.all(), 1)
	assert.Equal(t, gatemesh.EventNotice, notices.all()[0].Kind)
	assert.Equal(t, "identities are now signed with key k2, no more with k1", notices.all()[0].Message)
}

// recorder is an Observer that keeps events.
type recorder struct {
	mu     sync.Mutex
	events []gatemesh.Event
}

func (r *recorder) Observe(_ context.Context, e gatemesh.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) all() []gatemesh.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]gatemesh.Event(nil), r.events...)
}

func TestSigningKeyIsNotPrinted(t *testing.T) {
	t.Parallel()
	k := signingKey(1)
	cfg := minterConfig()
	js, err := json.Marshal(cfg)
	require.NoError(t, err)
	out := string(js)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		out += fmt.Sprintf(verb, k) + fmt.Sprintf(verb, &k) + fmt.Sprintf(verb, cfg)
	}
	assert.Contains(t, out, `signing key "k1"`)
	assert.NotContains(t, out, base64.StdEncoding.EncodeToString(k.Private)[:20])
	assert.NotContains(t, out, fmt.Sprintf("%x", []byte(k.Private))[:20])
	assert.NotContains(t, out, strings.Trim(fmt.Sprint([]byte(k.Private)[:8]), "[]"))
}
