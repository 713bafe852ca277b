package auth

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func keyAuth(t testing.TB, f func(*Config), keys ...Key) *Authenticator {
	t.Helper()
	set, err := NewKeySet(keys)
	require.NoError(t, err)
	cfg := Config{APIKeys: set}
	if f != nil {
		f(&cfg)
	}
	a, err := New(cfg)
	require.NoError(t, err)
	return a
}

func TestKEY02_MalformedKeys(t *testing.T) {
	t.Parallel()
	secret, hash := GenerateKey()
	a := keyAuth(t, nil, Key{ID: "k", Consumer: "shop", Hash: hash})
	for _, tt := range []struct {
		name   string
		values []string
		query  string
		want   string
	}{
		{"good", []string{secret}, "", "ok"},
		{"none", nil, "", "credential_missing"},
		{"empty", []string{""}, "", "key_malformed"},
		{"space", []string{" "}, "", "key_malformed"},
		{"two", []string{secret, secret}, "", "credential_ambiguous"},
		{"two, one empty", []string{secret, ""}, "", "credential_ambiguous"},
		{"query too", []string{secret}, "x-api-key=" + secret, "credential_ambiguous"},
		{"query alone", nil, "x-api-key=" + secret, "credential_missing"},
		{"truncated", []string{secret[:len(secret)-1]}, "", "key_unknown"},
		{"trailing space", []string{secret + " "}, "", "key_malformed"},
		{"trailing %00", []string{secret + "%00"}, "", "key_unknown"},
		{"trailing NUL", []string{secret + "\x00"}, "", "key_malformed"},
		{"upper case", []string{strings.ToUpper(secret)}, "", "key_unknown"},
		{"the hash", []string{hash}, "", "key_unknown"},
		{"longest", []string{strings.Repeat("k", maxSecret)}, "", "key_unknown"},
		{"too long", []string{strings.Repeat("k", maxSecret+1)}, "", "key_malformed"},
	} {
		h := http.Header{}
		if tt.values != nil {
			h["X-Api-Key"] = tt.values
		}
		c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "h", Header: h, RawQuery: tt.query})
		require.NoError(t, err)
		assert.Equal(t, tt.want, reason(t, a, c), tt.name)
	}

	for name, keys := range map[string][]Key{
		"Hash is required":             {{ID: "k", Consumer: "c"}},
		"that of the empty key":        {{ID: "k", Consumer: "c", Hash: HashKey("")}},
		"all zeros":                    {{ID: "k", Consumer: "c", Hash: hashPrefix + strings.Repeat("0", 64)}},
		"Hash is there twice":          {{ID: "k", Consumer: "c", Hash: hash}, {ID: "l", Consumer: "c", Hash: strings.ToUpper(hash[:8]) + hash[8:]}, {ID: "n", Consumer: "c", Hash: hash}},
		`ID "k" is there twice`:        {{ID: "k", Consumer: "c", Hash: hash}, {ID: "k", Consumer: "c", Hash: HashKey("x")}},
		"ID is required":               {{Consumer: "c", Hash: hash}},
		"Consumer is required":         {{ID: "k", Hash: hash}},
		"64 hexadecimal digits":        {{ID: "k", Consumer: "c", Hash: secret}},
		"not sha256: and 64":           {{ID: "k", Consumer: "c", Hash: hash[:len(hash)-1] + "g"}},
		`Scopes: "a b" is not a scope`: {{ID: "k", Consumer: "c", Hash: hash, Scopes: []string{"a b"}}},
	} {
		_, err := NewKeySet(keys)
		assert.ErrorContains(t, err, name)
		assert.NotContains(t, fmt.Sprint(err), secret)
	}
	_, err := NewKeySet([]Key{{}, {ID: "k"}})
	assert.ErrorContains(t, err, "keys[0]")
	assert.ErrorContains(t, err, "keys[1]")
}

func TestKEY03_Scopes(t *testing.T) {
	t.Parallel()
	secret, hash := GenerateKey()
	for _, scope := range []string{"orders:readwrite", "orders", "ORDERS:READ"} {
		a := keyAuth(t, func(c *Config) { c.APIKeyScopes = []string{"orders:read"} },
			Key{ID: "k", Consumer: "shop", Hash: hash, Scopes: []string{scope}})
		assert.Equal(t, "scope_missing", reason(t, a, callWith(t, http.Header{"X-Api-Key": {secret}})), scope)
	}
	_, err := NewKeySet([]Key{{ID: "k", Consumer: "shop", Hash: hash, Scopes: []string{"orders:read "}}})
	assert.Error(t, err)
	_, err = New(Config{APIKeys: &KeySet{}, APIKeyScopes: []string{}})
	assert.ErrorContains(t, err, "Config.APIKeyScopes is empty")
	for _, scope := range []string{"orders:readwrite", "orders", "ORDERS:READ", "orders:read\t"} {
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.RequiredScopes = []string{"orders:read"} }))
		assert.Equal(t, "scope_missing", tokenReason(t, a, edToken(t, payload(time.Now(), m{"scope": scope}))), scope)
	}

	// What an upstream receives of the credential.
	a := keyAuth(t, func(c *Config) { c.APIKeyScopes = []string{"orders:read"} },
		Key{ID: "k", Consumer: "shop", Hash: hash, Scopes: []string{"orders:read"}})
	var got http.Header
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer upstream.Close()
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"127.0.0.1": {Service: "orders"}}),
	}))
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	client := &http.Client{Transport: out.Transport(base)}
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	h := entry.Handler(a.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, upstream.URL, nil)
		if assert.NoError(t, err) {
			req.Header = r.Header.Clone()
			resp, err := client.Do(req)
			if assert.NoError(t, err) {
				assert.NoError(t, resp.Body.Close())
			}
		}
	})))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-Api-Key", secret)
	r.Header.Set("X-Other", "kept")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, "kept", got.Get("X-Other"))
	assert.Empty(t, got.Values("X-Api-Key"))
}

func TestAPIKeyPrincipal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old, oldHash := GenerateKey()
		next, nextHash := GenerateKey()
		end := time.Now().Add(time.Hour)
		a := keyAuth(t, func(c *Config) { c.APIKeyHeader = "X-Key" },
			Key{ID: "old", Consumer: "shop", Hash: oldHash, Scopes: []string{"a"}, Expires: end},
			Key{ID: "next", Consumer: "shop", Hash: nextHash})
		call := func(secret string) *gatemesh.Call { return callWith(t, http.Header{"X-Key": {secret}}) }

		adm, err := a.Admit(t.Context(), call(old))
		require.NoError(t, err)
		p := adm.Principal
		assert.Equal(t, []string{"", "", "shop", "api-key", "old"}, []string{p.Issuer(), p.Subject(), p.Consumer(), p.Method(), p.Credential()})
		assert.Equal(t, []string{"a"}, p.Scopes())
		assert.Equal(t, []string{"X-Key"}, adm.Consumed)
		assert.True(t, adm.Until.Equal(end))
		assert.True(t, p.Expires().Equal(end))

		adm, err = a.Admit(t.Context(), call(next))
		require.NoError(t, err)
		assert.Equal(t, "shop", adm.Principal.Consumer())
		assert.Zero(t, adm.Until)

		time.Sleep(time.Hour - time.Nanosecond)
		assert.Equal(t, "ok", reason(t, a, call(old)))
		time.Sleep(time.Nanosecond)
		assert.Equal(t, "key_expired", reason(t, a, call(old)))
		assert.Equal(t, "ok", reason(t, a, call(next)))

		require.NoError(t, a.Update(Config{APIKeyHeader: "X-Key", APIKeys: gatemesh.Must(NewKeySet(nil))}))
		assert.Equal(t, "key_unknown", reason(t, a, call(next)))
	})
}

func TestAPIKeyAlone(t *testing.T) {
	t.Parallel()
	secret, hash := GenerateKey()
	a := keyAuth(t, nil, Key{ID: "k", Consumer: "c", Hash: hash})
	h := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})).Handler(a.Handler(http.NotFoundHandler()))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Basic YTpi") // the application's own
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	assert.Equal(t, http.StatusUnauthorized, w.Code)
	assert.Equal(t, "ApiKey", w.Header().Get("WWW-Authenticate"))
	r.Header.Set("X-Api-Key", secret)
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	assert.Equal(t, http.StatusNotFound, w.Code)
}

func TestGenerateKey(t *testing.T) {
	t.Parallel()
	a, hash := GenerateKey()
	b, _ := GenerateKey()
	assert.NotEqual(t, a, b)
	assert.True(t, validSecret(a))
	assert.Len(t, a, len(keyPrefix)+43)
	assert.Equal(t, HashKey(a), hash)
	assert.Equal(t, "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", HashKey("test"))
}

func TestLoadKeyFile(t *testing.T) {
	t.Parallel()
	secret, hash := GenerateKey()
	path := filepath.Join(t.TempDir(), "keys.txt")
	load := func(text string) (*KeySet, error) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return LoadKeyFile(path)
	}
	set, err := load("# id consumer hash\n\n billing-7\tbilling  " + hash + " scopes=a,b expires=2027-01-31T00:00:00Z\r\n" +
		"shop-1 shop " + HashKey("x") + "\n")
	require.NoError(t, err)
	assert.Equal(t, 2, set.Len())
	k := set.byHash[digestOf(secret)]
	require.NotNil(t, k)
	assert.Equal(t, "billing-7", k.principal.Credential())
	assert.Equal(t, "billing", k.principal.Consumer())
	assert.Equal(t, []string{"a", "b"}, k.principal.Scopes())
	assert.Equal(t, time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC), k.expires.UTC())

	set, err = load("m m " + hash + " meta.plan=gold scopes=a meta.note=a=b=c meta.Ü=x\n")
	assert.ErrorContains(t, err, "Metadata has a name")
	assert.Nil(t, set)
	set, err = load("m m " + hash + " meta.plan=gold scopes=a meta.note=a=b=c\n")
	require.NoError(t, err)
	got, _ := set.byHash[digestOf(secret)].principal.Claim("metadata")
	assert.Equal(t, m{"plan": "gold", "note": "a=b=c"}, got)

	for text, want := range map[string]string{
		"": "the file is empty", "# nobody yet": ":1: the line does not end", "a b " + hash: ":1: the line does not end",
		"a b " + hash + "\n ": ":2: the line does not end",
	} {
		_, err := load(text)
		assert.ErrorContains(t, err, want)
	}
	set, err = load("# nobody yet\n")
	require.NoError(t, err)
	assert.Zero(t, set.Len())

	for line, want := range map[string]string{
		"a b":                                     "an id, a consumer and a hash",
		"a b c":                                   "Hash is not",
		"a b " + hash + " scope=x":                `unknown field "scope"`,
		"a b " + hash + " gmk_SECRET=":            "not name=value",
		"a b " + hash + " gmk_SECRET==":           "unknown field",
		"a b " + hash + " SECRET":                 "not name=value",
		"a b " + hash + " scopes=":                "not name=value",
		"a b " + hash + " scopes=a,,b":            "is not a scope",
		"a b " + hash + " expires=soon":           "RFC 3339",
		"a b " + hash + " scopes=a scopes=b":      "scopes is there twice",
		"a b " + hash + " meta.a=1 meta.a=SECRET": "a meta field is there twice",
		"a b " + hash + " meta.=SECRET":           "Metadata has a name",
		"a b " + hash + " meta.a=":                "not name=value",
		"a b " + hash + " meta=SECRET":            `unknown field "meta"`,
		"a b " + hash + " meta.a=\x00SECRET":      `value of "a"`,
		"a b " + hash + " meta.gmk_SECRET!=x":     "Metadata has a name",
		"a b " + hash + " expires=2027-01-31T00:00:00Z expires=2027-01-31T00:00:00Z": "expires is there twice",
	} {
		_, err := load("# first\n" + line + "\na b\n")
		assert.ErrorContains(t, err, path+":2: ")
		assert.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, path+":3: ", "all faults at once")
		assert.NotContains(t, fmt.Sprint(err), "SECRET")
	}
	_, err = LoadKeyFile(path + ".missing")
	assert.ErrorIs(t, err, os.ErrNotExist)
}
