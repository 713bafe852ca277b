// Package serve runs a set of HTTP servers the way a cluster expects: all
// ports bound before anything starts, probes on a plain port of their own, and
// a drain on shutdown in which no request that was sent is lost.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Server is one listener and what answers on it.
type Server struct {
	// Name appears in logs and errors. Required.
	Name string
	// Addr is the address to listen on, such as ":8443". Required unless
	// Listener is set.
	Addr string
	// Listener is used instead of Addr if it is set. Run closes it.
	Listener net.Listener
	// Handler answers. Required.
	Handler http.Handler
	// TLS terminates TLS with HTTP/2 and HTTP/1.1. Default: plain HTTP/1.1.
	TLS *tls.Config
}

// Config configures [Run].
type Config struct {
	// Servers are started together. Required.
	Servers []Server
	// Health is the address of the plain port for probes: /healthz says that
	// the process lives, /readyz that it wants traffic. Default: no such port.
	Health string
	// Ready reports why the process does not want traffic yet. It is asked by
	// /readyz. Default: it does.
	Ready func() error
	// LameDuck is how long /readyz refuses before the listeners close, so that
	// load balancers stop sending first. Default: 0, at once.
	LameDuck time.Duration
	// Drain is how long running requests get to end after that. Default: 20 s.
	Drain time.Duration
	// Logger receives lines about start, drain and connection errors. Required.
	Logger *slog.Logger
	// Started is called with the address of each server, by name, once all
	// listen. Default: nobody.
	Started func(addrs map[string]net.Addr)
}

func (c Config) validate() error {
	var errs []error
	if len(c.Servers) == 0 {
		errs = append(errs, errors.New("serve: Config.Servers is required"))
	}
	for i, s := range c.Servers {
		if s.Name == "" || s.Handler == nil || s.Addr == "" && s.Listener == nil {
			errs = append(errs, fmt.Errorf("serve: Config.Servers[%d] needs Name, Handler, and Addr or Listener", i))
		}
	}
	if c.Logger == nil {
		errs = append(errs, errors.New("serve: Config.Logger is required"))
	}
	if c.LameDuck < 0 || c.Drain < 0 {
		errs = append(errs, errors.New("serve: Config.LameDuck and Drain must not be negative"))
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends, then drains, and returns nil if every request
// ended in time. It returns an error at once if the configuration is wrong, a
// port is taken, or a server fails.
//
// Header size and time are bounded; the time of a body is not, as uploads and
// streams may be long. Handlers that read bodies bound them.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	if cfg.Drain == 0 {
		cfg.Drain = 20 * time.Second
	}
	var draining atomic.Bool
	servers := append([]Server(nil), cfg.Servers...)
	if cfg.Health != "" {
		servers = append(servers, Server{Name: "health", Addr: cfg.Health, Handler: probes(&draining, cfg.Ready)})
	}
	if err := listen(ctx, servers); err != nil {
		return err
	}
	failed := make(chan error, len(servers))
	running := make([]*http.Server, len(servers))
	addrs := make(map[string]net.Addr, len(servers))
	for i, s := range servers {
		running[i] = newServer(s, cfg.Logger)
		addrs[s.Name] = s.Listener.Addr()
		go func() { failed <- serveOne(running[i], s) }()
		cfg.Logger.Info("listening", "server", s.Name, "addr", s.Listener.Addr().String(), "tls", s.TLS != nil)
	}
	if cfg.Started != nil {
		cfg.Started(addrs)
	}
	var err error
	left := len(servers)
	select {
	case <-ctx.Done():
	case err = <-failed:
		left--
	}
	draining.Store(true)
	if err == nil && cfg.LameDuck > 0 {
		cfg.Logger.Info("lame duck", "for", cfg.LameDuck)
		t := time.NewTimer(cfg.LameDuck)
		defer t.Stop()
		select {
		case <-t.C:
		case err = <-failed:
			left--
		}
	}
	cfg.Logger.Info("draining", "deadline", cfg.Drain)
	err = errors.Join(err, drain(running, cfg.Drain))
	for range left {
		err = errors.Join(err, <-failed)
	}
	cfg.Logger.Info("stopped")
	return err
}

// listen binds every address, or none.
func listen(ctx context.Context, servers []Server) error {
	var errs []error
	for i := range servers {
		if servers[i].Listener != nil {
			continue
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", servers[i].Addr)
		if err != nil {
			errs = append(errs, fmt.Errorf("serve: %s: %w", servers[i].Name, err))
			continue
		}
		servers[i].Listener = l
	}
	err := errors.Join(errs...)
	if err != nil {
		for _, s := range servers {
			if s.Listener != nil {
				_ = s.Listener.Close() // we have an error to report already
			}
		}
	}
	return err
}

func newServer(s Server, l *slog.Logger) *http.Server {
	return &http.Server{
		Handler: s.Handler, TLSConfig: s.TLS,
		// A client may not hold a connection open by sending its header slowly,
		// nor make us hold a large one.
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(l.With("server", s.Name).Handler(), slog.LevelDebug),
	}
}

func serveOne(srv *http.Server, s Server) error {
	var err error
	if s.TLS != nil {
		err = srv.ServeTLS(s.Listener, "", "")
	} else {
		err = srv.Serve(s.Listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve: %s: %w", s.Name, err)
}

// drain shuts all servers down side by side and closes what is left at the
// deadline.
func drain(servers []*http.Server, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	done := make(chan error, len(servers))
	for _, s := range servers {
		go func() {
			err := s.Shutdown(ctx)
			if err != nil {
				err = errors.Join(fmt.Errorf("serve: drain: %w", err), s.Close())
			}
			done <- err
		}()
	}
	var errs []error
	for range servers {
		errs = append(errs, <-done)
	}
	return errors.Join(errs...)
}

func probes(draining *atomic.Bool, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case draining.Load():
			reply(w, http.StatusServiceUnavailable, "draining")
		case ready != nil && ready() != nil:
			reply(w, http.StatusServiceUnavailable, "not ready")
		default:
			reply(w, http.StatusOK, "ok")
		}
	})
	return mux
}

func reply(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // the prober may be gone
}
