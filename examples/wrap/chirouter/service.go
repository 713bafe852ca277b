// Package chirouter is a service on a chi router with the middlewares that
// such services have, before and after.
package chirouter

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

// service is the service as it was written. It knows nothing of gatemesh.
type service struct{ log *slog.Logger }

// logged is a middleware of the service's own, which wants the route pattern.
func (s *service) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(ww, r)
		s.log.InfoContext(r.Context(), "request", "route", chi.RouteContext(r.Context()).RoutePattern(),
			"status", ww.Status(), "id", middleware.GetReqID(r.Context()))
	})
}

func (s *service) hello(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }

func (s *service) article(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintf(w, "article %s of %s by %s\n", chi.URLParam(r, "id"), chi.RouteContext(r.Context()).RoutePattern(), r.PathValue("id"))
	fmt.Fprint(w, strings.Repeat("text worth compressing ", 100))
}

// slow waits for longer than the Timeout of the router.
func (s *service) slow(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func (s *service) broken(http.ResponseWriter, *http.Request) { panic("a bug of the service") }

// timeout is that of the router.
const timeout = 50 * time.Millisecond
