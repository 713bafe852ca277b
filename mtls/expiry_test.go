package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// lives changes a template to be valid from now on.
func lives(life time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now(), time.Now().Add(life) }
}

// said is what an Observer was told about our certificate.
func said(e *events) (out []string) {
	for _, ev := range e.take() {
		kind := "notice"
		if ev.Kind == gatemesh.EventFault {
			kind = "fault"
		}
		out = append(out, kind+": "+ev.Message)
	}
	return out
}

const (
	late    = "notice: our certificate should have been renewed"
	soon    = "fault: our certificate expires soon"
	expired = "fault: our certificate has expired"
)

// Each step is said once for each certificate, by whatever looks at it.
func TestExpiry(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(t *testing.T, m *mtls.TLS, c *gatemesh.Call){
		"poll": func(_ *testing.T, m *mtls.TLS, _ *gatemesh.Call) { m.Status() },
		"handshake of a server": func(t *testing.T, m *mtls.TLS, _ *gatemesh.Call) {
			_, err := m.ServerConfig().GetCertificate(&tls.ClientHelloInfo{})
			require.NoError(t, err)
		},
		"handshake of a client": func(t *testing.T, m *mtls.TLS, _ *gatemesh.Call) {
			cfg, err := m.ClientConfig(deny)
			require.NoError(t, err)
			_, err = cfg.GetClientCertificate(&tls.CertificateRequestInfo{})
			require.NoError(t, err)
		},
		"call": func(t *testing.T, m *mtls.TLS, c *gatemesh.Call) {
			_, err := m.Revalidate(t.Context(), c)
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				root := newAuthority(t)
				life := 100 * time.Minute
				s := newSource(t, root.leafWith(t, lives(life), callee), bundles(t, root))
				seen := &events{}
				m, err := mtls.New(mtls.Config{Source: s, Authorize: member(t), Observer: seen})
				require.NoError(t, err)
				c := callFrom(t, m, received(root.leafWith(t, lives(10*time.Hour), caller)))
				start := time.Now().Truncate(time.Second) // as certificates do
				until := func(d time.Duration) { time.Sleep(time.Until(start.Add(d))) }
				both := func() []string {
					look(t, m, c)
					first := said(seen)
					look(t, m, c)
					require.Empty(t, said(seen), "once")
					return first
				}
				require.Empty(t, both())
				until(75*time.Minute - 1)
				require.Empty(t, both())
				until(75 * time.Minute)
				require.Equal(t, []string{late}, both())
				s.trust(t, bundles(t, root, newAuthority(t)))
				require.Empty(t, both(), "other bundles are no other certificate")
				until(90*time.Minute - 1)
				require.Empty(t, both())
				until(90 * time.Minute)
				require.Equal(t, []string{soon}, both())
				until(100 * time.Minute)
				require.Empty(t, both(), "the last moment of its life")
				until(100*time.Minute + 1)
				require.Equal(t, []string{expired}, both())

				old := s.Load()
				fresh := newSource(t, root.leafWith(t, lives(life), callee), bundles(t, root)).Load()
				s.Store(fresh)
				require.Empty(t, both())
				s.Store(old)
				require.Empty(t, both(), "nothing is said twice")
				s.Store(fresh)
				time.Sleep(3 * life)
				require.Equal(t, []string{expired}, both(), "the latest step is the news")
			})
		})
	}
}

// Sources that renew in time are not heard of.
func TestExpiry_RenewedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := newAuthority(t)
		seen := &events{}
		s := newSource(t, root.leafWith(t, lives(time.Hour), callee), bundles(t, root))
		m, err := mtls.New(mtls.Config{Source: s, Authorize: member(t), Observer: seen})
		require.NoError(t, err)
		for range 10 {
			time.Sleep(40 * time.Minute)
			m.Status()
			s.Store(newSource(t, root.leafWith(t, lives(time.Hour), callee), bundles(t, root)).Load())
			m.Status()
		}
		assert.Empty(t, said(seen))
	})
}

// An intermediate that ends earlier ends us.
func TestStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := newAuthority(t)
		between := sign(t, root, func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
		})
		leaf := sign(t, between, func(c *x509.Certificate) {
			lives(10 * time.Hour)(c)
			c.URIs = []*url.URL{{Opaque: callee}}
		})
		s := newSource(t, leaf.tls(between), bundles(t, root))
		m := newTLS(t, s)
		st := m.Status()
		assert.Equal(t, callee, st.ID.String())
		assert.True(t, st.NotBefore.Equal(leaf.cert.NotBefore), "%s", st.NotBefore)
		assert.True(t, st.NotAfter.Equal(between.cert.NotAfter), "%s", st.NotAfter)

		s.Store(&mtls.Credentials{}) // against the rules
		assert.Zero(t, m.Status())
		s.Store(nil)
		assert.Zero(t, m.Status())
	})
}

// Many at once say it once.
func TestExpiry_Concurrent(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	s := newSource(t, root.leafWith(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, callee), bundles(t, root))
	for range 2000 {
		seen := &events{}
		m, err := mtls.New(mtls.Config{Source: s, Authorize: deny, Observer: seen})
		require.NoError(t, err)
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				<-start
				m.Status()
			})
		}
		close(start)
		wg.Wait()
		require.Equal(t, []string{expired}, said(seen))
	}
}
