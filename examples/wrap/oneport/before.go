package oneport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"
)

// Before serves both to everybody.
func Before(ctx context.Context, l net.Listener) error {
	rpc := grpc.NewServer()
	(&harness.API{}).Register(rpc)
	srv := &http.Server{Handler: either(rpc, routes()), ReadHeaderTimeout: 5 * time.Second}
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
