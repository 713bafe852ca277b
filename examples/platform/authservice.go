package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gatemesh-go/gatemesh"
)

const (
	tokenLifetime = 15 * time.Minute
	audience      = "https://api.example.com"
)

// authService is the identity provider: it issues 15-minute RS256 tokens and
// publishes its keys. It can be slowed down, black-holed and stopped.
type authService struct {
	mu     sync.Mutex
	keys   []*rsa.PrivateKey // the last one signs
	issuer string
	addr   string
	server *http.Server
	delay  atomic.Int64 // ns; negative is for ever
	asked  atomic.Int64 // requests that reached it
}

// startAuthService listens on a port of its own on loopback.
func startAuthService(ctx context.Context) (*authService, error) {
	s := &authService{issuer: "https://auth.example.com/"}
	if err := s.rotate(); err != nil {
		return nil, err
	}
	return s, s.listen(ctx, "127.0.0.1:0")
}

// rotate makes a new key, which signs from now on; the old ones stay published.
func (s *authService) rotate() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, key)
	return nil
}

func keyID(i int) string { return "platform-" + strconv.Itoa(i+1) }

// signer returns the key that signs, and its id.
func (s *authService) signer() (*rsa.PrivateKey, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := len(s.keys) - 1
	return s.keys[i], keyID(i)
}

// listen serves on addr, also after stop.
func (s *authService) listen(ctx context.Context, addr string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("auth service: %w", err)
	}
	s.addr = "http://" + l.Addr().String()
	mux := http.NewServeMux()
	mux.Handle("GET /jwks.json", s.delayed(s.serveJWKS))
	mux.Handle("POST /token", s.delayed(s.serveToken))
	mux.HandleFunc("POST /control/delay", s.serveDelay)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.server.Serve(l) }() // ends with stop
	return nil
}

// slow makes every answer wait for d, black-hole for ever if d is negative.
func (s *authService) slow(d time.Duration) { s.delay.Store(int64(d)) }

// stop closes the listener and every connection.
func (s *authService) stop() { _ = s.server.Close() }

func (s *authService) delayed(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		var over <-chan time.Time // never, for a black hole
		if d := time.Duration(s.delay.Load()); d >= 0 {
			over = time.After(d)
		}
		select {
		case <-over:
			next(w, r)
		case <-r.Context().Done():
		}
	})
}

func (s *authService) serveJWKS(w http.ResponseWriter, _ *http.Request) {
	b64 := base64.RawURLEncoding.EncodeToString
	var set []map[string]string
	s.mu.Lock()
	for i, key := range s.keys {
		set = append(set, map[string]string{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": keyID(i),
			"n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes()),
		})
	}
	s.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"keys": set})
}

func (s *authService) serveToken(w http.ResponseWriter, r *http.Request) {
	sub := r.FormValue("sub")
	if sub == "" {
		http.Error(w, "sub is required", http.StatusBadRequest)
		return
	}
	token, err := s.token(sub, nil)
	if err != nil {
		http.Error(w, "no token", http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "token_type": "Bearer", "expires_in": int(tokenLifetime.Seconds()),
	})
}

// serveDelay takes ?by=200ms, ?by=0 and ?by=forever.
func (s *authService) serveDelay(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.FormValue("by"))
	if r.FormValue("by") == "forever" {
		d, err = -1, nil
	}
	if err != nil {
		http.Error(w, "by is a duration such as 200ms, or forever", http.StatusBadRequest)
		return
	}
	s.slow(d)
	w.WriteHeader(http.StatusNoContent)
}

// token issues a token for sub. Claims in with replace the usual ones; a nil
// value leaves the claim out.
func (s *authService) token(sub string, with jwt.MapClaims) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, s.claims(sub, with))
	key, id := s.signer()
	t.Header["kid"] = id
	return t.SignedString(key)
}

func (s *authService) claims(sub string, with jwt.MapClaims) jwt.MapClaims {
	now := time.Now()
	c := jwt.MapClaims{
		"iss": s.issuer, "aud": audience, "sub": sub, "scope": "orders users",
		"iat": now.Unix(), "exp": now.Add(tokenLifetime).Unix(),
	}
	for name, v := range with {
		if v == nil {
			delete(c, name)
		} else {
			c[name] = v
		}
	}
	return c
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// asking stands in for auth when act g is broken: it believes in nothing but
// the auth service itself, and asks it for every request.
func (s *authService) asking() gatemesh.Gate {
	client := &http.Client{Timeout: time.Second / 4, Transport: &http.Transport{DisableKeepAlives: true}}
	return gatemesh.GateFunc(func(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.addr+"/jwks.json", http.NoBody)
		if err != nil {
			return gatemesh.Admission{}, err
		}
		resp, err := client.Do(r)
		if err != nil {
			return gatemesh.Admission{}, gatemesh.Deny(gatemesh.Unavailable, "auth_service", "The auth service did not answer.").WithCause(err)
		}
		_ = resp.Body.Close() // it has answered
		return unverified(ctx, c)
	})
}
