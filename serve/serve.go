// Package serve runs HTTP and gRPC servers side by side the way a cluster
// expects: all ports bound before anything starts, probes on a plain port of
// their own, and a drain on shutdown in which no request that was sent is lost.
//
// [http.Server.Shutdown] alone loses some: it closes connections that wait to
// be accepted, idle connections whose next request is on its way, and drops
// without an answer a request that it reads after it began. So [Run] drains in
// phases, and calls Shutdown when there is nothing left to lose:
//
//   - Lame duck, for [Config].LameDuck: /readyz answers 503, so that load
//     balancers stop sending. The listeners still accept. Each HTTP answer says
//     "Connection: close", which net/http turns into a GOAWAY on HTTP/2, so that
//     active clients move away one answer at a time. An HTTP/2 request that
//     crosses a GOAWAY was not processed and has to be sent again, so there is
//     none in the 500 ms before and after the listeners close.
//   - The listeners close, after the connections that the kernel has completed
//     are accepted. For other listeners than TCP and Unix ones from package net,
//     and off Unix, that is: once Accept has had nothing to return for 5 ms.
//   - Running requests end. Connections without one are kept until nothing was
//     read from them for 500 ms, about a round trip around the world and one
//     retransmission, and no longer than the 10 s that a header may take. gRPC servers stop gracefully. Hijacked connections, such
//     as WebSockets, may end by themselves; [Config].OnDrain can tell them.
//   - At [Config].Drain everything left is cut, hijacked connections included,
//     and handlers get one more second to notice.
//
// The health port answers through all of it and closes last.
//
// What no server can save: a connection that the kernel completes in the
// microseconds between the last look at the queue and the close is reset. That
// is what the lame duck is for.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// settle is how long a connection may stay silent after the listener closed
	// before nothing can be on its way any more.
	settle = 500 * time.Millisecond
	// headerTime is how long the header of a request may take to come.
	headerTime = 10 * time.Second
	// last is how long handlers and probes may take to notice that their
	// connection was cut.
	last = time.Second
)

// GRPC is what Run needs of a gRPC server; *grpc.Server implements it.
//
// Serve returns when Accept fails. GracefulStop returns when all calls have
// ended, or after Stop.
type GRPC interface {
	Serve(net.Listener) error
	GracefulStop()
	Stop()
}

// Server is one listener and what answers on it. The zero Server is invalid.
type Server struct {
	// Name appears in logs and errors. Required.
	Name string
	// Addr is the address to listen on, such as ":8443". Required unless
	// Listener is set.
	Addr string
	// Listener is used instead of Addr if it is set. Run closes it. Handlers
	// that hijack a connection of it get it wrapped, with a NetConn method, but
	// not if it is a TLS connection.
	Listener net.Listener
	// Handler answers HTTP. Exactly one of Handler and GRPC is required.
	Handler http.Handler
	// GRPC answers instead of Handler. Run stops it.
	GRPC GRPC
	// Wrap puts a listener around the one that Run accepts from, such as
	// mtls.TLS.Listener, which tells TLS from plain text on one port. It must
	// return the error of Accept below once everything before it was returned,
	// and what it returns must be a [tls.Conn], or have a NetConn method, or be
	// what was accepted. HTTP/2 is then served with TLS and, to clients with
	// prior knowledge, without. TLS must be nil, and so must GRPC. Default: none.
	Wrap func(net.Listener) net.Listener
	// TLS terminates TLS with HTTP/2 and HTTP/1.1. Default: plain HTTP/1.1 and,
	// for clients with prior knowledge such as those of gRPC, HTTP/2 (RFC 9113
	// §3.3); nobody is upgraded to it. Must be nil with GRPC, whose own credentials terminate TLS.
	TLS *tls.Config
}

// Config configures [Run]. The zero Config is invalid.
type Config struct {
	// Servers are started together. Required.
	Servers []Server
	// Health is the address of the plain port for probes: /healthz says that
	// the process lives, /readyz that it wants traffic. Default: no such port.
	Health string
	// Metrics answers /metrics on the Health port, such as a handler of Prometheus.
	// That port asks nobody who they are: what it shows must be no secret, and
	// whoever can reach it can have it collect. Default: none.
	Metrics http.Handler
	// Ready reports why the process does not want traffic yet. It is asked by
	// /readyz, by many goroutines at once. Default: it does.
	Ready func() error
	// LameDuck is how long /readyz refuses before the listeners close, so that
	// load balancers stop sending first. Default: 0, at once.
	LameDuck time.Duration
	// Drain is how long running requests get to end after that. Default: 20 s.
	// The process needs LameDuck + Drain + 2 s from the signal to its end.
	Drain time.Duration
	// BodyTimeout is how long a client may keep a handler waiting for the body of
	// a request before the answer has begun. The time that a handler takes itself
	// does not count, and each byte that comes gives back its share of a second at
	// BodyRate, so that it ends for clients that send nothing and for those that
	// send little by little, and for nobody else. The handler's read then fails
	// with an error that is [os.ErrDeadlineExceeded], and on HTTP/1 its connection is
	// closed behind the answer. Calls of gRPC, whose messages may be hours apart,
	// and connections that were hijacked are not bounded. Default: 1 min.
	BodyTimeout time.Duration
	// BodyRate is how many bytes of a body have to come in a second, on average.
	// Default: 240.
	BodyRate int
	// DisableBodyTimeout lets clients take as long as they like.
	DisableBodyTimeout bool
	// AnswerTimeout is how long a client may take for the next 64 KiB of an answer
	// while it is being written. Then the connection is closed, or on HTTP/2 the
	// stream, if the client reads others. It does not count while nothing is
	// written, nor for calls of gRPC on HTTP/2 as long as others are read, for
	// hijacked connections, and for HTTP/1 on connections of a Listener that
	// terminates TLS by itself. Default: 1 min.
	AnswerTimeout time.Duration
	// DisableAnswerTimeout lets clients take as long as they like.
	DisableAnswerTimeout bool
	// OnDrain is called once, when the listeners have closed, to end what only
	// the application can end well, such as WebSockets: a client that is told
	// to reconnect then reaches another replica. Run waits for it, until the
	// deadline. Default: nobody.
	OnDrain func()
	// Logger receives lines about start, drain and connection errors. Required.
	Logger *slog.Logger
	// Started is called with the address of each server, by name, once all
	// listen. Default: nobody.
	Started func(addrs map[string]net.Addr)
}

// terminates says who ends TLS on s, for a person who reads the log.
func terminates(s Server) string {
	switch {
	case s.TLS != nil:
		return "yes"
	case s.Wrap != nil:
		return "as its wrapper does"
	case s.GRPC != nil:
		return "as the credentials of its gRPC server do"
	}
	return "no"
}

func (c Config) validate() error {
	var errs []error
	if len(c.Servers) == 0 {
		errs = append(errs, errors.New("serve: Config.Servers is required"))
	}
	for i, s := range c.Servers {
		if s.Name == "" || s.Addr == "" && s.Listener == nil {
			errs = append(errs, fmt.Errorf("serve: Config.Servers[%d] needs Name, and Addr or Listener", i))
		}
		if (s.Handler == nil) == (s.GRPC == nil) {
			errs = append(errs, fmt.Errorf("serve: Config.Servers[%d] needs exactly one of Handler and GRPC", i))
		}
		if s.Wrap != nil && (s.GRPC != nil || s.TLS != nil) {
			errs = append(errs, fmt.Errorf("serve: Config.Servers[%d].Wrap goes with neither GRPC nor TLS", i))
		}
		if s.GRPC != nil && s.TLS != nil {
			errs = append(errs, fmt.Errorf("serve: Config.Servers[%d].TLS must be nil with GRPC: its credentials terminate TLS", i))
		}
	}
	if c.Metrics != nil && c.Health == "" {
		errs = append(errs, errors.New("serve: Config.Metrics needs Health"))
	}
	if c.Logger == nil {
		errs = append(errs, errors.New("serve: Config.Logger is required"))
	}
	if c.LameDuck < 0 || c.Drain < 0 {
		errs = append(errs, errors.New("serve: Config.LameDuck and Drain must not be negative"))
	}
	if c.BodyTimeout < 0 || c.BodyRate < 0 || c.AnswerTimeout < 0 {
		errs = append(errs, errors.New("serve: Config.BodyTimeout, BodyRate and AnswerTimeout must not be negative"))
	}
	if c.DisableBodyTimeout && (c.BodyTimeout != 0 || c.BodyRate != 0) {
		errs = append(errs, errors.New("serve: Config.DisableBodyTimeout excludes BodyTimeout and BodyRate"))
	}
	if c.DisableAnswerTimeout && c.AnswerTimeout != 0 {
		errs = append(errs, errors.New("serve: Config.DisableAnswerTimeout excludes AnswerTimeout"))
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends, then drains, and returns nil if every request and
// every hijacked connection ended in time, else an error that is
// [context.DeadlineExceeded]. If the configuration is wrong or a port is taken
// it returns an error at once; if a server fails, it drains the others without
// a lame duck and returns the error. When it returns, its goroutines have
// ended, unless a handler ignores that its connection was cut: then the error
// says so.
//
// ctx can end only once: what a second signal does is the application's matter.
// With context.AfterFunc(ctx, stop), stop as [os/signal.NotifyContext] returned
// it, the second one kills the process.
//
// Header size and time are bounded; of a body and of an answer, which may be
// long, the time that passes without progress is. What handlers leave unread, of a request that they refuse, gets 10 s to come on HTTP/1; then it is
// answered, and the connection is closed.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	if cfg.Drain == 0 {
		cfg.Drain = 20 * time.Second
	}
	var p phase
	servers := append([]Server(nil), cfg.Servers...)
	if cfg.Health != "" {
		servers = append(servers, Server{Name: "health", Addr: cfg.Health, Handler: probes(&p.draining, cfg.Ready, cfg.Metrics)})
	}
	if err := listen(ctx, servers); err != nil {
		if ctx.Err() != nil {
			return nil // stopped before it started: nobody was let down
		}
		return err
	}
	failed := make(chan error, len(servers))
	units := make([]*unit, len(servers))
	addrs := make(map[string]net.Addr, len(servers))
	for i, s := range servers {
		units[i] = newUnit(s, cfg, &p)
		addrs[s.Name] = s.Listener.Addr()
		go units[i].run(failed)
		cfg.Logger.Info("listening", "server", s.Name, "addr", s.Listener.Addr().String(), "tls", terminates(s))
	}
	if cfg.Started != nil {
		cfg.Started(addrs)
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	p.draining.Store(true)
	if err == nil && cfg.LameDuck > 0 {
		cfg.Logger.Info("lame duck", "for", cfg.LameDuck)
		p.goAway.Store(true)
		err = wait(cfg.LameDuck-settle, failed)
		p.goAway.Store(false)
		if err == nil {
			err = wait(min(cfg.LameDuck, settle), failed)
		}
	}
	err = errors.Join(err, drain(cfg, units, &p))
	for {
		select {
		case more := <-failed: // a second server that failed before the drain
			err = errors.Join(err, more)
			continue
		default:
		}
		cfg.Logger.Info("stopped")
		return err
	}
}

// wait waits for d, or for the failure of a server.
func wait(d time.Duration, failed <-chan error) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case err := <-failed:
		return err
	}
}

// drain ends the servers side by side, and then the health server, the last.
func drain(cfg Config, units []*unit, p *phase) error {
	ctx, cancel := context.WithTimeout(context.Background(), cfg.Drain)
	defer cancel()
	apps, probed := units[:len(cfg.Servers)], units[len(cfg.Servers):]

	cfg.Logger.Info("closing listeners")
	each(apps, func(u *unit) error { u.closeListener(ctx); return nil })
	cfg.Logger.Info("draining", "deadline", cfg.Drain)
	resume := time.AfterFunc(settle, func() { p.goAway.Store(true) })
	defer resume.Stop()
	told := make(chan struct{})
	go func() {
		defer close(told)
		if cfg.OnDrain != nil {
			cfg.OnDrain()
		}
	}()
	err := each(apps, func(u *unit) error { return u.drain(ctx) })
	select {
	case <-told:
	case <-ctx.Done():
		select {
		case <-told:
		case <-time.After(last):
			err = errors.Join(err, fmt.Errorf("serve: Config.OnDrain still runs: %w", ctx.Err()))
		}
	}
	probe, cancelProbe := context.WithTimeout(context.Background(), last)
	defer cancelProbe()
	return errors.Join(err, each(probed, func(u *unit) error {
		u.closeListener(probe)
		return u.web.shutdown(probe)
	}))
}

// each runs f for all units at once.
func each(units []*unit, f func(*unit) error) error {
	errs := make([]error, len(units))
	var wg sync.WaitGroup
	for i, u := range units {
		wg.Go(func() {
			if err := f(u); err != nil {
				errs[i] = fmt.Errorf("serve: %s: %w", u.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
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

func probes(draining *atomic.Bool, ready func() error, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
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
