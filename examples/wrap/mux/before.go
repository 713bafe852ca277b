package mux

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// Before serves what there was, to everybody.
func Before(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: routes(), ReadHeaderTimeout: 5 * time.Second}
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
