package mtls_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls"
)

// closer notes that a request body was closed.
type closer struct {
	io.Reader
	closed atomic.Bool
}

func (c *closer) Close() error { c.closed.Store(true); return nil }

func TestTransport_PlainText(t *testing.T) {
	t.Parallel()
	_, _, client, _, _ := pair(t)
	var hits atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer srv.Close()
	tr := transport(t, client, exactly(t, callee))
	body := &closer{Reader: strings.NewReader("secret")}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, body)
	require.NoError(t, err)
	_, err = tr.RoundTrip(r)
	assert.ErrorContains(t, err, "https")
	assert.True(t, body.closed.Load())
	assert.Zero(t, hits.Load())
}

func TestTransport_Proxy(t *testing.T) {
	_, server, client, _, _ := pair(t)
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	addr, _ := serve(t, server.ServerConfig(), true, http.NotFoundHandler())
	status, _, _, err := get(t, transport(t, client, exactly(t, callee)), addr)
	require.NoError(t, err)
	assert.Equal(t, 404, status)
}

// Two callees at one address do not share a connection.
func TestTransport_OwnPool(t *testing.T) {
	t.Parallel()
	_, server, client, _, _ := pair(t)
	addr, conns := serve(t, server.ServerConfig(), true, http.NotFoundHandler())
	right := transport(t, client, exactly(t, callee))
	_, _, _, err := get(t, right, addr)
	require.NoError(t, err)
	_, _, _, err = get(t, transport(t, client, exactly(t, caller)), addr)
	require.ErrorContains(t, err, "is not the callee")
	require.EqualValues(t, 2, conns.Load())
}

// New credentials mean new connections, and a request under way is not cut.
func TestTransport_Renewal(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		root, server, client, _, clientSource := pair(t)
		hold, held := make(chan struct{}), make(chan struct{})
		var waits atomic.Bool
		addr, conns := serve(t, server.ServerConfig(), http2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serial := r.TLS.PeerCertificates[0].SerialNumber.String()
			if waits.CompareAndSwap(false, true) { // the first request is answered last
				_ = http.NewResponseController(w).Flush()
				close(held)
				<-hold
			}
			_, _ = io.WriteString(w, serial)
		}))
		tr := transport(t, client, exactly(t, callee))
		old := clientSource.Load().Certificate.Leaf.SerialNumber.String()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _, body, err := get(t, tr, addr)
			assert.NoError(t, err)
			assert.Equal(t, old, body)
		})
		<-held
		clientSource.Store(newSource(t, root.leaf(t, caller), bundles(t, root)).Load())
		for range 3 {
			_, _, body, err := get(t, tr, addr)
			require.NoError(t, err)
			require.Equal(t, clientSource.Load().Certificate.Leaf.SerialNumber.String(), body)
		}
		require.EqualValues(t, 2, conns.Load())
		close(hold)
		wg.Wait()
	}
}

// A server that has lost the client's trust loses its connections, too.
func TestTransport_TrustRemoved(t *testing.T) {
	t.Parallel()
	_, server, client, _, clientSource := pair(t)
	addr, _ := serve(t, server.ServerConfig(), true, http.NotFoundHandler())
	tr := transport(t, client, exactly(t, callee))
	_, _, _, err := get(t, tr, addr)
	require.NoError(t, err)
	clientSource.trust(t, bundles(t, newAuthority(t)))
	_, _, _, err = get(t, tr, addr)
	require.Error(t, err)
}

// The callee is not followed to wherever it points.
func TestTransport_Redirect(t *testing.T) {
	t.Parallel()
	root, server, client, _, _ := pair(t)
	var hits atomic.Int64
	other := newTLS(t, newSource(t, root.leaf(t, "spiffe://td.example/ns/prod/sa/other"), bundles(t, root)))
	there, _ := serve(t, other.ServerConfig(), true, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	here, _ := serve(t, server.ServerConfig(), true, http.RedirectHandler("https://"+there+"/", http.StatusTemporaryRedirect))
	c := &http.Client{Transport: transport(t, client, exactly(t, callee))}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+here+"/", nil)
	require.NoError(t, err)
	resp, err := c.Do(r)
	if err == nil {
		_ = resp.Body.Close()
	}
	require.Error(t, err)
	assert.Zero(t, hits.Load())
}

func TestTransport_Concurrent(t *testing.T) {
	t.Parallel()
	root, server, client, _, clientSource := pair(t)
	addr, _ := serve(t, server.ServerConfig(), true, http.NotFoundHandler())
	tr := transport(t, client, exactly(t, callee))
	next := make([]*mtls.Credentials, 5)
	for i := range next {
		next[i] = newSource(t, root.leaf(t, caller), bundles(t, root)).Load()
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				status, _, _, err := get(t, tr, addr)
				assert.Equal(t, 404, status, errors.Join(err))
			}
		})
	}
	for _, c := range next {
		clientSource.Store(c)
	}
	wg.Wait()
}
