//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package devca_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// Of the servers that find a dead socket at the same time, one serves. Two would
// tear the mesh: each has a root of its own.
func TestNewServer_AtOnce(t *testing.T) {
	t.Parallel()
	ca, path := gatemesh.Must(devca.New("cluster.local")), socket(t)
	require.NoError(t, newServer(t, devca.ServerConfig{CA: ca, Socket: path}).Close()) // makes the folder
	for range 50 {
		dead, err := net.Listen("unix", path)
		require.NoError(t, err)
		dead.(*net.UnixListener).SetUnlinkOnClose(false)
		require.NoError(t, dead.Close())
		var served atomic.Int32
		var started, ended sync.WaitGroup
		started.Add(6)
		for range 6 {
			ended.Go(func() {
				s, err := devca.NewServer(devca.ServerConfig{CA: ca, Socket: path})
				started.Done()
				if err == nil {
					served.Add(1)
					started.Wait() // nobody comes after it
					assert.NoError(t, s.Close())
				}
			})
		}
		ended.Wait()
		require.EqualValues(t, 1, served.Load())
	}
}
