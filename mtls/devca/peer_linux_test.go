package devca_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// TestServer_PeerUser: only processes of the same user, by the kernel's word.
func TestServer_PeerUser(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer func() { require.NoError(t, ours.Close()); require.NoError(t, theirs.Close()) }()
	assert.Error(t, devca.SamePeer(ours), "no kernel vouches for it")
	path := socket(t)
	newServer(t, devca.ServerConfig{CA: gatemesh.Must(devca.New("cluster.local")), Socket: path})
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	assert.NoError(t, devca.SamePeer(c))
}

func TestSameUser(t *testing.T) {
	t.Parallel()
	assert.NoError(t, devca.SameUser(1000, 1000))
	assert.ErrorContains(t, devca.SameUser(1001, 1000), "1001")
	assert.Error(t, devca.SameUser(0, 1000), "not even root, which would not need us")
}
