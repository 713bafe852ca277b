package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
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
// they are worth (RFC 7662). It has three replicas, each of which can be slow,
// silent and down.
type authService struct {
	secrets  map[string]string // by client id
	replicas []*replica
	dials    atomic.Uint64

	mu     sync.Mutex       // guards what follows, and what replicas were asked
	tokens map[string]int64 // expiry, in seconds since the epoch
}

// replica is one process of the auth service.
type replica struct {
	of     *authService
	mode   atomic.Pointer[mode]
	asked  map[string]int // by client id, since it has been as it is
	addr   string
	server *http.Server // nil while down
}

// authHost is the auth service for who does not care which replica answers.
const authHost = "auth.internal"

// introspectionPath is where it introspects.
const introspectionPath = "/introspect"

const introspectionURL = "http://" + authHost + introspectionPath

// startAuthService has three replicas listen on ports of their own on loopback.
func startAuthService(ctx context.Context, clients ...string) (*authService, error) {
	s := &authService{secrets: map[string]string{}, tokens: map[string]int64{}}
	for _, id := range clients {
		s.secrets[id] = rand.Text()
	}
	for range 3 {
		s.replicas = append(s.replicas, &replica{of: s, addr: "127.0.0.1:0"})
	}
	return s, s.be(ctx, mode{delay: lookup})
}

// addrs are the addresses of the replicas, as the DNS would tell them.
func (s *authService) addrs() (all []string) {
	for _, r := range s.replicas {
		all = append(all, r.addr)
	}
	return all
}

// dial connects to authHost as to a virtual address, each connection to the
// next replica, whether it is well or not. Other addresses are what they are.
func (s *authService) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if host, _, _ := net.SplitHostPort(addr); host == authHost {
		addr = s.replicas[s.dials.Add(1)%uint64(len(s.replicas))].addr
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// be changes how all replicas are doing, from the next request on.
func (s *authService) be(ctx context.Context, m mode) error {
	var errs []error
	for _, r := range s.replicas {
		errs = append(errs, r.be(ctx, m))
	}
	return errors.Join(errs...)
}

// lose has the replica that a client has asked most fall, and the one after it
// be slow. The others are well.
func (s *authService) lose(ctx context.Context, client string) error {
	by := slices.Clone(s.replicas)
	s.mu.Lock()
	slices.SortFunc(by, func(a, b *replica) int { return cmp.Compare(b.asked[client], a.asked[client]) })
	s.mu.Unlock()
	return errors.Join(s.be(ctx, mode{delay: lookup}), by[0].be(ctx, mode{down: true}), by[1].be(ctx, mode{delay: spike}))
}

func (s *authService) close() error {
	var errs []error
	for _, r := range s.replicas {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}

func (s *replica) be(ctx context.Context, m mode) error {
	s.mode.Store(&m)
	s.of.mu.Lock()
	s.asked = map[string]int{}
	s.of.mu.Unlock()
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
	mux.HandleFunc("POST "+introspectionPath, s.introspect)
	s.server = newServer(mux)
	go func(srv *http.Server) { _ = srv.Serve(l) }(s.server) // ends with close
	return nil
}

// close closes the listener and every connection.
func (s *replica) close() error {
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

func (s *replica) introspect(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	if want, ok := s.of.secrets[id]; !ok || subtle.ConstantTimeCompare([]byte(secret), []byte(want)) != 1 {
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	s.of.mu.Lock()
	s.asked[id]++
	s.of.mu.Unlock()
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
	s.of.mu.Lock()
	exp, ok := s.of.tokens[token]
	s.of.mu.Unlock()
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
