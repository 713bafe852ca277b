package mtls_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// files returns a Files on p, whose files are in dir. It is closed when the
// test ends.
func files(t testing.TB, p pemSet, change ...func(*mtls.FilesConfig)) (f *mtls.Files, cfg mtls.FilesConfig, dir string) {
	t.Helper()
	dir = t.TempDir()
	p.write(t, dir)
	cfg = filesIn(dir)
	for _, change := range change {
		change(&cfg)
	}
	f, err := mtls.NewFiles(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f, cfg, dir
}

// written returns the configuration for p in a folder of its own.
func written(t testing.TB, p pemSet) mtls.FilesConfig {
	t.Helper()
	dir := t.TempDir()
	p.write(t, dir)
	return filesIn(dir)
}

func TestFilesUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca, other := gatemesh.Must(devca.New(domain)), gatemesh.Must(devca.New("other.example"))
		before, after := &events{}, &events{}
		f, _, oldDir := files(t, issue(t, ca, callee), func(c *mtls.FilesConfig) { c.Observer = before })
		m := newTLS(t, f)
		next := written(t, issue(t, other, "spiffe://other.example/a"))
		next.Observer, next.Interval, next.TrustDomain = after, time.Minute, "other.example"

		require.NoError(t, f.Update(next))
		assert.Equal(t, "spiffe://other.example/a", f.Credentials().ID.String(), "at once")
		assert.Equal(t, []gatemesh.EventKind{gatemesh.EventNotice}, kinds(after.take()))
		_, err := m.Peer(received(gatemesh.Must(ca.Issue(caller, time.Hour))))
		require.Error(t, err, "whom the old bundle trusted")

		// The old files are followed no more, the new ones at their own interval.
		put(t, filepath.Join(oldDir, "tls.crt"), nil)
		second := issue(t, other, "spiffe://other.example/b")
		second.write(t, filepath.Dir(next.Cert))
		time.Sleep(59 * time.Second)
		synctest.Wait()
		assert.Equal(t, "spiffe://other.example/a", f.Credentials().ID.String())
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, "spiffe://other.example/b", f.Credentials().ID.String())
		assert.Equal(t, []gatemesh.EventKind{gatemesh.EventNotice}, kinds(after.take()))
		assert.Empty(t, before.take())

		// And shorter again.
		next.Interval = time.Second
		require.NoError(t, f.Update(next))
		assert.Empty(t, after.take(), "nothing to tell")
		issue(t, other, "spiffe://other.example/c").write(t, filepath.Dir(next.Cert))
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, "spiffe://other.example/c", f.Credentials().ID.String())
	})
}

// What has not changed keeps its pointer, so that nobody is verified again.
func TestFilesUpdate_Pointers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca, friend := gatemesh.Must(devca.New(domain)), gatemesh.Must(devca.New("friend.example"))
		good := issue(t, ca, callee)
		f, cfg, _ := files(t, good)
		looks := func() {
			time.Sleep(21 * time.Second)
			synctest.Wait()
		}
		first := f.Credentials()
		require.NoError(t, f.Update(cfg))
		assert.Same(t, first, f.Credentials())
		require.NoError(t, f.Update(written(t, good)), "elsewhere, with the same contents")
		looks()
		assert.Same(t, first, f.Credentials())

		require.NoError(t, f.Update(written(t, issue(t, ca, caller))))
		second := f.Credentials()
		assert.Equal(t, caller, second.ID.String())
		assert.Same(t, first.Bundles, second.Bundles, "the trust is the same")
		looks()
		assert.Same(t, second, f.Credentials())

		// The same file speaks for another domain.
		trusted := func() bool {
			_, err := newTLS(t, f).Peer(received(gatemesh.Must(friend.Issue("spiffe://friend.example/a", time.Hour))))
			return err == nil
		}
		path := filepath.Join(t.TempDir(), "friend.crt")
		put(t, path, friend.BundlePEM())
		cfg.Federated = map[string]string{"friend.example": path}
		require.NoError(t, f.Update(cfg))
		assert.True(t, trusted())
		cfg.Federated["stranger.example"] = path
		delete(cfg.Federated, "friend.example")
		looks()
		assert.True(t, trusted(), "the map is copied")
		require.NoError(t, f.Update(cfg))
		assert.False(t, trusted())
	})
}

// MTLS-04 for an Update: error, and everything stays.
func TestMTLS04_Update(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New(domain))
		good := issue(t, ca, callee)
		seen := &events{}
		f, cfg, dir := files(t, good, func(c *mtls.FilesConfig) { c.Observer = seen })
		first := f.Credentials()
		client := received(gatemesh.Must(ca.Issue(caller, time.Hour)))
		refused := func(name string, next mtls.FilesConfig) error {
			t.Helper()
			next.Interval, next.Observer = time.Hour, seen
			err := f.Update(next)
			require.Error(t, err, name)
			assert.NotContains(t, err.Error(), "PRIVATE KEY-----")
			assert.Same(t, first, f.Credentials(), name)
			_, perr := newTLS(t, f).Peer(client)
			assert.NoError(t, perr, name)
			assert.Empty(t, seen.take(), "the caller knows")
			return err
		}
		for name, p := range bad(t, ca, good) {
			refused(name, written(t, p))
		}
		err := refused("missing", filesIn(t.TempDir()))
		for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
			require.ErrorContains(t, err, file, "all faults at once")
		}
		foreign := cfg
		foreign.TrustDomain = "other.example"
		require.ErrorContains(t, refused("trust domain", foreign), "not of trust domain")
		own := cfg
		own.Federated = map[string]string{domain: cfg.Bundle}
		require.ErrorContains(t, refused("own", own), "our own trust domain")
		err = f.Update(mtls.FilesConfig{TrustDomain: "A:B", Interval: -1, Federated: map[string]string{"x/y": ""}})
		for _, field := range []string{"Cert is required", "Key is required", "Bundle is required", "TrustDomain", "Interval", "Federated"} {
			require.ErrorContains(t, err, field)
		}

		// The old configuration is at work, its interval included.
		issue(t, ca, caller).write(t, dir)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Equal(t, caller, f.Credentials().ID.String())
		assert.Equal(t, []gatemesh.EventKind{gatemesh.EventNotice}, kinds(seen.take()))
	})
}

// Time alone can make the same files useless.
func TestFilesUpdate_Expired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New(domain))
		f, cfg, _ := files(t, issue(t, ca, callee)) // for an hour
		time.Sleep(2 * time.Hour)
		require.ErrorContains(t, f.Update(cfg), "valid from")
	})
}

// A fault that an Update has mended is told again when it comes back.
func TestFilesUpdate_Fault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New(domain))
		good := issue(t, ca, callee)
		seen := &events{}
		f, cfg, _ := files(t, good, func(c *mtls.FilesConfig) { c.Observer = seen })
		for range 2 {
			put(t, cfg.Cert, nil)
			time.Sleep(11 * time.Second)
			synctest.Wait()
			assert.Equal(t, []gatemesh.EventKind{gatemesh.EventFault}, kinds(seen.take()))
			put(t, cfg.Cert, good.cert)
			require.NoError(t, f.Update(cfg))
		}
	})
}

// Updates that come more often than looks do not put them off; and an Observer
// may be the one who updates.
func TestFilesUpdate_AllTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New(domain))
		good := issue(t, ca, callee)
		f, cfg, _ := files(t, good)
		var told atomic.Int32
		cfg.Observer = gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
			if told.Add(1); e.Kind == gatemesh.EventFault {
				assert.Error(t, f.Update(cfg)) // not usable here either
			}
		})
		require.NoError(t, f.Update(cfg))
		time.Sleep(9 * time.Second)
		require.NoError(t, f.Update(cfg))
		put(t, cfg.Cert, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.EqualValues(t, 1, told.Load())
	})
}

// Close waits for a look under way, whose Observer may be slow.
func TestFiles_CloseWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := gatemesh.Must(devca.New(domain))
		var told atomic.Bool
		f, cfg, _ := files(t, issue(t, ca, callee), func(c *mtls.FilesConfig) {
			c.Observer = gatemesh.ObserverFunc(func(context.Context, gatemesh.Event) {
				time.Sleep(time.Second)
				told.Store(true)
			})
		})
		put(t, cfg.Cert, nil)
		time.Sleep(10*time.Second + time.Millisecond)
		require.NoError(t, f.Close())
		assert.True(t, told.Load())
	})
}

func TestFilesZero(t *testing.T) {
	t.Parallel()
	var f mtls.Files
	assert.Nil(t, f.Credentials())
	require.ErrorContains(t, f.Update(mtls.FilesConfig{Cert: "a", Key: "b", Bundle: "c"}), "NewFiles")
	require.NoError(t, f.Close())
}

func TestFilesUpdate_Closed(t *testing.T) {
	t.Parallel()
	ca := gatemesh.Must(devca.New(domain))
	f, cfg, _ := files(t, issue(t, ca, callee))
	first := f.Credentials()
	require.NoError(t, f.Close())
	next := written(t, issue(t, ca, caller))
	require.ErrorContains(t, f.Update(next), "closed")
	require.ErrorContains(t, f.Update(cfg), "closed")
	assert.Same(t, first, f.Credentials())
}

// LC_01: a thousand Files come, change and go, and leave nothing behind. It is
// not parallel: it counts what is open in the process.
func Test_LC_01_Files(t *testing.T) {
	ca := gatemesh.Must(devca.New(domain))
	a, b := written(t, issue(t, ca, callee)), written(t, issue(t, ca, caller))
	b.Interval = time.Millisecond // looks go on meanwhile
	nothingStays(t, func() {
		for range 1000 {
			f, err := mtls.NewFiles(a)
			require.NoError(t, err)
			require.Equal(t, callee, f.Credentials().ID.String())
			require.NoError(t, f.Update(b))
			require.Equal(t, caller, f.Credentials().ID.String())
			require.Error(t, f.Update(mtls.FilesConfig{}))
			require.NoError(t, f.Close())
			require.NoError(t, f.Close())
			require.ErrorContains(t, f.Update(a), "closed")
			require.Equal(t, caller, f.Credentials().ID.String(), "stay after Close")
		}
	})
}

// LC_01, while it is used and changed by many: certificate and key always belong
// together, and no Update takes place after Close.
func Test_LC_01_FilesInUse(t *testing.T) {
	ca := gatemesh.Must(devca.New(domain))
	cfgs := []mtls.FilesConfig{written(t, issue(t, ca, callee)), written(t, issue(t, ca, caller))}
	for i := range cfgs {
		cfgs[i].Interval, cfgs[i].Observer = time.Duration(1+i)*time.Millisecond, &events{}
	}
	nothingStays(t, func() {
		for round := range 20 {
			f, err := mtls.NewFiles(cfgs[0])
			require.NoError(t, err)
			var closed atomic.Bool
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := range 20 {
						gone := closed.Load()
						if err := f.Update(cfgs[(g+i)%2]); err != nil || gone {
							assert.ErrorContains(t, err, "closed")
						}
						if g < 2 && i == round/2 {
							assert.NoError(t, f.Close())
							closed.Store(true)
						}
					}
				})
				wg.Go(func() {
					for range 100 {
						c := f.Credentials()
						_, err := mtls.NewCredentials(c.Certificate, c.Bundles)
						assert.NoError(t, err)
						_ = fmt.Sprint(f)
					}
				})
			}
			wg.Wait()
		}
	})
}

// nothingStays fails if f leaves goroutines or file descriptors for longer than
// a second.
func nothingStays(t *testing.T, f func()) {
	t.Helper()
	open, routines := openFiles(t), runtime.NumGoroutine()
	f()
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.LessOrEqual(c, openFiles(t), open, "file descriptors")
		assert.LessOrEqual(c, runtime.NumGoroutine(), routines+1, "goroutines; one is that of this check")
	}, time.Second, 10*time.Millisecond)
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, fs.ErrNotExist) {
		return 0 // no such thing here
	}
	require.NoError(t, err)
	return len(d)
}
