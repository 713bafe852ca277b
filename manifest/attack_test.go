package manifest_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
)

// A policy that stands in a folder twice is one fault.
func TestPeerAuthentication_Twice(t *testing.T) {
	t.Parallel()
	const doc = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {mtls: {mode: STRICT}}\n"
	_, err := manifest.Parse("a.yaml", []byte(doc+doc))
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "\n")
	assert.NotContains(t, err.Error(), "same workloads")
}

// A panic of Apply is a refusal: it does not end the process that goes on with
// what it has.
func TestWatcherPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		var faults []string
		dir := t.TempDir()
		write(t, dir+"/a.yaml", allowing("one"))
		w, err := manifest.NewWatcher(manifest.WatcherConfig{
			Dir: dir, Interval: time.Second,
			Apply: func(*manifest.Set) error {
				if tries.Add(1) < 3 {
					panic("oops")
				}
				return nil
			},
			Observer: gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
				if e.Err != nil {
					faults = append(faults, e.Err.Error())
				}
			}),
		})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		require.NoError(t, w.Close())
		assert.Equal(t, int32(3), tries.Load(), "it is offered again until it is taken")
		assert.Equal(t, []string{"manifest: Apply panicked: oops"}, faults)
	})
}
