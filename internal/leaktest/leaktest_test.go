package leaktest_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/internal/leaktest"
	"github.com/gatemesh-go/gatemesh/internal/race"
)

func TestCheck(t *testing.T) {
	stop := make(chan struct{})
	var files []*os.File
	open := func() {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		files = append(files, f)
	}
	ended := func() {
		done := make(chan struct{})
		go close(done)
		<-done
	}
	assert.NoError(t, leaktest.Check(10, ended))
	assert.ErrorContains(t, leaktest.Check(1, func() { go func() { <-stop }() }), "unexpected goroutines")
	if runtime.GOOS == "linux" {
		assert.ErrorContains(t, leaktest.Check(4, open), fmt.Sprintf("file descriptors before %d cycles", race.Fewer(4)))
	}
	close(stop)
	for _, f := range files {
		assert.NoError(t, f.Close())
	}
}
