package routing_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
	"github.com/gatemesh-go/gatemesh/routing"
)

// TestLC01_Lifecycle does not run in parallel: it counts what is left.
func TestLC01_Lifecycle(t *testing.T) {
	cfg := routing.Config{Routes: []routing.Route{to("all", backend)}, Upstreams: at(serve(t, echo))}
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	start := func() (*routing.Router, func()) {
		r, err := routing.New(cfg)
		require.NoError(t, err)
		h := gatemesh.Must(gatemesh.NewChain(entry, r.Layer())).Handler(r.Proxy())
		return r, func() {
			for _, contentType := range []string{"", "application/grpc"} { // one for each transport
				req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
				req.Header.Set("Content-Type", contentType)
				req.ProtoMajor, req.Proto = 2, "HTTP/2.0"
				w := httptest.NewRecorder()
				h.ServeHTTP(w, req)
				require.Equal(t, 200, w.Code)
			}
		}
	}
	require.NoError(t, leaktest.Check(unlessRacing(1000, 200), func() {
		r, use := start()
		use()
		require.NoError(t, r.Update(cfg))
		use()
		require.NoError(t, r.Close())
		require.NoError(t, r.Close())
	}))
	require.NoError(t, leaktest.Check(100, func() {
		r, use := start()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(use)
			wg.Go(func() { _ = r.Close() })
		}
		wg.Wait()
		require.NoError(t, r.Close(), "when the proxy serves no more")
	}), "closed while it is used")
}
