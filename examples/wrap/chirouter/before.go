package chirouter

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

// Before is the router as it was.
func (s *service) Before() http.Handler {
	r := chi.NewRouter()
	r.Use(middleware.RequestID, s.logged, middleware.Recoverer, middleware.Compress(5), middleware.Timeout(timeout))
	r.Get("/hello", s.hello)
	r.Route("/articles", func(r chi.Router) {
		r.Get("/{id}", s.article)
		r.Get("/slow", s.slow)
		r.Get("/broken", s.broken)
	})
	var h http.Handler = r
	return h
}
