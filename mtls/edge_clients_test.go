package mtls_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// customer returns a client certificate.
func customer(t testing.TB, a authority, ids ...string) tls.Certificate {
	t.Helper()
	return a.leafWith(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, ids...)
}

func rsaSite(t testing.TB, a authority, name string) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name},
		KeyUsage: x509.KeyUsageDigitalSignature,
	}, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// sends makes a client send its certificate, whatever the server would accept.
func sends(c *tls.Config, cert tls.Certificate) *tls.Config {
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return c
}

// door returns an edge that asks clients for certificates of roots.
func door(t testing.TB, site authority, mode mtls.EdgeClients, roots ...authority) (e *mtls.Edge, cfg mtls.EdgeConfig) {
	t.Helper()
	cfg = mtls.EdgeConfig{
		Certificates: []tls.Certificate{site.siteWith(t, func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(1, 0, 0) }, "a.example")},
		Clients:      mode, ClientCA: filepath.Join(t.TempDir(), "ca.crt"),
	}
	putRoots(t, cfg.ClientCA, roots...)
	return newEdge(t, cfg), cfg
}

func putRoots(t testing.TB, path string, roots ...authority) {
	t.Helper()
	var all []byte
	for _, r := range roots {
		all = append(all, r.pem(t)...)
	}
	put(t, path, all)
}

func TestEdge_Clients(t *testing.T) {
	t.Parallel()
	root, stranger := newAuthority(t), newAuthority(t)
	good := customer(t, root)
	anyURI := customer(t, root, "https://customer.example/1")
	long := customer(t, root)
	for range 10 {
		long.Certificate = append(long.Certificate, root.cert.Raw)
	}
	for name, c := range map[string]struct {
		cert               tls.Certificate
		optional, required bool
	}{
		"none":         {tls.Certificate{}, true, false},
		"good":         {good, true, true},
		"other URI":    {anyURI, true, true},
		"long chain":   {long, false, false},
		"stranger":     {customer(t, stranger), false, false},
		"self-signed":  {stranger.tls(), false, false},
		"for servers":  {root.site(t, "a.example"), false, false},
		"expired":      {root.leafWith(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), false, false},
		"early":        {root.leafWith(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), false, false},
		"a workload's": {customer(t, root, caller), false, false},
		"SPIFFE":       {customer(t, root, "SPIFFE://td.example/x"), false, false},
		"half SPIFFE":  {customer(t, root, "https://x.example", "spiffe://td.example"), false, false},
	} {
		for _, version := range versions {
			for _, mode := range []mtls.EdgeClients{mtls.EdgeClientsIgnored, mtls.EdgeClientsOptional, mtls.EdgeClientsRequired} {
				e, cfg := door(t, root, mtls.EdgeClientsRequired, root)
				if cfg.Clients = mode; mode == mtls.EdgeClientsIgnored {
					cfg.ClientCA = ""
				}
				require.NoError(t, e.Update(cfg))
				ours, _, err := shake(t, e.TLSConfig(), sends(visitor(root, version, "a.example"), c.cert))
				welcome := map[mtls.EdgeClients]bool{mtls.EdgeClientsOptional: c.optional, mtls.EdgeClientsRequired: c.required, mtls.EdgeClientsIgnored: true}[mode]
				assert.Equal(t, welcome, err == nil, "%s, mode %d: %v", name, mode, err)
				if !welcome {
					continue
				}
				leaf, err := e.Client(&ours)
				require.NoError(t, err)
				if mode == mtls.EdgeClientsIgnored || c.cert.Certificate == nil {
					assert.Nil(t, leaf)
				} else {
					assert.Equal(t, c.cert.Certificate[0], leaf.Raw)
				}
			}
		}
	}
}

// One authority for customers and workloads: neither is taken for the other.
func TestEdge_ClientIsNoPeer(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	m := newTLS(t, newSource(t, root.leaf(t, callee), bundles(t, root)))
	e, _ := door(t, root, mtls.EdgeClientsOptional, root)
	for _, cert := range []tls.Certificate{customer(t, root), customer(t, root, "https://customer.example/1")} {
		ours, _, err := shake(t, e.TLSConfig(), sends(visitor(root, tls.VersionTLS13, "a.example"), cert))
		require.NoError(t, err)
		p, err := m.Peer(&ours)
		var d *gatemesh.Denial
		require.ErrorAs(t, err, &d)
		assert.Equal(t, "peer_invalid", d.Reason)
		assert.Nil(t, p)
	}
	workload := customer(t, root, caller)
	p, err := m.Peer(received(workload))
	require.NoError(t, err)
	require.NotNil(t, p, "good in the mesh")
	_, _, err = shake(t, e.TLSConfig(), sends(visitor(root, tls.VersionTLS13, "a.example"), workload))
	require.Error(t, err)
	leaf, err := e.Client(received(workload))
	require.ErrorContains(t, err, "workload")
	assert.Nil(t, leaf)
	_, err = e.Client(&tls.ConnectionState{PeerCertificates: received(customer(t, root)).PeerCertificates})
	require.ErrorContains(t, err, "handshake")
	leaf, err = e.Client(nil)
	require.NoError(t, err)
	assert.Nil(t, leaf)
}

// MTLS-04 for the edge: at the start an error, then the last good authorities,
// and never those of the system or none.
func TestMTLS04_Edge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root, stranger := newAuthority(t), newAuthority(t)
		e, cfg := door(t, root, mtls.EdgeClientsRequired, root)
		seen := &events{}
		cfg.Observer = seen
		require.NoError(t, e.Update(cfg))
		good := root.pem(t)
		for name, data := range map[string][]byte{
			"missing": nil, "empty": {}, "garbage": []byte("\x00garbage\n"), "a key": pems(t, root.tls(), nil).key,
			"a leaf": pems(t, customer(t, root), nil).cert, "truncated": good[:len(good)/2], "and half a one": append(append([]byte{}, good...), good[:len(good)/2]...),
		} {
			broken := cfg
			broken.ClientCA = filepath.Join(t.TempDir(), "ca.crt")
			if data != nil {
				put(t, broken.ClientCA, data)
			}
			_, err := mtls.NewEdge(broken)
			require.ErrorContains(t, err, broken.ClientCA, name)
			require.ErrorContains(t, e.Update(broken), broken.ClientCA, name)

			put(t, cfg.ClientCA, data)
			time.Sleep(31 * time.Second) // three looks
			synctest.Wait()
			all := seen.take()
			require.Equal(t, []gatemesh.EventKind{gatemesh.EventFault}, kinds(all), "%s: once", name)
			assert.NotContains(t, all[0].Err.Error(), "PRIVATE KEY-----")
			for _, version := range versions {
				_, _, err = shake(t, e.TLSConfig(), sends(visitor(root, version, "a.example"), customer(t, root)))
				require.NoError(t, err, name)
				_, _, err = shake(t, e.TLSConfig(), sends(visitor(root, version, "a.example"), customer(t, stranger)))
				require.Error(t, err, name)
				_, _, err = shake(t, e.TLSConfig(), visitor(root, version, "a.example"))
				require.Error(t, err, name)
			}
			put(t, cfg.ClientCA, good)
			time.Sleep(11 * time.Second)
			synctest.Wait()
			assert.Empty(t, seen.take())
		}
		// Another authority is followed.
		putRoots(t, cfg.ClientCA, stranger)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		assert.Equal(t, []gatemesh.EventKind{gatemesh.EventNotice}, kinds(seen.take()))
		ours, _, err := shake(t, e.TLSConfig(), sends(visitor(root, tls.VersionTLS13, "a.example"), customer(t, stranger)))
		require.NoError(t, err)
		putRoots(t, cfg.ClientCA, root)
		time.Sleep(11 * time.Second)
		_, err = e.Client(&ours)
		require.Error(t, err, "on a live connection, too")
	})
}

// MTLS-05 for the edge: a session with a certificate of a client is judged when
// it is resumed, and a client with a newer certificate gets in with that.
func TestMTLS05_Edge(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		synctest.Test(t, func(t *testing.T) {
			site, old, next := newAuthority(t), newAuthority(t), newAuthority(t)
			for name, c := range map[string]struct {
				change func(e *mtls.Edge, cfg mtls.EdgeConfig)
				in     bool
			}{
				"nothing": {func(*mtls.Edge, mtls.EdgeConfig) {}, true},
				"root removed": {func(_ *mtls.Edge, cfg mtls.EdgeConfig) {
					putRoots(t, cfg.ClientCA, next)
					time.Sleep(10 * time.Second)
				}, false},
				"root removed by Update": {func(e *mtls.Edge, cfg mtls.EdgeConfig) {
					cfg.ClientCA = filepath.Join(t.TempDir(), "ca.crt")
					putRoots(t, cfg.ClientCA, next)
					require.NoError(t, e.Update(cfg))
				}, false},
				"expired": {func(*mtls.Edge, mtls.EdgeConfig) { time.Sleep(2 * time.Hour) }, false},
			} {
				for _, mode := range []mtls.EdgeClients{mtls.EdgeClientsOptional, mtls.EdgeClientsRequired} {
					e, cfg := door(t, site, mode, old, next)
					v := sends(visitor(site, version, "a.example"), customer(t, old))
					start := time.Now()
					v.Time = func() time.Time { return start } // it goes on to offer its session
					require.False(t, resumes(t, e, v))
					require.True(t, resumes(t, e, v))
					c.change(e, cfg)
					synctest.Wait()
					ours, _, err := shake(t, e.TLSConfig(), v)
					if c.in {
						require.NoError(t, err)
						require.True(t, ours.DidResume)
						continue
					}
					require.Error(t, err, "%s, mode %d", name, mode)
					sends(v, customer(t, next))
					_, _, err = shake(t, e.TLSConfig(), v)
					require.NoError(t, err, "%s: with a new certificate", name)
				}
			}

			// A session without a certificate is none where one is required.
			e, cfg := door(t, site, mtls.EdgeClientsOptional, old)
			v := visitor(site, version, "a.example")
			require.False(t, resumes(t, e, v))
			require.True(t, resumes(t, e, v))
			cfg.Clients = mtls.EdgeClientsRequired
			require.NoError(t, e.Update(cfg))
			_, _, err := shake(t, e.TLSConfig(), v)
			require.Error(t, err)
		})
	}
}

// What changes during a handshake counts for it.
func TestMTLS05_EdgeMeanwhile(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		root, next := newAuthority(t), newAuthority(t)
		cert := customer(t, root)
		for name, change := range map[string]func(cfg *mtls.EdgeConfig){
			"root removed": func(cfg *mtls.EdgeConfig) {
				cfg.ClientCA = filepath.Join(t.TempDir(), "ca.crt")
				putRoots(t, cfg.ClientCA, next)
			},
			"ignored":  func(cfg *mtls.EdgeConfig) { cfg.Clients, cfg.ClientCA = mtls.EdgeClientsIgnored, "" },
			"required": func(cfg *mtls.EdgeConfig) { cfg.Clients = mtls.EdgeClientsRequired },
		} {
			e, cfg := door(t, root, mtls.EdgeClientsOptional, root)
			change(&cfg)
			sent := cert
			if name == "required" {
				sent = tls.Certificate{}
			}
			v := visitor(root, version, "a.example")
			v.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &sent, e.Update(cfg)
			}
			_, _, err := shake(t, e.TLSConfig(), v)
			require.Error(t, err, "%s %s", name, tls.VersionName(version))
		}
	}
}
