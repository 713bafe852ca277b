// Package otel is a service that has traces by otelhttp and logs by slog
// already, before and after.
package otel

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// service answers orders, and asks next about their payment if there is one.
type service struct {
	log    *slog.Logger
	client *http.Client
	next   string // URL of another service; "" is none
}

func (s *service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.log.InfoContext(r.Context(), "order", "id", r.PathValue("id"))
		if s.next == "" {
			_, _ = io.WriteString(w, "paid")
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, s.next+"/orders/"+r.PathValue("id"), http.NoBody)
		if err != nil {
			http.Error(w, "bad id", http.StatusBadRequest)
			return
		}
		resp, err := s.client.Do(req)
		if err != nil {
			http.Error(w, "payment is away", http.StatusBadGateway)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})
	return mux
}

// serve serves h until ctx ends.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ended <- srv.Shutdown(context.WithoutCancel(ctx))
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}
