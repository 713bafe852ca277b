package chirouter

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	// gatemesh: begin
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	// gatemesh: end
)

// After has a chain around the whole router. This is the one to prefer: every
// route is behind it, those that somebody adds later, the 404s and the 405s
// included, and NewChain checks the order.
func (s *service) After() http.Handler {
	r := chi.NewRouter()
	r.Use(middleware.RequestID, s.logged, middleware.Recoverer, middleware.Compress(5), middleware.Timeout(timeout))
	r.Get("/hello", s.hello)
	r.Route("/articles", func(r chi.Router) {
		r.Get("/{id}", s.article)
		r.Get("/slow", s.slow)
		r.Get("/broken", s.broken)
	})
	var h http.Handler = r
	// gatemesh: begin
	keys := gatemesh.Must(auth.LoadKeyFile("keys.txt"))
	who := gatemesh.Must(auth.New(auth.Config{APIKeys: keys}))
	quota := gatemesh.Must(ratelimit.New(ratelimit.Config{
		Name: "consumer", Key: ratelimit.ByConsumer(), Limit: ratelimit.Limit{Requests: 20, Per: time.Minute},
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{ExposeRequestID: true}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, who.Layer(), quota.Layer()))
	h = chain.Handler(h)
	// gatemesh: end
	return h
}
