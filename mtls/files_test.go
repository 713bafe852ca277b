package mtls_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// pemSet is the three files of a workload.
type pemSet struct{ cert, key, bundle []byte }

func issue(t testing.TB, ca *devca.CA, id string) pemSet {
	t.Helper()
	c, err := ca.Issue(id, time.Hour)
	require.NoError(t, err)
	return pems(t, c, ca.BundlePEM())
}

func pems(t testing.TB, c tls.Certificate, bundle []byte) pemSet {
	t.Helper()
	certPEM, keyPEM, err := devca.EncodePEM(c)
	require.NoError(t, err)
	return pemSet{certPEM, keyPEM, bundle}
}

func put(t testing.TB, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

func (p pemSet) write(t testing.TB, dir string) {
	t.Helper()
	put(t, filepath.Join(dir, "tls.crt"), p.cert)
	put(t, filepath.Join(dir, "tls.key"), p.key)
	put(t, filepath.Join(dir, "ca.crt"), p.bundle)
}

func filesIn(dir string) mtls.FilesConfig {
	return mtls.FilesConfig{
		Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), Bundle: filepath.Join(dir, "ca.crt"),
	}
}

func kinds(all []gatemesh.Event) (out []gatemesh.EventKind) {
	for _, e := range all {
		out = append(out, e.Kind)
	}
	return out
}

// bad are the ways in which files can be of no use.
func bad(t testing.TB, ca *devca.CA, good pemSet) map[string]pemSet {
	t.Helper()
	root := newAuthority(t)
	other := issue(t, ca, caller)
	expired := root.leafWith(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, caller)
	early := root.leafWith(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, caller)
	with := func(change func(p *pemSet)) pemSet { p := good; change(&p); return p }
	return map[string]pemSet{
		"bundle empty":            with(func(p *pemSet) { p.bundle = nil }),
		"bundle garbage":          with(func(p *pemSet) { p.bundle = []byte("\x00\x01garbage\n") }),
		"bundle a key":            with(func(p *pemSet) { p.bundle = p.key }),
		"bundle and a key":        with(func(p *pemSet) { p.bundle = append(append([]byte{}, p.bundle...), p.key...) }),
		"bundle a leaf":           with(func(p *pemSet) { p.bundle = p.cert }),
		"bundle truncated":        with(func(p *pemSet) { p.bundle = p.bundle[:len(p.bundle)/2] }),
		"bundle second truncated": with(func(p *pemSet) { p.bundle = append(append([]byte{}, p.bundle...), p.bundle[:len(p.bundle)/2]...) }),
		"bundle first broken": with(func(p *pemSet) {
			p.bundle = append([]byte("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"), p.bundle...)
		}),
		// OpenSSL's form of a certificate whose uses are restricted.
		"bundle of trusted certificates": with(func(p *pemSet) {
			p.bundle = bytes.ReplaceAll(p.bundle, []byte(" CERTIFICATE"), []byte(" TRUSTED CERTIFICATE"))
		}),
		"bundle not DER":      with(func(p *pemSet) { p.bundle = []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") }),
		"cert empty":          with(func(p *pemSet) { p.cert = nil }),
		"cert truncated":      with(func(p *pemSet) { p.cert = p.cert[:len(p.cert)/2] }),
		"cert and half a one": with(func(p *pemSet) { p.cert = append(append([]byte{}, p.cert...), p.bundle[:len(p.bundle)/2]...) }),
		"cert a key":          with(func(p *pemSet) { p.cert = p.key }),
		"key empty":           with(func(p *pemSet) { p.key = nil }),
		"key a cert":          with(func(p *pemSet) { p.key = p.cert }),
		"key of another":      with(func(p *pemSet) { p.key = other.key }),
		"expired":             pems(t, expired, good.bundle),
		"not yet valid":       pems(t, early, good.bundle),
		"no SPIFFE id":        pems(t, root.leaf(t), good.bundle),
	}
}

func TestMTLS04_Start(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New(domain))
	good := issue(t, ca, callee)
	for name, p := range bad(t, ca, good) {
		dir := t.TempDir()
		p.write(t, dir)
		f, err := mtls.NewFiles(filesIn(dir))
		assert.Error(t, err, name)
		assert.Nil(t, f, name)
	}

	dir := t.TempDir()
	_, err := mtls.NewFiles(filesIn(dir))
	for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
		assert.ErrorContains(t, err, file, "all faults at once")
	}
	good.write(t, dir)
	require.NoError(t, os.Remove(filepath.Join(dir, "ca.crt")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "ca.crt"), 0o700)) // unreadable, for root too
	_, err = mtls.NewFiles(filesIn(dir))
	assert.Error(t, err)

	_, err = mtls.NewFiles(mtls.FilesConfig{TrustDomain: "A:B", Interval: -1, Federated: map[string]string{"x/y": ""}})
	for _, field := range []string{"Cert is required", "Key is required", "Bundle is required", "TrustDomain", "Interval", "Federated"} {
		assert.ErrorContains(t, err, field)
	}
}

func TestFiles_TrustDomains(t *testing.T) {
	t.Parallel()
	ca, friend := gatemesh.Must(devca.New(domain)), gatemesh.Must(devca.New("friend.example"))
	dir := t.TempDir()
	issue(t, ca, callee).write(t, dir)
	put(t, filepath.Join(dir, "friend.crt"), friend.BundlePEM())

	cfg := filesIn(dir)
	cfg.TrustDomain = "other.example"
	_, err := mtls.NewFiles(cfg)
	require.ErrorContains(t, err, "not of trust domain")
	cfg.TrustDomain, cfg.Federated = "", map[string]string{domain: filepath.Join(dir, "friend.crt")}
	_, err = mtls.NewFiles(cfg)
	require.ErrorContains(t, err, "our own trust domain")

	cfg.TrustDomain, cfg.Federated = domain, map[string]string{"friend.example": filepath.Join(dir, "friend.crt")}
	f, err := mtls.NewFiles(cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	assert.Equal(t, callee, f.Credentials().ID.String())
	m := newTLS(t, f)
	p, err := m.Peer(received(gatemesh.Must(friend.Issue("spiffe://friend.example/a", time.Hour))))
	require.NoError(t, err)
	assert.Equal(t, "friend.example", p.TrustDomain())
	cfg.Federated = nil
	alone, err := mtls.NewFiles(cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, alone.Close()) }()
	_, err = newTLS(t, alone).Peer(received(gatemesh.Must(friend.Issue("spiffe://friend.example/a", time.Hour))))
	require.Error(t, err)
}

func TestMTLS04_Reload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New(domain))
		good := issue(t, ca, callee)
		dir := t.TempDir()
		good.write(t, dir)
		seen := &events{}
		cfg := filesIn(dir)
		cfg.Observer = seen
		f, err := mtls.NewFiles(cfg)
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		m := newTLS(t, f)
		first := f.Credentials()
		client := received(gatemesh.Must(ca.Issue(caller, time.Hour)))

		check := func(name string) {
			t.Helper()
			time.Sleep(31 * time.Second) // three looks
			synctest.Wait()
			assert.Same(t, first, f.Credentials(), name)
			all := seen.take()
			require.Equal(t, []gatemesh.EventKind{gatemesh.EventFault}, kinds(all), "%s: reported once", name)
			require.Error(t, all[0].Err)
			assert.NotContains(t, all[0].Err.Error(), "PRIVATE KEY-----")
			_, err := m.Peer(client)
			assert.NoError(t, err, name)
			good.write(t, dir)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			assert.Same(t, first, f.Credentials(), name)
			assert.Empty(t, seen.take())
		}
		for name, p := range bad(t, ca, good) {
			p.write(t, dir)
			check(name)
		}
		for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
			require.NoError(t, os.Remove(filepath.Join(dir, file)))
			check(file + " missing")
		}
	})
}

func TestMTLS07_NonAtomic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New(domain))
		first, second := issue(t, ca, callee), issue(t, ca, callee)
		dir := t.TempDir()
		first.write(t, dir)
		seen := &events{}
		cfg := filesIn(dir)
		cfg.Observer, cfg.Interval = seen, 100*time.Millisecond
		f, err := mtls.NewFiles(cfg)
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		old := f.Credentials()

		put(t, cfg.Key, second.key)
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		require.Same(t, old, f.Credentials(), "new key with old certificate")
		put(t, cfg.Cert, second.cert[:len(second.cert)/2])
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		require.Same(t, old, f.Credentials(), "truncated certificate")
		require.Equal(t, []gatemesh.EventKind{gatemesh.EventFault, gatemesh.EventFault}, kinds(seen.take()))
		put(t, cfg.Cert, second.cert)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		fresh := f.Credentials()
		require.NotSame(t, old, fresh)
		require.Same(t, old.Bundles, fresh.Bundles, "the trust did not change")
		require.Equal(t, []gatemesh.EventKind{gatemesh.EventNotice}, kinds(seen.take()))
		_, err = mtls.NewCredentials(fresh.Certificate, fresh.Bundles) // a matching pair
		require.NoError(t, err)

		require.NoError(t, ca.Rotate())
		put(t, cfg.Bundle, ca.BundlePEM())
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		require.NotSame(t, fresh.Bundles, f.Credentials().Bundles)
	})
}

// Kubernetes mounts a volume as links through ..data, and swaps that one.
func TestMTLS07_SymlinkSwap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New(domain))
		dir := t.TempDir()
		mount := func(name string, p pemSet) {
			require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
			p.write(t, filepath.Join(dir, name))
			require.NoError(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
			require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		}
		mount("..1", issue(t, ca, callee))
		for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
			require.NoError(t, os.Symlink(filepath.Join("..data", file), filepath.Join(dir, file)))
		}
		seen := &events{}
		cfg := filesIn(dir)
		cfg.Observer = seen
		f, err := mtls.NewFiles(cfg)
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		old := f.Credentials()
		mount("..2", issue(t, ca, callee))
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "..1")))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.NotSame(t, old, f.Credentials())
		require.Equal(t, []gatemesh.EventKind{gatemesh.EventNotice}, kinds(seen.take()))
	})
}

// A certificate that came too early is taken when its time has come.
func TestFiles_BecomesValid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := newAuthority(t)
		bundle := pems(t, root.tls(), nil).cert
		dir := t.TempDir()
		pems(t, root.leaf(t, callee), bundle).write(t, dir)
		f, err := mtls.NewFiles(filesIn(dir))
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		old := f.Credentials()
		next := root.leafWith(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, callee)
		pems(t, next, bundle).write(t, dir)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Same(t, old, f.Credentials())
		time.Sleep(time.Minute)
		synctest.Wait()
		require.NotSame(t, old, f.Credentials())
	})
}

func TestFiles_Close(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New(domain))
	dir := t.TempDir()
	issue(t, ca, callee).write(t, dir)
	for range 100 {
		f, err := mtls.NewFiles(filesIn(dir))
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.NoError(t, f.Close())
		require.NotNil(t, f.Credentials())
	}
}

func FuzzParseCertificates(f *testing.F) {
	ca := gatemesh.Must(devca.New(domain))
	f.Add(ca.BundlePEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"))
	f.Add([]byte("# comment\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := mtls.ParseCertificates(data)
		require.Equal(t, err == nil, len(certs) > 0)
		// Adding a good block to good data adds one certificate; nothing of
		// what was broken is forgotten by what follows it.
		more, merr := mtls.ParseCertificates(append(append(data[:len(data):len(data)], '\n'), ca.BundlePEM()...))
		if err == nil {
			require.NoError(t, merr)
			require.Len(t, more, len(certs)+1)
		}
	})
}
