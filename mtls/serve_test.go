package mtls_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls"
	gserve "github.com/gatemesh-go/gatemesh/serve"
)

// Package serve drains a port with both as well as one with TLS: what runs is
// answered, on each protocol, and who never said anything holds up nothing.
func TestListener_Drain(t *testing.T) {
	t.Parallel()
	_, server, client, s, _ := pair(t)
	modes(t, server, s, mtls.ModePermissive, nil)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	addrs, done := make(chan string), make(chan error, 1)
	running, release := make(chan bool), make(chan struct{})
	go func() {
		done <- gserve.Run(ctx, gserve.Config{
			Servers: []gserve.Server{{
				Name: "both", Addr: "127.0.0.1:0",
				Wrap: func(l net.Listener) net.Listener { return server.Listener(l, nil) },
				Handler: mesh(t, server, func(w http.ResponseWriter, r *http.Request) {
					running <- true
					<-release
					whoami(w, r)
				}),
			}},
			Logger:  slog.New(slog.DiscardHandler),
			OnDrain: func() { close(release) },
			Started: func(a map[string]net.Addr) { addrs <- a["both"].String() },
		})
	}()
	addr := <-addrs
	silent, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()

	cfg, err := client.ClientConfig(exactly(t, callee))
	require.NoError(t, err)
	http1 := &http.Transport{TLSClientConfig: cfg}
	t.Cleanup(http1.CloseIdleConnections)
	tr := transport(t, client, exactly(t, callee))
	var wg sync.WaitGroup
	for name, ask := range map[string]func() (int, string, string, error){
		"200 HTTP/1.1 caller": func() (int, string, string, error) { return get(t, http1, addr) },
		"200 HTTP/2.0 caller": func() (int, string, string, error) { return get(t, tr, addr) },
		"200 HTTP/1.1 nobody": func() (int, string, string, error) { return getPlain(t, plainClient(t, false), addr, nil) },
		"200 HTTP/2.0 nobody": func() (int, string, string, error) { return getPlain(t, plainClient(t, true), addr, nil) },
	} {
		wg.Go(func() {
			status, proto, body, err := ask()
			assert.NoError(t, err, name)
			assert.Equal(t, name, fmt.Sprint(status, " ", proto, " ", body))
		})
		<-running
	}
	stop()
	wg.Wait()
	require.NoError(t, <-done)
	_, err = (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	assert.Error(t, err)
}
