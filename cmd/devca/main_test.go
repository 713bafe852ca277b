package main

import (
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "gm")
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(dir)) }()
	socket := filepath.Join(dir, "s", "ca")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"-socket", socket, "-trust-domain", "td.example", "-lifetime", "10m", "-allow", "spiffe://td.example/a,spiffe://td.example/b"}, io.Discard)
	}()
	c, err := devca.NewClient(t.Context(), devca.ClientConfig{ID: "spiffe://td.example/b", Socket: socket})
	require.NoError(t, err)
	leaf := c.Credentials().Certificate.Leaf
	assert.Less(t, leaf.NotAfter.Sub(leaf.NotBefore).Minutes(), 12.0)
	require.NoError(t, c.Close())
	_, err = devca.NewClient(t.Context(), devca.ClientConfig{ID: "spiffe://td.example/c", Socket: socket})
	assert.ErrorContains(t, err, "not allowed")
	stop()
	require.NoError(t, <-done)
	assert.NoFileExists(t, socket)
}

func TestRun_Invalid(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"TrustDomain":         {"-trust-domain", "A B"},
		"RootLifetime":        {"-root-lifetime", "1s"},
		"Lifetime":            {"-lifetime", "-1s"},
		"Socket":              {"-socket", "127.0.0.1:8080"},
		"Allow":               {"-allow", "x"},
		"unexpected argument": {"x"},
	} {
		assert.ErrorContains(t, run(t.Context(), args, io.Discard), want)
	}
	assert.ErrorIs(t, run(t.Context(), []string{"-h"}, io.Discard), flag.ErrHelp)
}
