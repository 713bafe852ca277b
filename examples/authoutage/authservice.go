package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	issuer        = "https://auth.example.com"
	audience      = "payments"
	tokenLifetime = 15 * time.Minute
)

// mode is how the auth service is doing.
type mode struct {
	delay  time.Duration // before each answer
	silent bool          // it takes requests and never answers
	down   bool          // connections are refused
}

// authService issues opaque tokens and tells its clients, the gateways, what
// they are worth (RFC 7662). It can be slow, silent and down.
type authService struct {
	secrets map[string]string // by client id
	mode    atomic.Pointer[mode]

	mu     sync.Mutex
	tokens map[string]int64 // expiry, in seconds since the epoch

	addr   string
	server *http.Server // nil while down
}

// startAuthService listens on a port of its own on loopback.
func startAuthService(ctx context.Context, clients ...string) (*authService, error) {
	s := &authService{secrets: map[string]string{}, tokens: map[string]int64{}, addr: "127.0.0.1:0"}
	for _, id := range clients {
		s.secrets[id] = rand.Text()
	}
	return s, s.be(ctx, mode{delay: lookup})
}

// url is the introspection endpoint.
func (s *authService) url() string { return "http://" + s.addr + "/introspect" }

// be changes how the service is doing, from the next request on.
func (s *authService) be(ctx context.Context, m mode) error {
	s.mode.Store(&m)
	if m.down {
		return s.close()
	}
	if s.server != nil {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("auth service: %w", err)
	}
	s.addr = l.Addr().String() // the same one after an outage
	mux := http.NewServeMux()
	mux.HandleFunc("POST /introspect", s.introspect)
	s.server = newServer(mux)
	go func(srv *http.Server) { _ = srv.Serve(l) }(s.server) // ends with close
	return nil
}

// close closes the listener and every connection.
func (s *authService) close() error {
	if s.server == nil {
		return nil
	}
	srv := s.server
	s.server = nil
	return srv.Close()
}

// issue returns a new token. The customers of the payments services got theirs
// before the incident, so that it does not matter how the service is doing.
func (s *authService) issue() string {
	token := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = time.Now().Add(tokenLifetime).Unix()
	return token
}

func (s *authService) introspect(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	if want, ok := s.secrets[id]; !ok || subtle.ConstantTimeCompare([]byte(secret), []byte(want)) != 1 {
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	token := r.PostFormValue("token") // also reads the body: only then is it seen that a client leaves
	m := s.mode.Load()
	var over <-chan time.Time // never, when silent
	if !m.silent {
		over = time.After(m.delay)
	}
	select {
	case <-over:
	case <-r.Context().Done():
		return
	}
	s.mu.Lock()
	exp, ok := s.tokens[token]
	s.mu.Unlock()
	answer := map[string]any{"active": false}
	if now := time.Now().Unix(); ok && now < exp {
		answer = map[string]any{
			"active": true, "iss": issuer, "aud": audience, "sub": "customer", "scope": "pay", "client_id": "app",
			"token_type": "Bearer", "exp": exp, "iat": exp - int64(tokenLifetime.Seconds()),
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(answer) // the client may be gone
}

// newServer returns a server whose errors nobody reads: clients that leave in
// the middle are what this program is about.
func newServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
}

// serve listens on a port of its own on loopback until the server is closed.
func serve(ctx context.Context, h http.Handler) (*http.Server, string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	srv := newServer(h)
	go func() { _ = srv.Serve(l) }() // ends with Close
	return srv, l.Addr().String(), nil
}
