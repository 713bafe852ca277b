package mtls_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// TestLC01_Files does not run in parallel: it counts what is left.
func TestLC01_Files(t *testing.T) {
	ca := gatemesh.Must(devca.New(domain))
	dirs := []string{t.TempDir(), t.TempDir()}
	for _, d := range dirs {
		issue(t, ca, callee).write(t, d)
	}
	work := t.TempDir()
	link := filepath.Join(work, "data")
	point := func(at string) {
		next := filepath.Join(work, "next")
		require.NoError(t, os.Symlink(at, next))
		require.NoError(t, os.Rename(next, link))
	}
	cfg := filesIn(link)
	cfg.Interval = time.Millisecond
	require.NoError(t, leaktest.Check(1000, func() {
		point(dirs[0])
		f, err := mtls.NewFiles(cfg)
		require.NoError(t, err)
		first := f.Credentials()
		point(dirs[1])
		require.Eventually(t, func() bool { return f.Credentials() != first }, time.Minute, time.Millisecond)
		point(dirs[0]) // may be read while it is closed
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { assert.NoError(t, f.Close()) })
			wg.Go(func() { assert.NotNil(t, f.Credentials()) })
		}
		wg.Wait()
		require.NoError(t, f.Close())
	}))
}

// TestLC01_Transport does not run in parallel: it counts what is left.
func TestLC01_Transport(t *testing.T) {
	_, server, client, _, source := pair(t)
	// HTTP/1.1, of which a connection is idle when the body has been read.
	addr, _ := serve(t, server.ServerConfig(), false, http.NotFoundHandler())
	first := source.Load()
	second, err := mtls.NewCredentials(first.Certificate, first.Bundles)
	require.NoError(t, err)
	use := func(tr *mtls.Transport) {
		status, _, _, err := get(t, tr, addr)
		require.Equal(t, 404, status, errors.Join(err))
	}
	require.NoError(t, leaktest.Check(1000, func() {
		source.Store(first)
		tr, err := client.Transport(exactly(t, callee))
		require.NoError(t, err)
		use(tr)
		require.NoError(t, client.Update(mtls.Config{Source: source, Authorize: member(t)}))
		source.Store(second)
		use(tr)
		tr.CloseIdleConnections()
		tr.CloseIdleConnections()
	}))
	require.NoError(t, leaktest.Check(100, func() {
		tr, err := client.Transport(exactly(t, callee))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for _, c := range []*mtls.Credentials{first, second} {
			wg.Go(func() { use(tr) })
			wg.Go(func() { source.Store(c); tr.CloseIdleConnections() })
		}
		wg.Wait()
		tr.CloseIdleConnections()
	}), "closed while it is used, and the credentials change")
}
