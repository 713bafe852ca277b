package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testIssuer   = "https://idp.example"
	testAudience = "api"
)

// The keys of all tests: RSA keys take long to make.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return gatemesh.Must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return gatemesh.Must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey    = sync.OnceValue(func() *ecdsa.PrivateKey {
		return gatemesh.Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	})
	edKey   = sync.OnceValue(newEd)
	otherEd = sync.OnceValue(newEd)
)

func newEd() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return gatemesh.Must(key, err)
}

type m = map[string]any

// payload returns valid claims with changes, of which nil values delete.
func payload(now time.Time, change m) m {
	c := m{"iss": testIssuer, "sub": "alice", "aud": testAudience, "exp": now.Add(time.Hour).Unix(), "jti": "t1"}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func segment(v any) string {
	switch v := v.(type) {
	case string:
		return base64.RawURLEncoding.EncodeToString([]byte(v))
	case []byte:
		return base64.RawURLEncoding.EncodeToString(v)
	}
	return segment(gatemesh.Must(json.Marshal(v)))
}

// sign signs any header and payload, which may be raw JSON, with alg.
func sign(t testing.TB, alg string, key, header, claims any) string {
	t.Helper()
	signed := segment(header) + "." + segment(claims)
	sig, err := jwt.GetSigningMethod(alg).Sign(signed, key)
	require.NoError(t, err)
	return signed + "." + segment(sig)
}

func edToken(t testing.TB, claims any) string {
	return sign(t, "EdDSA", edKey(), m{"alg": "EdDSA", "kid": "ed", "typ": "JWT"}, claims)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func jwkOf(kid string, key any, change m) m {
	k := m{"kid": kid}
	switch key := key.(type) {
	case *rsa.PublicKey:
		k["kty"], k["n"], k["e"] = "RSA", b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes())
	case *ecdsa.PublicKey:
		p := gatemesh.Must(key.Bytes())[1:]
		k["kty"], k["crv"], k["x"], k["y"] = "EC", key.Params().Name, b64(p[:len(p)/2]), b64(p[len(p)/2:])
	case ed25519.PublicKey:
		k["kty"], k["crv"], k["x"] = "OKP", "Ed25519", b64(key)
	case []byte:
		k["kty"], k["k"] = "oct", b64(key)
	}
	maps.Copy(k, change)
	return k
}

func jwksOf(keys ...m) string {
	if keys == nil {
		keys = []m{}
	}
	return string(gatemesh.Must(json.Marshal(m{"keys": keys})))
}

func edPublic(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func edKeys(t testing.TB) *Keys {
	return mustKeys(t, StaticKey{ID: "ed", Key: edPublic(edKey())})
}

func mustKeys(t testing.TB, keys ...StaticKey) *Keys {
	t.Helper()
	set, err := StaticKeys(keys...)
	require.NoError(t, err)
	return set
}

// edIssuer returns an Issuer of EdDSA tokens, changed by f.
func edIssuer(t testing.TB, f ...func(*Issuer)) Issuer {
	is := Issuer{Issuer: testIssuer, Audience: []string{testAudience}, Algorithms: []string{"EdDSA"}, Keys: edKeys(t)}
	for _, f := range f {
		f(&is)
	}
	return is
}

func newAuth(t testing.TB, is ...Issuer) *Authenticator {
	t.Helper()
	a, err := New(Config{Issuers: is})
	require.NoError(t, err)
	return a
}

func callWith(t testing.TB, h http.Header) *gatemesh.Call {
	t.Helper()
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "api.example", Header: h})
	require.NoError(t, err)
	return c
}

func bearerCall(t testing.TB, token string) *gatemesh.Call {
	return callWith(t, http.Header{"Authorization": {"Bearer " + token}})
}

// reason admits a call and returns the reason of its refusal, or "ok".
func reason(t testing.TB, a *Authenticator, c *gatemesh.Call) string {
	t.Helper()
	adm, err := a.Admit(t.Context(), c)
	if err == nil {
		require.NotNil(t, adm.Principal)
		return "ok"
	}
	require.Nil(t, adm.Principal)
	var d *gatemesh.Denial
	require.ErrorAs(t, err, &d)
	return d.Reason
}

func tokenReason(t testing.TB, a *Authenticator, token string) string {
	t.Helper()
	return reason(t, a, bearerCall(t, token))
}

// endpoint is a JWKS endpoint without a network, for synctest bubbles.
type endpoint struct {
	mu     sync.Mutex
	answer func(*http.Request) (*http.Response, error)
	times  []time.Time // of fetches
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	e.mu.Lock()
	e.times = append(e.times, time.Now())
	answer := e.answer
	e.mu.Unlock()
	return answer(r)
}

func (e *endpoint) set(answer func(*http.Request) (*http.Response, error)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = answer
}

func (e *endpoint) serve(doc string) { e.set(status(http.StatusOK, doc)) }

func (e *endpoint) fetches() []time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]time.Time(nil), e.times...)
}

func status(code int, body string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: code, Header: http.Header{"Location": {"https://idp.example/elsewhere"}},
			Body: io.NopCloser(strings.NewReader(body)), Request: r,
		}, nil
	}
}

func refused(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func blackHole(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// stream answers with an endless body.
func stream(chunk []byte, every time.Duration) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Request: r, Body: io.NopCloser(endless{r.Context(), chunk, every})}, nil
	}
}

type endless struct {
	ctx   context.Context
	chunk []byte
	every time.Duration
}

func (e endless) Read(p []byte) (int, error) {
	if e.every > 0 {
		select {
		case <-time.After(e.every):
		case <-e.ctx.Done():
		}
	}
	return copy(p, e.chunk), e.ctx.Err()
}

// newJWKS returns a JWKS on e. It is closed when the test ends.
func newJWKS(t testing.TB, e *endpoint, f ...func(*JWKSConfig)) *JWKS {
	t.Helper()
	cfg := JWKSConfig{URL: "https://idp.example/jwks", Client: &http.Client{Transport: e}}
	for _, f := range f {
		f(&cfg)
	}
	j, err := NewJWKS(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close()) })
	return j
}

// watcher remembers events.
type watcher struct {
	mu     sync.Mutex
	events []gatemesh.Event
}

func (w *watcher) Observe(_ context.Context, e gatemesh.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func (w *watcher) all() []gatemesh.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]gatemesh.Event(nil), w.events...)
}

// lines is a log that counts its lines.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
