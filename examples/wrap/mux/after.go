package mux

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	// gatemesh: begin
	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	// gatemesh: end
)

// After serves the same to those who have an API key, and to each of them no
// more than they have paid for.
func After(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: routes(), ReadHeaderTimeout: 5 * time.Second}
	// gatemesh: begin
	keys := gatemesh.Must(auth.LoadKeyFile("keys.txt"))
	who := gatemesh.Must(auth.New(auth.Config{APIKeys: keys}))
	flood := gatemesh.Must(ratelimit.New(ratelimit.Config{
		Name: "client", Key: ratelimit.ByClient(0), Limit: ratelimit.Limit{Requests: 100, Per: time.Second},
	}))
	quota := gatemesh.Must(ratelimit.New(ratelimit.Config{
		Name: "consumer", Key: ratelimit.ByConsumer(), Limit: ratelimit.Limit{Requests: 20, Per: time.Minute},
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, flood.Layer(), who.Layer(), quota.Layer()))
	srv.Handler = chain.Handler(srv.Handler)
	// gatemesh: end
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
