package auth

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestJWT01_UnsignedTokens(t *testing.T) {
	t.Parallel()
	a := newAuth(t, edIssuer(t))
	body := payload(time.Now(), nil)
	require.Equal(t, "ok", tokenReason(t, a, edToken(t, body)))
	for _, alg := range []any{"none", "None", "nOnE", "", nil, 1} {
		for _, sig := range []string{"", "AA", b64(make([]byte, 64))} {
			h := m{"kid": "ed", "alg": alg}
			got := tokenReason(t, a, segment(h)+"."+segment(body)+"."+sig)
			assert.Contains(t, []string{"token_malformed", "token_algorithm"}, got, "alg %v, signature %q", alg, sig)
		}
	}
	assert.Equal(t, "token_malformed", tokenReason(t, a, segment(m{"kid": "ed"})+"."+segment(body)+".AA"), "no alg")
	_, err := New(Config{Issuers: []Issuer{edIssuer(t, func(is *Issuer) { is.Algorithms = []string{"none"} })}})
	assert.ErrorContains(t, err, `Config.Issuers[0].Algorithms: "none" is not supported`)
}

func TestJWT02_KeyConfusion(t *testing.T) {
	t.Parallel()
	pub := &rsaKey().PublicKey
	der := gatemesh.Must(x509.MarshalPKIXPublicKey(pub))
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	rs := func(keys KeySource, algs ...string) *Authenticator {
		return newAuth(t, Issuer{Issuer: testIssuer, Audience: []string{testAudience}, Algorithms: algs, Keys: keys})
	}
	body := payload(time.Now(), nil)
	a := rs(mustKeys(t, StaticKey{ID: "r", Key: pub}), "RS256", "PS256")
	for _, alg := range []string{"RS256", "PS256"} {
		require.Equal(t, "ok", tokenReason(t, a, sign(t, alg, rsaKey(), m{"alg": alg, "kid": "r"}, body)))
	}
	for name, secret := range map[string][]byte{
		"PEM":   text,
		"CRLF":  bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")),
		"space": append([]byte(" "), text...),
		"DER":   der,
		"JWK":   gatemesh.Must(json.Marshal(jwkOf("r", pub, nil))),
	} {
		token := sign(t, "HS256", secret, m{"alg": "HS256", "kid": "r"}, body)
		assert.Equal(t, "token_algorithm", tokenReason(t, a, token), name)
	}

	bound, err := ParseJWKS([]byte(jwksOf(jwkOf("r", pub, m{"alg": "RS256"}))))
	require.NoError(t, err)
	assert.Equal(t, "token_algorithm", tokenReason(t, rs(bound, "RS256", "PS256"),
		sign(t, "PS256", rsaKey(), m{"alg": "PS256", "kid": "r"}, body)), "the JWK is for RS256")

	enc, err := ParseJWKS([]byte(jwksOf(jwkOf("r", pub, m{"use": "enc"}), jwkOf("s", &otherRSA().PublicKey, m{"use": "sig"}))))
	require.NoError(t, err)
	assert.Equal(t, "token_key_unknown", tokenReason(t, rs(enc, "RS256"),
		sign(t, "RS256", rsaKey(), m{"alg": "RS256", "kid": "r"}, body)), "the JWK is for encryption")

	secret := bytes.Repeat([]byte("s"), 32)
	for want, is := range map[string]Issuer{
		"mixes symmetric and asymmetric": {Algorithms: []string{"RS256", "HS256"}, Keys: &sourceSpy{}},
		`key "b" is of another kind`:     {Algorithms: []string{"RS256"}, Keys: mustKeys(t, StaticKey{ID: "a", Key: pub}, StaticKey{ID: "b", Key: secret})},
		`key "c" is of another kind`:     {Algorithms: []string{"HS256"}, Keys: mustKeys(t, StaticKey{ID: "c", Key: pub})},
	} {
		is.Issuer, is.Audience = testIssuer, []string{testAudience}
		_, err := New(Config{Issuers: []Issuer{is}})
		assert.ErrorContains(t, err, want)
	}
	_, err = StaticKeys(StaticKey{Key: text})
	assert.ErrorContains(t, err, "PEM")
}

func TestJWT03_Expiry(t *testing.T) {
	t.Parallel()
	a := newAuth(t, edIssuer(t))
	for _, exp := range []string{`null`, `0`, `"1999999999"`, `1e30`, `1e308`, `1e999`, `-1e30`, `[]`, `{}`, `true`, `253402300800`} {
		body := fmt.Sprintf(`{"iss":%q,"aud":"api","exp":%s}`, testIssuer, exp)
		assert.Equal(t, "token_malformed", tokenReason(t, a, edToken(t, body)), exp)
	}
	assert.Equal(t, "token_malformed", tokenReason(t, a, edToken(t, payload(time.Now(), m{"exp": nil}))), "missing")
	for _, body := range []string{`null`, `[]`, `"x"`, `1`, ``, ` `, `{}x`, `{"iss":}`, `{,}`, "{\"iss\":\"\xff\"}"} {
		assert.Equal(t, "token_malformed", tokenReason(t, a, edToken(t, body)), body)
	}
	assert.Equal(t, "token_issuer", tokenReason(t, a, edToken(t, `{}`)))
}

func TestJWT04_Claims(t *testing.T) {
	t.Parallel()
	const leeway = 30 * time.Second
	tests := []struct {
		name   string
		change func(now time.Time) m
		want   string
	}{
		{"exp -29", func(now time.Time) m { return m{"exp": now.Unix() - 29} }, "ok"},
		{"exp -30", func(now time.Time) m { return m{"exp": now.Unix() - 30} }, "token_expired"},
		{"exp -31", func(now time.Time) m { return m{"exp": now.Unix() - 31} }, "token_expired"},
		{"nbf +29", func(now time.Time) m { return m{"nbf": now.Unix() + 29} }, "ok"},
		{"nbf +30", func(now time.Time) m { return m{"nbf": now.Unix() + 30} }, "ok"},
		{"nbf +31", func(now time.Time) m { return m{"nbf": now.Unix() + 31} }, "token_not_yet_valid"},
		{"nbf +30.5", func(now time.Time) m { return m{"nbf": float64(now.Unix()) + 30.5} }, "token_not_yet_valid"},
		{"nbf string", func(time.Time) m { return m{"nbf": "1"} }, "token_malformed"},
		{"iat +31", func(now time.Time) m { return m{"iat": now.Unix() + 31} }, "token_not_yet_valid"},
		{"iat null", func(time.Time) m { return m{"iat": json.RawMessage("null")} }, "token_malformed"},
		{"aud missing", func(time.Time) m { return m{"aud": nil} }, "token_audience"},
		{"aud null", func(time.Time) m { return m{"aud": json.RawMessage("null")} }, "token_audience"},
		{"aud empty", func(time.Time) m { return m{"aud": []string{}} }, "token_audience"},
		{"aud empty string", func(time.Time) m { return m{"aud": []string{""}} }, "token_audience"},
		{"aud object", func(time.Time) m { return m{"aud": m{"x": "api"}} }, "token_malformed"},
		{"aud number", func(time.Time) m { return m{"aud": []any{"api", 1}} }, "token_malformed"},
		{"aud other", func(time.Time) m { return m{"aud": []string{"other"}} }, "token_audience"},
		{"aud both", func(time.Time) m { return m{"aud": []string{"other", "api"}} }, "ok"},
		{"aud space", func(time.Time) m { return m{"aud": "api "} }, "token_audience"},
		{"iss slash", func(time.Time) m { return m{"iss": testIssuer + "/"} }, "token_issuer"},
		{"iss upper", func(time.Time) m { return m{"iss": strings.ToUpper(testIssuer)} }, "token_issuer"},
		{"iss evil", func(time.Time) m { return m{"iss": testIssuer + ".evil"} }, "token_issuer"},
		{"iss missing", func(time.Time) m { return m{"iss": nil} }, "token_issuer"},
		{"iss array", func(time.Time) m { return m{"iss": []string{testIssuer}} }, "token_issuer"},
		{"sub number", func(time.Time) m { return m{"sub": 1} }, "token_malformed"},
		{"sub lone surrogate", func(time.Time) m { return m{"sub": json.RawMessage(`"a\ud800"`)} }, "token_malformed"},
		{"ISS beside iss", func(time.Time) m { return m{"ISS": "x"} }, "token_malformed"},
		{"Kelvin and long s", func(time.Time) m { return m{"i\u017fs": "x"} }, "token_malformed"},
		{"Exp", func(time.Time) m { return m{"Exp": 1} }, "token_malformed"},
	}
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Leeway = leeway }))
		for _, tt := range tests {
			assert.Equal(t, tt.want, tokenReason(t, a, edToken(t, payload(now, tt.change(now)))), tt.name)
		}
		twice := fmt.Sprintf(`{"iss":%q,"aud":"api","exp":%d,"sub":"alice","sub":"bob"}`, testIssuer, now.Unix()+60)
		assert.Equal(t, "token_malformed", tokenReason(t, a, edToken(t, twice)))
		nested := fmt.Sprintf(`{"iss":%q,"aud":"api","exp":%d,"roles":{"a":1,"a":2}}`, testIssuer, now.Unix()+60)
		assert.Equal(t, "token_malformed", tokenReason(t, a, edToken(t, nested)))
	})
}

// Not parallel: it measures what is allocated.
func TestJWT05_Oversized(t *testing.T) {
	spy := &sourceSpy{}
	a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = spy }))
	deep := `{"alg":"EdDSA","kid":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`
	body := payload(time.Now(), nil)
	good := edToken(t, body)
	for name, tt := range map[string]struct{ token, want string }{
		"dots":        {strings.Repeat(".", 65536), "token_too_long"},
		"few dots":    {strings.Repeat(".", 8192), "token_malformed"},
		"long":        {strings.Repeat("QUFB", 900<<8), "token_too_long"},
		"9000 deep":   {segment(`{"alg":"EdDSA","kid":`+strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+`}`) + ".e30.AA", "token_too_long"},
		"2000 deep":   {segment(deep) + ".e30.AA", "token_malformed"},
		"deep claims": {segment(m{"alg": "EdDSA"}) + "." + segment(deep) + ".AA", "token_malformed"},
		"2 segments":  {"e30.e30", "token_malformed"},
		"4 segments":  {good + ".AA", "token_malformed"},
		"5 segments":  {"a.b.c.d.e", "token_malformed"},
		"padding":     {good + "=", "token_malformed"},
		"plus":        {"e30.e30.++", "token_malformed"},
		"slash":       {"e30.e30.//", "token_malformed"},
		"CR":          {good + "\r", "token_malformed"},
		"LF inside":   {strings.Replace(good, ".", ".\n", 1), "token_malformed"},
		"LF in sig":   {good[:len(good)-4] + "\n" + good[len(good)-4:], "token_malformed"},
		"tail bits":   {good[:len(good)-1] + string(good[len(good)-1]+1), "token_malformed"},
		"empty":       {"", "token_malformed"},
		"empty sig":   {"e30.e30.", "token_malformed"},
		"empty first": {".e30.e30", "token_malformed"},
	} {
		c := bearerCall(t, tt.token)
		require.Equal(t, tt.want, reason(t, a, c), name)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 20 {
			_, _ = a.Admit(t.Context(), c)
		}
		runtime.ReadMemStats(&after)
		assert.LessOrEqual(t, (after.TotalAlloc-before.TotalAlloc)/20, uint64(16*len(tt.token)+64<<10), name)
	}
	assert.Zero(t, spy.calls.Load(), "keys were looked up")
	assert.Equal(t, "ok", tokenReason(t, newAuth(t, edIssuer(t)), good))
}

func TestJWT06_Encrypted(t *testing.T) {
	t.Parallel()
	spy := &sourceSpy{}
	a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Keys = spy }))
	for name, token := range map[string]string{
		"p2c":       segment(m{"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 2147483647}) + ".AA.AA.AA.AA",
		"zip":       segment(m{"alg": "dir", "enc": "A128GCM", "zip": "DEF"}) + ".AA.AA.AA.AA",
		"empty key": segment(m{"alg": "RSA-OAEP", "enc": "A128GCM"}) + "..AA.AA.AA",
	} {
		assert.Equal(t, "token_malformed", tokenReason(t, a, token), name)
	}
	assert.Zero(t, spy.calls.Load())
}

func TestJWT07_KeyInjection(t *testing.T) {
	t.Parallel()
	var connections atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { connections.Add(1) }))
	defer srv.Close()
	var log lines
	obs := gatemesh.SlogObserver(slog.New(slog.NewJSONHandler(&log, nil)))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{Observer: obs}))
	a := newAuth(t, edIssuer(t))
	h := gatemesh.Must(gatemesh.NewChain(entry, a.Layer())).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the handler was called")
	}))
	body := payload(time.Now(), nil)
	own := jwkOf("own", edPublic(otherEd()), nil)
	for name, header := range map[string]m{
		"path":     {"kid": "../../../../dev/null"},
		"sql":      {"kid": "' OR 1=1--"},
		"url":      {"kid": srv.URL + "/k"},
		"long":     {"kid": strings.Repeat("k", 5000)},
		"injected": {"kid": "a\n{\"level\":\"error\"}"},
		"array":    {"kid": []string{"ed"}},
		"number":   {"kid": 1},
		"jku":      {"jku": srv.URL, "kid": "own"},
		"x5u":      {"x5u": srv.URL, "kid": "own"},
		"x5c":      {"x5c": []string{"AA=="}, "kid": "own"},
		"jwk":      {"jwk": own, "kid": "own"},
		"jwk ed":   {"jwk": own, "kid": "ed"},
		"crit":     {"crit": []string{"exp"}, "kid": "ed"},
		"Kid":      {"Kid": "x", "kid": "ed"},
	} {
		log.buf.Reset()
		header["alg"] = "EdDSA"
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+sign(t, "EdDSA", otherEd(), header, body))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		assert.Equal(t, http.StatusUnauthorized, w.Code, name)
		denied := 0
		for _, line := range strings.Split(strings.TrimSpace(log.String()), "\n") {
			var fields m
			require.NoError(t, json.Unmarshal([]byte(line), &fields), "%s: %s", name, line)
			if fields["msg"] == "denied" {
				denied++
			}
		}
		assert.Equal(t, 1, denied, name)
		assert.NotContains(t, log.String(), strings.Repeat("k", 65), name)
		assert.NotContains(t, log.String(), "alice", name)
	}
	assert.Zero(t, connections.Load())

	// Signed by the issuer, but demanding what we do not do, or saying two things.
	for _, header := range []m{{"crit": []string{"exp"}}, {"crit": nil}, {"b64": false, "crit": []string{"b64"}}, {"Kid": "x"}, {"ALG": "none"}} {
		header["alg"], header["kid"] = "EdDSA", "ed"
		assert.Equal(t, "token_malformed", tokenReason(t, a, sign(t, "EdDSA", edKey(), header, body)), header)
	}
	assert.Equal(t, "ok", tokenReason(t, a, sign(t, "EdDSA", edKey(), m{"alg": "EdDSA", "kid": "ed", "jku": srv.URL, "jwk": own}, body)))
}

func TestWellFormed(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]bool{
		"a.b.c": true, "aZ09-_.x.y": true,
		"": false, "a": false, "a.b": false, "a.b.c.d": false, ".b.c": false, "a..c": false, "a.b.": false, "..": false,
		"a.b.c=": false, "a.b.c ": false, "a.b.\xe9": false,
	} {
		assert.Equal(t, want, wellFormed(raw), raw)
	}
}

func TestJWT09_TwoCredentials(t *testing.T) {
	t.Parallel()
	secret, hash := GenerateKey()
	a, err := New(Config{
		Issuers: []Issuer{edIssuer(t)},
		APIKeys: gatemesh.Must(NewKeySet([]Key{{ID: "k", Consumer: "c", Hash: hash}})),
	})
	require.NoError(t, err)
	tok := edToken(t, payload(time.Now(), nil))
	for _, tt := range []struct {
		name   string
		header http.Header
		query  string
		want   string
	}{
		{"none", nil, "", "credential_missing"},
		{"token", http.Header{"Authorization": {"Bearer " + tok}}, "", "ok"},
		{"lower", http.Header{"Authorization": {"bearer " + tok}}, "", "ok"},
		{"upper", http.Header{"Authorization": {"BEARER " + tok}}, "", "ok"},
		{"key", http.Header{"X-Api-Key": {secret}}, "", "ok"},
		{"valid, invalid", http.Header{"Authorization": {"Bearer " + tok, "Bearer x"}}, "", "credential_ambiguous"},
		{"invalid, valid", http.Header{"Authorization": {"Bearer x", "Bearer " + tok}}, "", "credential_ambiguous"},
		{"twice the same", http.Header{"Authorization": {"Bearer " + tok, "Bearer " + tok}}, "", "credential_ambiguous"},
		{"list", http.Header{"Authorization": {"Bearer " + tok + ", Bearer " + tok}}, "", "token_malformed"},
		{"two spaces", http.Header{"Authorization": {"Bearer  " + tok}}, "", "token_malformed"},
		{"tab", http.Header{"Authorization": {"Bearer\t" + tok}}, "", "credential_scheme"},
		{"BearerX", http.Header{"Authorization": {"BearerX " + tok}}, "", "credential_scheme"},
		{"basic", http.Header{"Authorization": {"Basic YTpi"}}, "", "credential_scheme"},
		{"no token", http.Header{"Authorization": {"Bearer"}}, "", "credential_scheme"},
		{"empty", http.Header{"Authorization": {""}}, "", "credential_scheme"},
		{"extra", http.Header{"Authorization": {"Bearer " + tok + " extra"}}, "", "token_malformed"},
		{"token and key", http.Header{"Authorization": {"Bearer " + tok}, "X-Api-Key": {secret}}, "", "credential_ambiguous"},
		{"query alone", nil, "access_token=" + tok, "credential_missing"},
		{"query too", http.Header{"Authorization": {"Bearer " + tok}}, "a=b&access_token=" + tok, "credential_ambiguous"},
		{"query escaped", http.Header{"Authorization": {"Bearer " + tok}}, "%61ccess_token", "credential_ambiguous"},
		{"cookie too", http.Header{"Authorization": {"Bearer " + tok}, "Cookie": {"access_token=x"}}, "", "ok"},
		{"other query", http.Header{"Authorization": {"Bearer " + tok}}, "access_tokens=1&x=access_token", "ok"},
	} {
		c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "h", Header: tt.header, RawQuery: tt.query})
		require.NoError(t, err)
		assert.Equal(t, tt.want, reason(t, a, c), tt.name)
	}

	// What is not configured belongs to the application.
	only := newAuth(t, edIssuer(t))
	assert.Equal(t, "ok", reason(t, only, callWith(t, http.Header{"Authorization": {"Bearer " + tok}, "X-Api-Key": {"theirs"}})))
}

func TestChallenges(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a, err := New(Config{Realm: "shop", Issuers: []Issuer{edIssuer(t, func(is *Issuer) { is.RequiredScopes = []string{"a", "b"} })}})
	require.NoError(t, err)
	h := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{})).Handler(a.Handler(http.NotFoundHandler()))
	for name, tt := range map[string]struct {
		authorization string
		status        int
		want          string
	}{
		"missing":   {"", 401, `Bearer realm="shop"`},
		"basic":     {"Basic YTpi", 401, `Bearer realm="shop"`},
		"malformed": {"Bearer x", 401, `Bearer realm="shop", error="invalid_token"`},
		"expired":   {"Bearer " + edToken(t, payload(now, m{"exp": 1})), 401, `Bearer realm="shop", error="invalid_token"`},
		"unknown":   {"Bearer " + sign(t, "EdDSA", edKey(), m{"alg": "EdDSA", "kid": "x"}, payload(now, nil)), 401, `Bearer realm="shop"`},
		"scope":     {"Bearer " + edToken(t, payload(now, m{"scope": "a c"})), 403, `Bearer realm="shop", error="insufficient_scope", scope="a b"`},
		"good":      {"Bearer " + edToken(t, payload(now, m{"scope": "b a"})), 404, ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if tt.authorization != "" {
			r.Header.Set("Authorization", tt.authorization)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		assert.Equal(t, tt.status, w.Code, name)
		assert.Equal(t, tt.want, strings.Join(w.Header().Values("WWW-Authenticate"), "|"), name)
	}
}

func TestTokenTypesAndScopes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := newAuth(t, edIssuer(t))
	for typ, want := range map[string]string{
		"JWT": "ok", "jwt": "ok", "at+jwt": "ok", "AT+JWT": "ok", "application/at+jwt": "ok", "": "ok",
		"logout+jwt": "token_type", "JOSE": "token_type",
	} {
		header := m{"alg": "EdDSA", "kid": "ed", "typ": typ}
		assert.Equal(t, want, tokenReason(t, a, sign(t, "EdDSA", edKey(), header, payload(now, nil))), typ)
	}
	for name, tt := range map[string]struct {
		claims m
		want   []string
	}{
		"string": {m{"scope": "a  b "}, []string{"a", "b"}},
		"array":  {m{"scp": []string{"a", "b"}}, []string{"a", "b"}},
		"scp":    {m{"scp": "a b"}, []string{"a", "b"}},
		"both":   {m{"scope": "a", "scp": []string{"b"}}, []string{"a"}},
		"none":   {nil, nil},
	} {
		adm, err := a.Admit(t.Context(), bearerCall(t, edToken(t, payload(now, tt.claims))))
		require.NoError(t, err, name)
		assert.Equal(t, tt.want, adm.Principal.Scopes(), name)
	}
	assert.Equal(t, "token_malformed", tokenReason(t, a, edToken(t, payload(now, m{"scope": 7}))))
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	now := time.Now()
	tok := edToken(t, payload(now, m{"scope": "a", "org": m{"id": 12345678901234567}}))
	a := newAuth(t, edIssuer(t, func(is *Issuer) { is.Leeway = time.Minute }))
	exp := time.Unix(now.Add(time.Hour).Unix(), 0)
	for range 2 { // verified, then remembered
		adm, err := a.Admit(t.Context(), bearerCall(t, tok))
		require.NoError(t, err)
		p := adm.Principal
		assert.Equal(t, []string{testIssuer, "alice", "", "jwt", "t1"}, []string{p.Issuer(), p.Subject(), p.Consumer(), p.Method(), p.Credential()})
		assert.Equal(t, []string{testAudience}, p.Audience())
		assert.True(t, p.Expires().Equal(exp))
		assert.True(t, adm.Until.Equal(exp.Add(time.Minute)), "as long as a new call would be admitted")
		assert.Equal(t, []string{"Authorization"}, adm.Consumed)
		id, _ := p.Claim("org", "id")
		assert.Equal(t, json.Number("12345678901234567"), id)
	}
	off, err := New(Config{Issuers: []Issuer{edIssuer(t)}, DisableStreamExpiry: true})
	require.NoError(t, err)
	adm, err := off.Admit(t.Context(), bearerCall(t, tok))
	require.NoError(t, err)
	assert.Zero(t, adm.Until)

	cognito := newAuth(t, edIssuer(t, func(is *Issuer) { is.AudienceClaim = "client_id" }))
	assert.Equal(t, "token_audience", tokenReason(t, cognito, tok))
	assert.Equal(t, "ok", tokenReason(t, cognito, edToken(t, payload(now, m{"aud": nil, "client_id": testAudience}))))
}

func TestAlgorithms(t *testing.T) {
	t.Parallel()
	secret := bytes.Repeat([]byte("s"), 64)
	for alg, key := range map[string]struct{ private, public any }{
		"RS256": {rsaKey(), &rsaKey().PublicKey}, "RS384": {rsaKey(), &rsaKey().PublicKey}, "RS512": {rsaKey(), &rsaKey().PublicKey},
		"PS256": {rsaKey(), &rsaKey().PublicKey}, "PS384": {rsaKey(), &rsaKey().PublicKey}, "PS512": {rsaKey(), &rsaKey().PublicKey},
		"ES256": {ecKey(), &ecKey().PublicKey}, "EdDSA": {edKey(), edPublic(edKey())},
		"HS256": {secret, secret}, "HS384": {secret, secret}, "HS512": {secret, secret},
	} {
		a := newAuth(t, Issuer{
			Issuer: testIssuer, Audience: []string{testAudience}, Algorithms: []string{alg},
			Keys: mustKeys(t, StaticKey{Key: key.public}),
		})
		tok := sign(t, alg, key.private, m{"alg": alg}, payload(time.Now(), nil))
		assert.Equal(t, "ok", tokenReason(t, a, tok), alg)
		flipped := tok[:len(tok)-10] + string(tok[len(tok)-10]^1) + tok[len(tok)-9:]
		assert.Contains(t, []string{"token_signature", "token_malformed"}, tokenReason(t, a, flipped), alg)
	}
	// Without a kid, exactly one key must fit.
	two := newAuth(t, edIssuer(t, func(is *Issuer) {
		is.Keys = mustKeys(t, StaticKey{ID: "a", Key: edPublic(edKey())}, StaticKey{ID: "b", Key: edPublic(otherEd())})
	}))
	assert.Equal(t, "token_key_unknown", tokenReason(t, two, sign(t, "EdDSA", edKey(), m{"alg": "EdDSA"}, payload(time.Now(), nil))))
	assert.Equal(t, "ok", tokenReason(t, two, sign(t, "EdDSA", edKey(), m{"alg": "EdDSA", "kid": "a"}, payload(time.Now(), nil))))
	assert.Equal(t, "token_signature", tokenReason(t, two, sign(t, "EdDSA", edKey(), m{"alg": "EdDSA", "kid": "b"}, payload(time.Now(), nil))))
}

// sourceSpy counts how often it is asked and has no keys.
type sourceSpy struct{ calls atomic.Int32 }

func (s *sourceSpy) Keys(time.Time) *Keys { s.calls.Add(1); return nil }

func (s *sourceSpy) Refresh(context.Context, string) *Keys { s.calls.Add(1); return nil }

// Every accepted algorithm is one of golang-jwt under the same name.
func TestMethodNames(t *testing.T) {
	t.Parallel()
	for name, method := range methods {
		assert.Equal(t, name, method.Alg())
		assert.Equal(t, method, jwt.GetSigningMethod(name))
	}
}
