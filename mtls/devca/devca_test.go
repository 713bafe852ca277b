package devca_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const id = "spiffe://cluster.local/ns/prod/sa/a"

func TestNew_Invalid(t *testing.T) {
	t.Parallel()
	for _, td := range []string{"", "Cluster.Local", "cluster.local/x", "spiffe://cluster.local", "a:1", "a b"} {
		_, err := devca.New(td)
		assert.Error(t, err, td)
	}
	ca := gatemesh.Must(devca.New("cluster.local"))
	for _, id := range []string{"", "spiffe://cluster.local", "spiffe://other/a", "x"} {
		_, err := ca.Issue(id, time.Hour)
		assert.Error(t, err, id)
	}
	_, err := ca.Issue(id, 0)
	assert.Error(t, err)
	_, err = ca.ServerCertificate()
	assert.Error(t, err)
	_, err = ca.Source(devca.WorkloadConfig{Lifetime: -1})
	assert.ErrorContains(t, err, "Workload")
	assert.ErrorContains(t, err, "Lifetime")
	_, err = ca.Source(devca.WorkloadConfig{ID: "spiffe://other/a"})
	assert.Error(t, err)
}

func TestSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New("cluster.local"))
		assert.Equal(t, "cluster.local", ca.TrustDomain())
		s := gatemesh.Must(ca.Source(devca.WorkloadConfig{Workload: gatemesh.Workload{
			Name: "a", TrustDomain: "cluster.local", Namespace: "prod", ServiceAccount: "a",
		}}))
		first := s.Credentials()
		assert.Same(t, first, s.Credentials())
		assert.Equal(t, id, first.ID.String())
		leaf := first.Certificate.Leaf
		assert.Equal(t, time.Now().Add(time.Hour).UTC(), leaf.NotAfter)
		assert.Len(t, ca.Bundle(), 1)

		require.NoError(t, s.Renew())
		second := s.Credentials()
		assert.NotEqual(t, leaf.PublicKey, second.Certificate.Leaf.PublicKey, "a new key")
		assert.Same(t, first.Bundles, second.Bundles)

		require.NoError(t, ca.Rotate())
		third := s.Credentials()
		assert.Equal(t, second.Certificate.Leaf, third.Certificate.Leaf)
		assert.NotSame(t, second.Bundles, third.Bundles)
		assert.Same(t, third, s.Credentials())
		assert.Len(t, ca.Bundle(), 2)
		verifies := func(want bool) {
			t.Helper()
			_, err := s.Credentials().Certificate.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool()})
			assert.Equal(t, want, err == nil, err)
		}
		verifies(true)
		require.NoError(t, ca.Retire())
		verifies(false)
		require.NoError(t, s.Renew())
		verifies(true)
		assert.Len(t, ca.Bundle(), 1)
	})
}

func TestSource_Concurrent(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("cluster.local"))
	s := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: id}))
	var wg sync.WaitGroup
	for _, f := range []func() error{ca.Rotate, ca.Retire, s.Renew} {
		wg.Go(func() {
			for range 20 {
				assert.NoError(t, f())
			}
		})
	}
	wg.Go(func() {
		for range 1000 {
			assert.Equal(t, id, s.Credentials().ID.String())
		}
	})
	wg.Wait()
}

func TestServerCertificate(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("cluster.local"))
	cert := gatemesh.Must(ca.ServerCertificate("shop.example", "127.0.0.1", "::1"))
	for _, name := range []string{"shop.example", "127.0.0.1", "::1"} {
		_, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: name})
		assert.NoError(t, err, name)
	}
	_, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), DNSName: "other.example"})
	assert.Error(t, err)
	assert.Empty(t, cert.Leaf.URIs, "no workload")
}

func TestWriteFiles(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New("cluster.local"))
	s := gatemesh.Must(ca.Source(devca.WorkloadConfig{ID: id}))
	dir := t.TempDir()
	for range 2 { // again over what is there
		require.NoError(t, s.WriteFiles(dir))
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 3, "nothing temporary is left")
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
	}
	f, err := mtls.NewFiles(mtls.FilesConfig{
		Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), Bundle: filepath.Join(dir, "ca.crt"),
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	assert.Equal(t, s.Credentials().Certificate.Leaf.Raw, f.Credentials().Certificate.Leaf.Raw)
	assert.Error(t, s.WriteFiles(filepath.Join(dir, "absent")))
}
