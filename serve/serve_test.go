package serve_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh/serve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// start runs cfg and returns its addresses and how it ends.
func start(t *testing.T, cfg serve.Config) (addrs map[string]net.Addr, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	started, ended := make(chan map[string]net.Addr, 1), make(chan error, 1)
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	cfg.Started = func(a map[string]net.Addr) { started <- a }
	go func() { ended <- serve.Run(ctx, cfg) }()
	select {
	case addrs = <-started:
	case err := <-ended:
		require.FailNow(t, "did not start", "%v", err)
	}
	return addrs, func() error { cancel(); return <-ended }
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func TestZeroConfig(t *testing.T) {
	err := serve.Run(t.Context(), serve.Config{Servers: []serve.Server{{}}, LameDuck: -1})
	for _, want := range []string{"Config.Servers[0]", "Config.Logger", "Config.LameDuck"} {
		assert.ErrorContains(t, err, want)
	}
	assert.ErrorContains(t, serve.Run(t.Context(), serve.Config{Logger: quiet}), "Config.Servers is required")
}

func TestConfigOfGRPC(t *testing.T) {
	for _, c := range []struct {
		name string
		s    serve.Server
		want string
	}{
		{"both", serve.Server{Handler: http.NotFoundHandler(), GRPC: &fakeGRPC{}}, "exactly one of Handler and GRPC"},
		{"neither", serve.Server{}, "exactly one of Handler and GRPC"},
		{"wrapped", serve.Server{GRPC: &fakeGRPC{}, Wrap: wrap}, "Wrap goes with neither GRPC nor TLS"},
		{"wrapped TLS", serve.Server{Handler: http.NotFoundHandler(), TLS: &tls.Config{}, Wrap: wrap}, "Wrap goes with neither GRPC nor TLS"},
		{"TLS", serve.Server{GRPC: &fakeGRPC{}, TLS: &tls.Config{}}, "TLS must be nil with GRPC"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.s.Name, c.s.Addr = "app", "127.0.0.1:0"
			err := serve.Run(t.Context(), serve.Config{Logger: quiet, Servers: []serve.Server{c.s}})
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	err = serve.Run(t.Context(), serve.Config{Logger: quiet, Servers: []serve.Server{
		{Name: "free", Listener: other, Handler: http.NotFoundHandler()},
		{Name: "public", Addr: l.Addr().String(), Handler: http.NotFoundHandler()},
	}})
	require.ErrorContains(t, err, "serve: public: listen tcp "+l.Addr().String())
	_, err = other.Accept()
	assert.ErrorIs(t, err, net.ErrClosed, "the listener that was bound is closed again")
}

func TestProbes(t *testing.T) {
	var ready atomic.Bool
	addrs, stop := start(t, serve.Config{
		Servers: []serve.Server{{Name: "app", Addr: "127.0.0.1:0", Handler: http.NotFoundHandler()}},
		Health:  "127.0.0.1:0",
		Ready: func() error {
			if !ready.Load() {
				return errors.New("no keys yet: a detail for the log")
			}
			return nil
		},
	})
	base := "http://" + addrs["health"].String()
	code, body := get(t, base+"/healthz")
	assert.Equal(t, 200, code)
	assert.Equal(t, "ok\n", body)
	code, body = get(t, base+"/readyz")
	assert.Equal(t, 503, code)
	assert.Equal(t, "not ready\n", body)
	ready.Store(true)
	code, _ = get(t, base+"/readyz")
	assert.Equal(t, 200, code)
	code, _ = get(t, base+"/metrics")
	assert.Equal(t, 404, code, "there are none")
	require.NoError(t, stop())
}

// Metrics are on the health port, and on no other.
func TestMetrics(t *testing.T) {
	cfg := serve.Config{
		Servers: []serve.Server{{Name: "app", Addr: "127.0.0.1:0", Handler: http.NotFoundHandler()}},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "calls 1\n") }),
	}
	noPort := cfg
	noPort.Logger = quiet
	require.EqualError(t, serve.Run(t.Context(), noPort), "serve: Config.Metrics needs Health")
	cfg.Health = "127.0.0.1:0"
	addrs, stop := start(t, cfg)
	code, body := get(t, "http://"+addrs["health"].String()+"/metrics")
	assert.Equal(t, 200, code)
	assert.Equal(t, "calls 1\n", body)
	code, _ = get(t, "http://"+addrs["app"].String()+"/metrics")
	assert.Equal(t, 404, code)
	require.NoError(t, stop())
}

// A request that runs when the stop begins is answered whole.
func TestDrain(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	addrs, stop := start(t, serve.Config{Servers: []serve.Server{{Name: "app", Addr: "127.0.0.1:0",
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-release
			_, _ = io.WriteString(w, "whole")
		})}}})
	type answer struct {
		code int
		body string
	}
	answers := make(chan answer, 1)
	go func() {
		code, body := get(t, "http://"+addrs["app"].String())
		answers <- answer{code, body}
	}()
	<-entered
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	select {
	case err := <-ended:
		require.Fail(t, "stopped with a request running", "%v", err)
	case <-closed("tcp", addrs["app"].String()):
	}
	close(release)
	assert.Equal(t, answer{200, "whole"}, <-answers)
	require.NoError(t, <-ended)
}

// closed is closed when nobody listens on addr any more.
func closed(network, addr string) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := net.Dial(network, addr)
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	return done
}

func TestDrainDeadline(t *testing.T) {
	entered := make(chan struct{})
	addrs, stop := start(t, serve.Config{Drain: 1, Servers: []serve.Server{{Name: "app", Addr: "127.0.0.1:0",
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(entered)
			<-r.Context().Done()
		})}}})
	refused := make(chan error, 1)
	go func() {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := c.Get("http://" + addrs["app"].String())
		if err == nil {
			_ = resp.Body.Close()
		}
		refused <- err
	}()
	<-entered
	require.ErrorIs(t, stop(), context.DeadlineExceeded)
	assert.Error(t, <-refused, "what is left at the deadline is cut, not answered")
}
