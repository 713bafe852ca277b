package mtls_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// A TLS that New did not make is nobody: it admits nobody, reaches nobody and
// does not panic.
func TestZeroTLS(t *testing.T) {
	t.Parallel()
	_, m, client, s, cs := pair(t)
	state := received(cs.Load().Certificate)
	p, err := m.Peer(state)
	require.NoError(t, err)

	zero := &mtls.TLS{}
	assert.Nil(t, zero.Credentials())
	assert.Zero(t, zero.Status())
	assert.Contains(t, fmt.Sprint(zero), "without credentials")
	_, err = zero.Peer(state)
	requireDenial(t, err, gatemesh.Unauthenticated, "peer_invalid", true)
	for _, p := range []*gatemesh.Peer{nil, p} {
		_, err = zero.Admit(t.Context(), callOf(t, gatemesh.HTTP, p))
		assert.Error(t, err)
		_, err = zero.Revalidate(t.Context(), callOf(t, gatemesh.HTTP, p))
		assert.Error(t, err)
	}
	addr := serveBoth(t, zero, zero.Handler(http.NotFoundHandler()))
	_, _, _, err = get(t, transport(t, client, exactly(t, callee)), addr)
	assert.Error(t, err)
	status, _, _, err := getPlain(t, plainClient(t, false), addr, nil)
	require.NoError(t, err)
	assert.Equal(t, 400, status, "net/http's answer to plain text at a port with TLS")
	_, _, _, err = get(t, transport(t, zero, exactly(t, callee)), addr)
	assert.ErrorContains(t, err, "no credentials")

	require.NoError(t, zero.Update(mtls.Config{Source: s, Authorize: member(t)}))
	_, err = zero.Peer(state)
	assert.NoError(t, err, "Update makes it somebody")
}

func TestZeroTransport(t *testing.T) {
	t.Parallel()
	zero := &mtls.Transport{}
	zero.CloseIdleConnections()
	_, _, _, err := get(t, zero, "127.0.0.1:1")
	assert.ErrorContains(t, err, "not made by TLS.Transport")
}
