package oneport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"

	// gatemesh: begin
	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	// gatemesh: end
)

// After serves both to those who have an API key, on one count.
func After(ctx context.Context, l net.Listener) error {
	rpc := grpc.NewServer()
	(&harness.API{}).Register(rpc)
	srv := &http.Server{Handler: either(rpc, routes()), ReadHeaderTimeout: 5 * time.Second}
	// gatemesh: begin
	keys := gatemesh.Must(auth.LoadKeyFile("keys.txt"))
	who := gatemesh.Must(auth.New(auth.Config{APIKeys: keys}))
	quota := gatemesh.Must(ratelimit.New(ratelimit.Config{
		Name: "consumer", Key: ratelimit.ByConsumer(), Limit: ratelimit.Limit{Requests: 20, Per: time.Minute},
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, who.Layer(), quota.Layer()))
	srv.Handler = chain.Handler(srv.Handler)
	// gatemesh: end
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ended <- srv.Shutdown(context.WithoutCancel(ctx)) // and not rpc.GracefulStop, which would cut calls off
	}()
	if err := srv.ServeTLS(l, "server.crt", "server.key"); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}
