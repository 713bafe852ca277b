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

// AfterGroup has the gates on one group, and leaves /hello to everybody. Entry
// stands in front of the whole router all the same: behind a part of it, chi
// would have routed by a path that nobody has judged. Which gate comes first
// is on you: no NewChain looks at it.
func (s *service) AfterGroup() http.Handler {
	r := chi.NewRouter()
	// gatemesh: begin
	keys := gatemesh.Must(auth.LoadKeyFile("keys.txt"))
	who := gatemesh.Must(auth.New(auth.Config{APIKeys: keys}))
	quota := gatemesh.Must(ratelimit.New(ratelimit.Config{
		Name: "consumer", Key: ratelimit.ByConsumer(), Limit: ratelimit.Limit{Requests: 20, Per: time.Minute},
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{ExposeRequestID: true}))
	r.Use(entry.Handler)
	// gatemesh: end
	r.Use(middleware.RequestID, s.logged, middleware.Recoverer, middleware.Compress(5), middleware.Timeout(timeout))
	r.Get("/hello", s.hello)
	r.Route("/articles", func(r chi.Router) {
		// gatemesh: begin
		r.Use(who.Handler, quota.Handler)
		// gatemesh: end
		r.Get("/{id}", s.article)
		r.Get("/slow", s.slow)
		r.Get("/broken", s.broken)
	})
	var h http.Handler = r
	return h
}
