package devca_test

import (
	"io"
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

// conns is a listener with connections that are there already.
type conns chan net.Conn

func (c conns) Accept() (net.Conn, error) { return <-c, nil }
func (c conns) Close() error              { return nil }
func (c conns) Addr() net.Addr            { return nil }

func TestGuarded(t *testing.T) {
	t.Parallel()
	path := socket(t)
	newServer(t, devca.ServerConfig{CA: gatemesh.Must(devca.New("cluster.local")), Socket: path})
	same, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer func() { require.NoError(t, same.Close()) }()
	ours, stranger := net.Pipe()
	l := make(conns, 2)
	l <- stranger
	l <- same
	var heard events
	got, err := devca.Guarded(l, &heard).Accept()
	require.NoError(t, err)
	assert.Same(t, same, got, "the other one was passed over")
	_, err = ours.Write([]byte("x"))
	assert.ErrorIs(t, err, io.ErrClosedPipe)
	assert.EqualValues(t, 1, heard.notices.Load())
}

func TestSameUser(t *testing.T) {
	t.Parallel()
	assert.NoError(t, devca.SameUser(1000, 1000))
	assert.ErrorContains(t, devca.SameUser(1001, 1000), "1001")
	assert.Error(t, devca.SameUser(0, 1000), "not even root, which would not need us")
}
