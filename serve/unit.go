package serve

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// unit is one server that runs. Exactly one of web and rpc is set.
type unit struct {
	Server
	listener *listener
	links    *links
	web      *web
	rpc      *rpc
	served   chan struct{} // closed when Serve has returned
}

func newUnit(s Server, cfg Config, p *phase) *unit {
	u := &unit{Server: s, links: newLinks(), served: make(chan struct{})}
	u.listener = &listener{Listener: s.Listener, links: u.links, swept: make(chan struct{})}
	if s.GRPC != nil {
		u.listener.track = true // no ConnState tells about these
		u.rpc = &rpc{GRPC: s.GRPC, links: u.links}
	} else {
		bounds := cfg.patience()
		u.links.answer = bounds.answer
		u.web = newWeb(s, cfg.Logger, u.links, p, bounds)
	}
	return u
}

// run serves, and sends why if that ends before we end it. What Serve returns
// afterwards is its normal end, by whatever error a server says so.
func (u *unit) run(failed chan<- error) {
	defer close(u.served)
	var err error
	switch {
	case u.rpc != nil:
		err = u.rpc.Serve(u.listener)
	case u.Wrap != nil:
		err = u.web.Serve(u.Wrap(u.listener))
	case u.TLS != nil:
		err = u.web.ServeTLS(u.listener, "", "")
	default:
		err = u.web.Serve(u.listener)
	}
	if u.listener.stopping.Load() {
		return
	}
	if err == nil {
		err = errors.New("ended by itself")
	}
	failed <- fmt.Errorf("serve: %s: %w", u.Name, err)
}

// closeListener returns when the server knows every connection that was
// accepted, which is when Serve returns.
func (u *unit) closeListener(ctx context.Context) {
	u.listener.stop(ctx)
	if !within(ctx, settle, u.served) && u.rpc == nil {
		return // it may still claim them
	}
	u.listener.dropUnclaimed()
}

func (u *unit) drain(ctx context.Context) error {
	var err error
	if u.rpc != nil {
		err = u.rpc.drain(ctx)
	} else {
		err = u.web.drain(ctx)
	}
	if !within(context.Background(), last, u.served) {
		err = errors.Join(err, errors.New("Serve has not returned"))
	}
	return err
}

// rpc is a gRPC server.
type rpc struct {
	GRPC
	links *links
}

func (r *rpc) drain(ctx context.Context) error {
	// GracefulStop closes connections whose handshake has not begun, and waits
	// for handshakes that a silent client never ends. Those that have begun are
	// in good hands with it, so a client that goes on calling is not waited for.
	begin, cancel := context.WithTimeout(ctx, settle)
	r.links.settle(begin)
	cancel()
	r.links.close(func(k *link) bool { return !k.heard.Load() })
	graceful := make(chan struct{})
	go func() { defer close(graceful); r.GracefulStop() }()
	if within(ctx, 0, graceful) {
		return nil
	}
	err := fmt.Errorf("drain: %w", ctx.Err())
	r.links.close(nil) // Stop, too, would wait for handshakes
	stopped := make(chan struct{})
	go func() { defer close(stopped); r.Stop(); <-graceful }()
	if !within(context.Background(), last, stopped) {
		err = errors.Join(err, errors.New("handlers still run after Stop"))
	}
	return err
}

// within reports whether done is closed before ctx ends and d, if it is not 0,
// is over.
func within(ctx context.Context, d time.Duration, done <-chan struct{}) bool {
	var over <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-done:
		return true
	case <-over:
	case <-ctx.Done():
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}
