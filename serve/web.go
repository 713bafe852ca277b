package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// web is an HTTP server.
type web struct {
	*http.Server
	links *links
}

func newWeb(s Server, l *slog.Logger, links *links, p *phase, bounds patience) *web {
	var protocols *http.Protocols // of net/http, unless
	if s.TLS == nil {             // with TLS, ALPN says which; without, the client knows
		protocols = new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
		protocols.SetUnencryptedHTTP2(true)
	}
	return &web{links: links, Server: &http.Server{
		Protocols: protocols,
		Handler:   &handler{next: s.Handler, phase: p, patience: bounds}, TLSConfig: s.TLS,
		ConnContext: links.connContext, ConnState: links.connState,
		// A client may not hold a connection open by sending its header slowly,
		// nor make us hold a large one.
		ReadHeaderTimeout: headerTime, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(l.With("server", s.Name).Handler(), slog.LevelDebug),
	}}
}

func (w *web) drain(ctx context.Context) error {
	w.links.settle(ctx)
	return w.shutdown(ctx)
}

// shutdown ends what is idle, waits for the rest, and cuts it when ctx ends.
func (w *web) shutdown(ctx context.Context) error {
	w.links.close(silent) // Shutdown would wait 5 s for these, and answer none
	err := w.Shutdown(ctx)
	if err != nil || !poll(ctx, func() bool { return w.links.none(hijacked) }) {
		// Not by Close, which would say goodbye on each TLS connection in turn.
		n := w.links.close(nil)
		_ = w.Close() // there is nothing left to do about it
		if err = nil; n > 0 {
			err = fmt.Errorf("drain: %d connections cut: %w", n, context.DeadlineExceeded)
		}
	}
	end, cancel := context.WithTimeout(context.Background(), last)
	defer cancel()
	if !poll(end, func() bool { return w.links.none(nil) }) {
		err = errors.Join(err, errors.New("handlers still run on closed connections"))
	}
	return err
}

// phase is what handlers have to know of the drain.
type phase struct {
	draining atomic.Bool
	goAway   atomic.Bool // HTTP/2 connections may be told, too
}

// handler tells clients to go away while the server drains.
//
// Requests that began before are left alone: their connection can bring one
// more request, which is served and then told.
type handler struct {
	next     http.Handler
	phase    *phase
	patience patience
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k, ok := r.Context().Value(linkKey{}).(*link)
	if ok {
		k.begin()
		defer k.done()
	}
	h.serve(w, r, k)
	if ok && r.ProtoMajor == 1 && r.Body != http.NoBody {
		k.discard()
	}
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request, k *link) {
	w, r, end := h.patience.watch(w, r, k)
	defer end()
	if !h.phase.draining.Load() {
		h.next.ServeHTTP(w, r)
		return
	}
	w, t := tell(w, r, h.phase)
	h.next.ServeHTTP(w, r)
	t.tell() // an answer without a body is written after this
}

// teller sets Connection: close as late as it can. Earlier it would go out with
// 1xx answers, on HTTP/2 too, where clients must refuse it, and into the header
// of an upgrade; and a GOAWAY could come of it when it must not.
type teller struct {
	writer
	phase *phase
	http1 bool
	told  bool
}

// writer is what both writers of net/http can do.
type writer interface {
	http.ResponseWriter
	http.Flusher
	FlushError() error
	io.StringWriter
	//lint:ignore SA1019 gin panics without it
	http.CloseNotifier
}

// tell keeps the optional methods of net/http's two writers, for handlers that
// look for them without a ResponseController.
func tell(w http.ResponseWriter, r *http.Request, p *phase) (http.ResponseWriter, *teller) {
	t := &teller{phase: p, http1: r.ProtoMajor == 1}
	switch w := w.(type) {
	case interface {
		writer
		http.Hijacker
		io.ReaderFrom
	}:
		t.writer = w
		return teller1{t, w, w}, t
	case interface {
		writer
		http.Pusher
	}:
		t.writer = w
		return teller2{t, w}, t
	}
	t.told = true // not a writer of net/http that we know: leave it alone
	return w, t
}

func (w *teller) tell() {
	if w.told {
		return
	}
	w.told = true
	if w.http1 || w.phase.goAway.Load() {
		w.Header().Set("Connection", "close")
	}
}

// Unwrap is for [http.ResponseController].
func (w *teller) Unwrap() http.ResponseWriter { return w.writer }

func (w *teller) WriteHeader(status int) {
	if status < 100 || status > 199 {
		w.tell()
	}
	w.writer.WriteHeader(status)
}

func (w *teller) Write(b []byte) (int, error) { w.tell(); return w.writer.Write(b) }

func (w *teller) WriteString(s string) (int, error) { w.tell(); return w.writer.WriteString(s) }

func (w *teller) Flush() { w.tell(); w.writer.Flush() }

func (w *teller) FlushError() error { w.tell(); return w.writer.FlushError() }

type teller1 struct {
	*teller
	http.Hijacker
	from io.ReaderFrom
}

func (w teller1) ReadFrom(r io.Reader) (int64, error) { w.tell(); return w.from.ReadFrom(r) }

type teller2 struct {
	*teller
	http.Pusher
}
