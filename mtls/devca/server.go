package devca

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

const (
	// hold is how long a client that knows the roots of now waits for others.
	hold = 30 * time.Second
	// patience is for everything that is not waiting.
	patience = 10 * time.Second
)

// ServerConfig configures a [Server]. The zero ServerConfig is invalid: CA is
// required.
type ServerConfig struct {
	// CA signs. Required.
	CA *CA
	// Socket is the path of the unix socket. Its folder is made with mode 0700
	// if it is missing. One that is there must be ours, no link, and have no
	// permissions for others. A lock file lies and stays beside the socket.
	// Default: [DefaultSocket].
	Socket string
	// Allow are the SPIFFE ids that may be asked for. Default: every id of the
	// trust domain.
	Allow []string
	// Lifetime is how long each certificate holds. Default: 1 hour. Must not be
	// negative.
	Lifetime time.Duration
	// Observer receives a notice for every certificate and for every request
	// that is refused. Default: nobody.
	Observer gatemesh.Observer
}

// Server lets the processes of one user on one machine form a mesh: each gets
// certificates through a [Client]. It listens on a unix socket and nowhere
// else, whose folder is for its owner alone; on Linux it also asks the kernel
// that the other process runs as the same user. Windows has no such modes, and a
// Server refuses to start there. Private keys never travel: a
// client sends a request that it has signed with a key of its own.
//
// It is not for production: every process of the user gets any identity that
// [ServerConfig.Allow] names, without saying why. It is safe for concurrent use
// and owns goroutines, which [Server.Close] ends.
type Server struct {
	cfg    ServerConfig
	allow  map[mtls.ID]bool // nil for all
	server *http.Server
	stop   chan struct{}
	close  func() error
}

// NewServer returns a Server that is listening. It reports every invalid field
// at once.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Socket == "" {
		cfg.Socket = DefaultSocket()
	}
	return newServer(cfg, func() (net.Listener, error) {
		l, err := listen(cfg.Socket)
		if err != nil {
			return nil, fmt.Errorf("devca: ServerConfig.Socket: %w", err)
		}
		return guarded{l, cfg.Observer}, nil
	})
}

func newServer(cfg ServerConfig, listen func() (net.Listener, error)) (*Server, error) {
	s := &Server{cfg: cfg, stop: make(chan struct{})}
	var errs []error
	if cfg.CA == nil || cfg.CA.trustDomain == "" {
		errs = append(errs, errors.New("devca: ServerConfig.CA is required"))
	}
	if cfg.Lifetime < 0 {
		errs = append(errs, errors.New("devca: ServerConfig.Lifetime must not be negative"))
	}
	if err := checkSocket(cfg.Socket); err != nil {
		errs = append(errs, fmt.Errorf("devca: ServerConfig.Socket: %w", err))
	}
	for _, name := range cfg.Allow {
		id, err := mtls.ParseID(name)
		if err == nil && cfg.CA != nil && id.TrustDomain() != cfg.CA.trustDomain {
			err = fmt.Errorf("%s is not of trust domain %s", id, cfg.CA.trustDomain)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("devca: ServerConfig.Allow: %w", err))
		}
		if s.allow == nil {
			s.allow = map[mtls.ID]bool{}
		}
		s.allow[id] = true
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Lifetime == 0 {
		s.cfg.Lifetime = time.Hour
	}
	l, err := listen()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/certificate", s.certificate)
	mux.HandleFunc("GET /v1/roots", s.roots)
	s.server = &http.Server{
		Handler:     mux,
		ReadTimeout: patience, WriteTimeout: hold + patience, IdleTimeout: hold + patience,
		MaxHeaderBytes: maxRequest, ErrorLog: log.New(io.Discard, "", 0), // clients report their own faults
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.server.Serve(l) // ends with Close
	}()
	s.close = sync.OnceValue(func() error {
		close(s.stop)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := s.server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) { // a client that sends nothing
			err = s.server.Close()
		}
		<-served
		return err
	})
	return s, nil
}

// Close ends the server and removes its socket. Clients go on with what they
// have, and come back when there is another server. It may be called more than
// once.
func (s *Server) Close() error {
	if s.close == nil { // the zero Server
		return nil
	}
	return s.close()
}

// Format prints the trust domain, whatever the verb.
func (s *Server) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "server of the %v", s.cfg.CA) }

// certificate signs what the body asks for.
func (s *Server) certificate(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		s.refuse(w, http.StatusRequestEntityTooLarge, "the request cannot be read", err)
		return
	}
	id, public, err := parseRequest(body)
	if err != nil {
		s.refuse(w, http.StatusBadRequest, "not a certificate request with one SPIFFE id, signed with its own key", err)
		return
	}
	if id.TrustDomain() != s.cfg.CA.trustDomain || s.allow != nil && !s.allow[id] {
		s.refuse(w, http.StatusForbidden, "the SPIFFE id is not allowed", fmt.Errorf("devca: %s is not allowed", id))
		return
	}
	leaf, err := s.cfg.CA.workload(id, public, s.cfg.Lifetime)
	if err != nil {
		s.refuse(w, http.StatusInternalServerError, "the certificate cannot be made", err)
		return
	}
	observe(s.cfg.Observer, gatemesh.EventNotice, "certificate issued to "+id.String(), nil)
	write(w, answer{Certificate: leaf.Raw}, s.cfg.CA.trusted())
}

// roots answers with the roots, as soon as they are not those that the query
// names, and at the latest when the time to hold the answer is over.
func (s *Server) roots(w http.ResponseWriter, r *http.Request) {
	known := r.URL.Query().Get("known")
	t := s.cfg.CA.trusted()
	if known == version(t.certs) {
		timer := time.NewTimer(hold)
		defer timer.Stop()
		select {
		case <-t.changed:
		case <-timer.C:
		case <-r.Context().Done():
		case <-s.stop:
		}
		t = s.cfg.CA.trusted()
	}
	write(w, answer{}, t)
}

func write(w http.ResponseWriter, a answer, t *trust) {
	for _, c := range t.certs {
		a.Roots = append(a.Roots, c.Raw)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a) // who has gone asks again
}

func (s *Server) refuse(w http.ResponseWriter, status int, message string, err error) {
	observe(s.cfg.Observer, gatemesh.EventNotice, "request refused", err)
	http.Error(w, message, status)
}
