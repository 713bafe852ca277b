package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls"
)

// At the edge, strangers are everybody: crypto/tls would verify their
// certificates before anybody could look at them. See TestF10_MazeOfIntermediates.
func TestF10_MazeAtTheEdge(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	for _, mode := range []mtls.EdgeClients{mtls.EdgeClientsOptional, mtls.EdgeClientsRequired} {
		for _, version := range versions {
			e, _ := door(t, root, mode, root)
			a, b := wire()
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = tls.Client(b, sends(visitor(root, version, "a.example"), maze(t, "root"))).Read(make([]byte, 1))
			}()
			err := tls.Server(a, e.TLSConfig()).HandshakeContext(t.Context())
			_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
			assert.True(t, unknown, "%v", err)
			_ = a.Close()
			_ = b.Close()
			<-done
		}
	}
}

// MTLS-05 for the edge: a client that has a newer certificate already does not
// have to find out that its session is worth nothing any more.
func TestMTLS05_EdgeNewerCertificate(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		synctest.Test(t, func(t *testing.T) {
			site, old, next := newAuthority(t), newAuthority(t), newAuthority(t)
			short := sign(t, old, func(c *x509.Certificate) {
				c.Subject, c.IsCA, c.KeyUsage = pkix.Name{CommonName: "short"}, true, x509.KeyUsageCertSign
				c.NotAfter = time.Now().Add(time.Minute)
			})
			below := sign(t, short, func(*x509.Certificate) {}).tls(short)
			for name, c := range map[string]struct {
				first, second tls.Certificate
				change        func(e *mtls.Edge, cfg mtls.EdgeConfig)
				resumed       bool
			}{
				"root replaced": {customer(t, old), customer(t, next), func(_ *mtls.Edge, cfg mtls.EdgeConfig) {
					putRoots(t, cfg.ClientCA, next)
					time.Sleep(10 * time.Second)
				}, false},
				"intermediate expired": {below, customer(t, old), func(*mtls.Edge, mtls.EdgeConfig) { time.Sleep(2 * time.Minute) }, false},
				"not asked before": {tls.Certificate{}, customer(t, old), func(e *mtls.Edge, cfg mtls.EdgeConfig) {
					require.NoError(t, e.Update(cfg))
				}, false},
				"other file, same roots": {customer(t, old), customer(t, old), func(e *mtls.Edge, cfg mtls.EdgeConfig) {
					cfg.ClientCA = filepath.Join(t.TempDir(), "ca.crt")
					putRoots(t, cfg.ClientCA, old, next)
					require.NoError(t, e.Update(cfg))
				}, true},
			} {
				e, cfg := door(t, site, mtls.EdgeClientsRequired, old, next)
				if c.first.Certificate == nil {
					ignoring := cfg
					ignoring.Clients, ignoring.ClientCA = mtls.EdgeClientsIgnored, ""
					require.NoError(t, e.Update(ignoring))
				}
				v := sends(visitor(site, version, "a.example"), c.first)
				start := time.Now()
				v.Time = func() time.Time { return start } // it goes on to offer its session
				require.False(t, resumes(t, e, v), name)
				require.True(t, resumes(t, e, v), name)
				c.change(e, cfg)
				synctest.Wait()
				sends(v, c.second)
				ours, _, err := shake(t, e.TLSConfig(), v)
				require.NoError(t, err, "%s, %s", name, tls.VersionName(version))
				assert.Equal(t, c.resumed, ours.DidResume, "%s, %s", name, tls.VersionName(version))
				assert.True(t, resumes(t, e, v), "%s: and then again", name)
			}
		})
	}
}
