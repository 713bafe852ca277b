package gatemesh_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// What EntryConfig.Peer says of a bad certificate reaches the client if it is
// a Denial: one that closes the connection must do so.
func TestPeerRefusal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		err        error
		status     int
		connection string
	}{
		{"denial", gatemesh.Deny(gatemesh.PermissionDenied, "peer_not_allowed", "No.").WithField("Connection", "close"), 403, "close"},
		{"error", errors.New("a detail for the log"), 401, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{
				Peer: func(*tls.ConnectionState) (*gatemesh.Peer, error) { return nil, c.err },
			})
			require.NoError(t, err)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.TLS = &tls.ConnectionState{}
			w := httptest.NewRecorder()
			entry.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("admitted") })).ServeHTTP(w, r)
			assert.Equal(t, c.status, w.Code)
			assert.Equal(t, c.connection, w.Header().Get("Connection"))
			assert.NotContains(t, w.Body.String(), "detail for the log")
		})
	}
}

// A workload whose request id is kept is not believed about anything else.
func TestTrustRequestID(t *testing.T) {
	t.Parallel()
	peer, err := gatemesh.NewPeer("cluster.local", "/ns/a/sa/b", nil)
	require.NoError(t, err)
	for _, c := range []struct {
		name       string
		trust      func(*gatemesh.Peer) bool
		client, id string
	}{
		{"its id", nil, "192.0.2.1", "abc"},
		{"all of it", gatemesh.AnyPeer, "198.51.100.7", "abc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{
				Peer:      func(*tls.ConnectionState) (*gatemesh.Peer, error) { return peer, nil },
				TrustPeer: c.trust, TrustRequestID: gatemesh.AnyPeer,
			})
			require.NoError(t, err)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.TLS = &tls.ConnectionState{}
			r.Header.Set("X-Forwarded-For", "198.51.100.7")
			r.Header.Set("X-Request-Id", "abc")
			entry.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				call := gatemesh.FromContext(r.Context())
				assert.Equal(t, c.client, call.Client().String())
				assert.Equal(t, c.id, call.RequestID())
				assert.Equal(t, c.trust == nil, r.Header.Get("X-Forwarded-For") == "")
			})).ServeHTTP(httptest.NewRecorder(), r)
		})
	}
}
