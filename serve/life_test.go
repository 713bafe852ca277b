package serve_test

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/serve"
)

// LC_01: whatever happens to a Run, nothing of it stays.
func Test_LC_01_RunAndStop(t *testing.T) {
	const times = 1000
	once := func(i int) error {
		var used error
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		got := make(chan net.Conn, 1)
		g := newFakeGRPC()
		cfg := serve.Config{
			Logger: quiet, Health: "127.0.0.1:0", Drain: 10 * time.Second,
			Servers: []serve.Server{
				{Name: "app", Addr: "127.0.0.1:0", Handler: hijack(got, i%2 == 0)},
				{Name: "rpc", Addr: "127.0.0.1:0", GRPC: g},
			},
			OnDrain: func() {
				select {
				case c := <-got:
					_ = c.Close()
				default:
				}
			},
		}
		switch i % 4 {
		case 0: // used: a hijacked connection is open when the stop comes
			cfg.Started = func(addrs map[string]net.Addr) {
				defer cancel()
				r, err := newRaw(net.Dial("tcp", addrs["app"].String()))
				if err != nil {
					used = err
					return
				}
				used = r.send("/")
				c := <-got
				got <- c
				_ = r.Close()
			}
		case 1: // stopped as soon as it has started
			cfg.Started = func(map[string]net.Addr) { cancel() }
		case 2: // stopped before
			cancel()
		case 3: // stopped meanwhile
			go cancel()
		}
		return errors.Join(serve.Run(ctx, cfg), used)
	}
	require.NoError(t, once(0)) // what the runtime keeps for itself
	files, routines := openFiles(t), runtime.NumGoroutine()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < times; i += 4 {
				assert.NoError(t, once(i/4), "run %d", i)
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for openFiles(t) > files || runtime.NumGoroutine() > routines {
		select {
		case <-tick.C:
		case <-ctx.Done():
			require.Equal(t, files, openFiles(t), "file descriptors")
			require.Equal(t, routines, runtime.NumGoroutine(), "goroutines")
		}
	}
}

// A connection that ends leaves nothing behind while the server serves.
func Test_LC_01_Connections(t *testing.T) {
	got := make(chan net.Conn, 1)
	addrs, stop := start(t, serve.Config{Servers: []serve.Server{{Name: "app", Addr: "127.0.0.1:0", Handler: hijack(got, false)}}})
	for range 200 {
		r, err := newRaw(net.Dial("tcp", addrs["app"].String()))
		require.NoError(t, err)
		require.NoError(t, r.send("/"))
		require.NoError(t, (<-got).Close())
		require.NoError(t, r.Close())
	}
	require.NoError(t, stop(), "a hijacked connection that its owner closed is not waited for")
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd") // Linux
	require.NoError(t, err)
	return len(d)
}
