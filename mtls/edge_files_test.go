package mtls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// shown returns the certificate that clients who ask for name see.
func shown(t testing.TB, e *mtls.Edge, name string) string {
	t.Helper()
	_, theirs, err := shake(t, e.TLSConfig(), &tls.Config{InsecureSkipVerify: true, ServerName: name})
	if err != nil {
		return err.Error()
	}
	return string(theirs.PeerCertificates[0].Raw)
}

func raw(c tls.Certificate) string { return string(c.Certificate[0]) }

// obstacles are what can be in the place of a file.
func obstacles(t testing.TB) map[string]func(path string) {
	return map[string]func(path string){
		"missing":   func(string) {},
		"directory": func(path string) { require.NoError(t, os.Mkdir(path, 0o700)) },
		"pipe":      func(path string) { require.NoError(t, syscall.Mkfifo(path, 0o600)) },
		"loop":      func(path string) { require.NoError(t, os.Symlink(filepath.Base(path), path)) },
		"dangling":  func(path string) { require.NoError(t, os.Symlink("absent", path)) },
		"device":    func(path string) { require.NoError(t, os.Symlink("/dev/zero", path)) },
		"huge": func(path string) {
			put(t, path, nil)
			require.NoError(t, os.Truncate(path, 1<<40)) // it takes no space
		},
	}
}

// Whatever is in the place of a file: nobody waits, and the last good one stays.
func TestMTLS07_Obstacles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := newAuthority(t)
		cert := root.leafWith(t, func(c *x509.Certificate) {
			c.DNSNames = []string{"a.example"}
			c.NotAfter = time.Now().AddDate(1, 0, 0)
		}, callee)
		good := pems(t, cert, root.pem(t))
		seen := &events{}
		f, cfg, dir := files(t, good, func(c *mtls.FilesConfig) { c.Observer = seen })
		first := f.Credentials()
		e := newEdge(t, mtls.EdgeConfig{Folder: dir, Clients: mtls.EdgeClientsOptional, ClientCA: cfg.Bundle, Observer: seen})
		for name, obstacle := range obstacles(t) {
			for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
				path := filepath.Join(dir, file)
				require.NoError(t, os.Remove(path))
				obstacle(path)
				time.Sleep(31 * time.Second)
				synctest.Wait()
				all := seen.take()
				require.Equal(t, []gatemesh.EventKind{gatemesh.EventFault, gatemesh.EventFault}, kinds(all), "%s: %s", name, file)
				for _, event := range all {
					assert.ErrorContains(t, event.Err, file, name)
				}
				assert.Same(t, first, f.Credentials())
				assert.Equal(t, raw(cert), shown(t, e, "a.example"))
				require.ErrorContains(t, f.Update(cfg), file)
				require.NoError(t, os.RemoveAll(path))
				good.write(t, dir)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				assert.Empty(t, seen.take())
			}
		}
	})
}

// MTLS-07 for the edge: pairs that are replaced in whatever way, each by itself.
func TestMTLS07_Edge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := newAuthority(t)
		a, b := root.site(t, "a.example"), root.site(t, "b.example")
		first, second := pairOf(t, a), pairOf(t, b)
		seen := &events{}
		e := newEdge(t, mtls.EdgeConfig{Pairs: []mtls.EdgePair{first, second}, Observer: seen})
		look := func(want ...gatemesh.EventKind) []gatemesh.Event {
			t.Helper()
			time.Sleep(21 * time.Second)
			synctest.Wait()
			all := seen.take()
			require.Equal(t, want, kinds(all))
			return all
		}
		look()
		// Key first, then half a certificate; the other pair is renewed meanwhile.
		next, nextB := root.site(t, "a.example"), root.site(t, "b.example")
		p := pems(t, next, nil)
		put(t, first.Key, p.key)
		look(gatemesh.EventFault)
		put(t, first.Cert, p.cert[:len(p.cert)/2])
		look(gatemesh.EventFault)
		store(t, filepath.Dir(second.Cert), nextB)
		look(gatemesh.EventNotice)
		assert.Equal(t, raw(a), shown(t, e, "a.example"))
		assert.Equal(t, raw(nextB), shown(t, e, "b.example"))
		// What was broken is as it was: nothing to tell, and what came later stays.
		store(t, filepath.Dir(first.Cert), a)
		look()
		assert.Equal(t, raw(nextB), shown(t, e, "b.example"))
		store(t, filepath.Dir(first.Cert), next)
		look(gatemesh.EventNotice)
		assert.Equal(t, raw(next), shown(t, e, "a.example"))

		// One that is not valid does not take the place of one that is.
		for _, change := range []func(c *x509.Certificate){
			func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
			func(c *x509.Certificate) { c.NotBefore = time.Now().Add(2 * time.Minute) },
		} {
			store(t, filepath.Dir(first.Cert), root.siteWith(t, change, "a.example"))
			assert.ErrorContains(t, look(gatemesh.EventFault)[0].Err, "valid from")
			assert.Equal(t, raw(next), shown(t, e, "a.example"))
		}
		time.Sleep(2 * time.Minute) // its time has come
		look(gatemesh.EventNotice)
		assert.NotEqual(t, raw(next), shown(t, e, "a.example"))

		// And back to the state of before a fault, with another pair renewed since.
		store(t, filepath.Dir(first.Cert), root.site(t, "c.example"))
		look(gatemesh.EventNotice)
		assert.Contains(t, shown(t, e, "a.example"), "unrecognized name")
	})
}

// A folder as Kubernetes mounts Secrets into it, one for each host.
func TestEdge_Folder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := newAuthority(t)
		dir := t.TempDir()
		mount := func(host, version string, c tls.Certificate) {
			at := filepath.Join(dir, host)
			require.NoError(t, os.MkdirAll(filepath.Join(at, version), 0o700))
			store(t, filepath.Join(at, version), c)
			put(t, filepath.Join(at, version, "ca.crt"), root.pem(t))
			require.NoError(t, os.Symlink(version, filepath.Join(at, "..data_tmp")))
			require.NoError(t, os.Rename(filepath.Join(at, "..data_tmp"), filepath.Join(at, "..data")))
			for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
				_ = os.Symlink(filepath.Join("..data", file), filepath.Join(at, file)) // is there the second time
			}
		}
		a, b := root.site(t, "a.example"), root.site(t, "b.example")
		mount("a", "..1", a)
		require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
		put(t, filepath.Join(dir, "README"), []byte("for us"))
		seen := &events{}
		e := newEdge(t, mtls.EdgeConfig{Folder: dir, Default: "a.example", Observer: seen})
		look := func(want ...gatemesh.EventKind) {
			t.Helper()
			time.Sleep(21 * time.Second)
			synctest.Wait()
			require.Equal(t, want, kinds(seen.take()))
		}
		assert.Equal(t, raw(a), shown(t, e, "b.example"))
		mount("b", "..1", b)
		look(gatemesh.EventNotice)
		assert.Equal(t, raw(b), shown(t, e, "b.example"))
		b = root.site(t, "b.example")
		mount("b", "..2", b)
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "b", "..1")))
		look(gatemesh.EventNotice)
		assert.Equal(t, raw(b), shown(t, e, "b.example"))
		var from []string
		for _, s := range e.Status() {
			from = append(from, s.From)
			assert.Len(t, s.Names, 1)
		}
		assert.Equal(t, []string{filepath.Join(dir, "a", "tls.crt"), filepath.Join(dir, "b", "tls.crt")}, from)

		// Half of a pair is a fault; none of it is a certificate less.
		require.NoError(t, os.Remove(filepath.Join(dir, "b", "tls.key")))
		look(gatemesh.EventFault)
		assert.Equal(t, raw(b), shown(t, e, "b.example"))
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "b")))
		look(gatemesh.EventNotice)
		assert.Equal(t, raw(a), shown(t, e, "b.example"))

		// The default, the last one, and the folder itself stay.
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "a")))
		look(gatemesh.EventFault)
		assert.Equal(t, raw(a), shown(t, e, "a.example"))
		require.NoError(t, os.RemoveAll(dir))
		look(gatemesh.EventFault)
		assert.Equal(t, raw(a), shown(t, e, "a.example"))
		require.NoError(t, os.Mkdir(dir, 0o700))
		a = root.site(t, "a.example")
		store(t, dir, a)
		look(gatemesh.EventNotice)
		assert.Equal(t, raw(a), shown(t, e, "a.example"))

		for i := range 1001 {
			sub := filepath.Join(dir, fmt.Sprint("x", i))
			require.NoError(t, os.Mkdir(sub, 0o700))
			put(t, filepath.Join(sub, "tls.crt"), nil)
		}
		require.ErrorContains(t, e.Update(mtls.EdgeConfig{Folder: dir}), "more than 1000")
	})
}

// What is due is told once, ahead of time, to whoever listens.
func TestEdge_Expiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := newAuthority(t)
		start := time.Now()
		short := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = start, start.Add(100*time.Minute) }
		pair := pairOf(t, root.siteWith(t, short, "a.example"))
		seen := &events{}
		cfg := mtls.EdgeConfig{Pairs: []mtls.EdgePair{pair}, Observer: seen}
		e := newEdge(t, cfg)
		told := func() (all []string) {
			synctest.Wait()
			for _, event := range seen.take() {
				assert.ErrorContains(t, event.Err, pair.Cert)
				assert.ErrorContains(t, event.Err, "a.example")
				all = append(all, fmt.Sprint(event.Kind == gatemesh.EventFault, " ", event.Message))
			}
			return all
		}
		time.Sleep(74 * time.Minute)
		assert.Empty(t, told())
		time.Sleep(2 * time.Minute)
		assert.Equal(t, []string{"false an edge certificate should have been renewed"}, told())
		require.NoError(t, e.Update(cfg))
		time.Sleep(13 * time.Minute)
		assert.Empty(t, told(), "once, across an Update")
		time.Sleep(2 * time.Minute)
		assert.Equal(t, []string{"true an edge certificate expires soon"}, told())
		time.Sleep(10 * time.Minute)
		assert.Equal(t, []string{"true an edge certificate is not valid"}, told())
		assert.Equal(t, []mtls.EdgeStatus{{From: pair.Cert, Names: []string{"a.example"}, NotBefore: start.UTC().Truncate(time.Second), NotAfter: start.Add(100 * time.Minute).UTC().Truncate(time.Second)}}, e.Status())
		time.Sleep(time.Hour)
		assert.Empty(t, told())

		// At the start as well, where it is no error; one certificate twice is told once.
		cfg.Pairs = append(cfg.Pairs, cfg.Pairs[0])
		again := newEdge(t, cfg)
		assert.Equal(t, []string{"true an edge certificate is not valid"}, told())
		assert.NotContains(t, shown(t, again, "a.example"), "tls:")
	})
}

// A chain may hold an expired certificate besides, for clients that know no
// other path.
func TestEdge_ExpiredIntermediate(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	cert := root.site(t, "a.example")
	old := sign(t, root, func(c *x509.Certificate) { c.IsCA = true; c.NotAfter = time.Now().Add(-time.Minute) })
	cert.Certificate = append(cert.Certificate, old.cert.Raw)
	seen := &events{}
	e := newEdge(t, mtls.EdgeConfig{Certificates: []tls.Certificate{cert}, Observer: seen})
	assert.Empty(t, seen.take())
	assert.Equal(t, cert.Leaf.NotAfter, e.Status()[0].NotAfter)
}

// An Observer may be the one who updates, and Close waits for it.
func TestEdge_Observer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := newAuthority(t)
		cfg := mtls.EdgeConfig{Pairs: []mtls.EdgePair{pairOf(t, root.site(t, "a.example"))}}
		e := newEdge(t, cfg)
		var told atomic.Int32
		cfg.Observer = gatemesh.ObserverFunc(func(context.Context, gatemesh.Event) {
			assert.NoError(t, e.Update(cfg))
			time.Sleep(time.Second)
			told.Add(1)
		})
		require.NoError(t, e.Update(cfg))
		store(t, filepath.Dir(cfg.Pairs[0].Cert), root.site(t, "a.example"))
		time.Sleep(10*time.Second + time.Millisecond)
		require.NoError(t, e.Close())
		assert.EqualValues(t, 1, told.Load())
	})
}

// TestLC01_Edge does not run in parallel: it counts what is left.
func TestLC01_Edge(t *testing.T) {
	root := newAuthority(t)
	a, b := root.site(t, "a.example"), root.site(t, "b.example")
	cfgs := []mtls.EdgeConfig{
		{Pairs: []mtls.EdgePair{pairOf(t, a)}, Interval: time.Microsecond},
		{Certificates: []tls.Certificate{b}, Interval: time.Millisecond},
	}
	require.NoError(t, leaktest.Check(200, func() {
		e, err := mtls.NewEdge(cfgs[0])
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { _ = e.Update(cfgs[i%2]) })
		}
		wg.Go(func() { assert.Contains(t, []string{raw(a), raw(b)}, shown(t, e, "a.example")) })
		wg.Go(func() { _ = e.Status() })
		wg.Wait()
		require.NoError(t, e.Close())
		require.ErrorContains(t, e.Update(cfgs[0]), "closed")
		_, err = mtls.NewEdge(mtls.EdgeConfig{})
		require.Error(t, err)
	}))
	e := newEdge(t, cfgs[0])
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		text := fmt.Sprintf(verb, e)
		assert.Equal(t, "edge with 1 certificates", strings.TrimSpace(text))
	}
}
