package auth

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
)

// keyFileTest is a KeyFile and the file it follows.
type keyFileTest struct {
	*KeyFile
	t    testing.TB
	path string
	w    *watcher
}

func newKeyFileTest(t testing.TB, text string) *keyFileTest {
	t.Helper()
	f := &keyFileTest{t: t, path: filepath.Join(t.TempDir(), "keys.txt"), w: &watcher{}}
	f.write(text)
	var err error
	f.KeyFile, err = NewKeyFile(f.config())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func (f *keyFileTest) config() KeyFileConfig { return KeyFileConfig{Path: f.path, Observer: f.w} }

// write replaces the file as one should.
func (f *keyFileTest) write(text string) {
	f.t.Helper()
	require.NoError(f.t, os.WriteFile(f.path+".new", []byte(text), 0o600))
	require.NoError(f.t, os.Rename(f.path+".new", f.path))
}

// has reports which of secrets are known.
func (f *keyFileTest) has(secrets ...string) (known []string) {
	for _, s := range secrets {
		if k, _ := f.FindKey(digestOf(s), time.Now()); k != nil {
			known = append(known, s)
		}
	}
	return known
}

func line(secret string, more ...string) string {
	return strings.Join(append([]string{"id-" + secret, "shop", HashKey(secret)}, more...), " ") + "\n"
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newKeyFileTest(t, line("a"))
		assert.Equal(t, []string{"a"}, f.has("a", "b"))
		first := f.set()
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Same(t, first, f.set(), "nothing has changed")
		assert.Empty(t, f.w.all())

		f.write(line("b"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"b"}, f.has("a", "b"), "added and withdrawn within an interval")
		require.Len(t, f.w.all(), 1)
		assert.Equal(t, gatemesh.EventNotice, f.w.all()[0].Kind)

		// Faults leave the last good keys, and each is said once.
		good := line("b")
		for i, fault := range []struct {
			name, want string
			do         func()
		}{
			{"a bad line", "keys.txt:2: ", func() { f.write(line("a") + "id shop\n") }},
			{"another bad line", "keys.txt:1: ", func() { f.write("id shop gmk_SECRET\n" + line("a")) }},
			{"empty", "the file is empty", func() { f.write("") }},
			{"half a line", "cut short", func() { f.write(line("a") + line("c")[:60]) }},
			{"cut before the end of its validity", "cut short", func() { f.write(strings.TrimSuffix(line("a"), "\n")) }},
			{"missing", "no such file", func() { require.NoError(t, os.Remove(f.path)) }},
			{"a directory", "not a regular file", func() {
				require.NoError(t, os.Remove(f.path))
				require.NoError(t, os.Mkdir(f.path, 0o700))
			}},
			{"a pipe", "not a regular file", func() {
				require.NoError(t, os.Remove(f.path))
				require.NoError(t, syscall.Mkfifo(f.path, 0o600))
			}},
		} {
			before := len(f.w.all())
			fault.do()
			time.Sleep(time.Minute)
			synctest.Wait()
			assert.Equal(t, []string{"b"}, f.has("a", "b", "c"), fault.name)
			events := f.w.all()[before:]
			require.Len(t, events, 1, "%s: said once", fault.name)
			assert.Equal(t, gatemesh.EventFault, events[0].Kind)
			assert.ErrorContains(t, events[0].Err, fault.want)
			assert.Contains(t, events[0].Message, "the last good keys stay")
			assert.NotContains(t, fmt.Sprint(events[0].Err), "SECRET")
			if i%2 == 1 || fault.name == "a directory" { // some end, and it is as it was
				f.write2(good)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				events = f.w.all()[before+1:]
				require.Len(t, events, 1)
				assert.Equal(t, gatemesh.EventNotice, events[0].Kind)
			}
		}
		f.write2(line("a", "scopes=x"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"a"}, f.has("a", "b"))

		// Nothing is read any more once it is closed, and the keys stay.
		require.NoError(t, f.Close())
		require.NoError(t, f.Close())
		f.write(line("b"))
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"a"}, f.has("a", "b"))
		assert.ErrorIs(t, f.Update(f.config()), errKeyFileClosed)
	})
}

// write2 is write where something else may be in the way.
func (f *keyFileTest) write2(text string) {
	f.t.Helper()
	require.NoError(f.t, os.RemoveAll(f.path))
	f.write(text)
}

// A file that is written in place, byte by byte: no state of it gives a key
// anything that the whole file does not.
func TestKeyFileHalfWritten(t *testing.T) {
	t.Parallel()
	whole := line("a", "scopes=orders:read", "meta.plan=free", "expires=2027-01-31T00:00:00Z") + "# end\n" + line("b", "expires=2026-01-31T00:00:00Z")
	full, err := parseKeyFile("f", whole)
	require.NoError(t, err)
	for n := range len(whole) {
		set, err := parseKeyFile("f", whole[:n])
		if err != nil {
			continue
		}
		require.Equal(t, byte('\n'), whole[n-1])
		for digest, k := range set.byHash {
			want := full.byHash[digest]
			require.NotNil(t, want)
			assert.Equal(t, want.expires, k.expires)
			assert.Equal(t, want.principal.Scopes(), k.principal.Scopes())
			assert.Equal(t, want.principal, k.principal)
		}
	}
}

// As Kubernetes mounts a Secret: the file is a link through ..data, which is
// swapped.
func TestKeyFileSymlinkSwap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		mount := func(version, text string) {
			require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, version, "keys.txt"), []byte(text), 0o600))
			require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
			require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		}
		mount("..1", line("a"))
		f := &keyFileTest{t: t, path: filepath.Join(dir, "keys.txt"), w: &watcher{}}
		require.NoError(t, os.Symlink(filepath.Join("..data", "keys.txt"), f.path))
		cfg := f.config()
		cfg.Interval = time.Second
		var err error
		f.KeyFile, err = NewKeyFile(cfg)
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		for i := range 5 {
			old := time.Unix(1, 0) // a time that went back does not hide a change
			mount(fmt.Sprint("..", i+2), line(fmt.Sprint(i)))
			require.NoError(t, os.Chtimes(filepath.Join(dir, "..data", "keys.txt"), old, old))
			time.Sleep(time.Second)
			synctest.Wait()
			assert.Equal(t, []string{fmt.Sprint(i)}, f.has("a", "0", "1", "2", "3", "4"))
		}
		require.NoError(t, os.Remove(filepath.Join(dir, "..data"))) // dangling
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, []string{"4"}, f.has("3", "4"))
		assert.Len(t, f.w.all(), 6)
	})
}

func TestKeyFileUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newKeyFileTest(t, line("a"))
		next := filepath.Join(t.TempDir(), "next.txt")
		cfg := f.config()
		cfg.Path = next
		require.ErrorContains(t, f.Update(cfg), "no such file")
		require.NoError(t, os.WriteFile(next, []byte("x\n"), 0o600))
		require.ErrorContains(t, f.Update(cfg), "next.txt:1")
		assert.Equal(t, []string{"a"}, f.has("a", "b"))
		f.write(line("a") + line("c"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"a", "c"}, f.has("a", "b", "c"), "the old file is followed")

		require.NoError(t, os.WriteFile(next, []byte(line("b")), 0o600))
		cfg.Interval = time.Second
		require.NoError(t, f.Update(cfg))
		assert.Equal(t, []string{"b"}, f.has("a", "b", "c"), "at once")
		require.NoError(t, os.WriteFile(next, []byte(line("a")), 0o600))
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"a"}, f.has("a", "b", "c"))
		assert.Len(t, f.w.all(), 3)

		// An Observer may call Update.
		var once sync.Once
		updated := make(chan error, 1)
		cfg.Observer = gatemesh.ObserverFunc(func(context.Context, gatemesh.Event) {
			once.Do(func() { updated <- f.Update(cfg) })
		})
		require.NoError(t, f.Update(cfg))
		require.NoError(t, os.WriteFile(next, []byte(line("c")), 0o600))
		require.NoError(t, <-updated)
	})
	for want, cfg := range map[string]KeyFileConfig{
		"KeyFileConfig.Path is required": {Interval: -1}, "KeyFileConfig.Interval must not": {Interval: -1}, "no such file": {Path: "/nowhere/keys.txt"},
	} {
		_, err := NewKeyFile(cfg)
		assert.ErrorContains(t, err, want)
	}
	require.ErrorIs(t, (&KeyFile{}).Update(KeyFileConfig{Path: "x"}), errKeyFileUnset)
	require.NoError(t, (&KeyFile{}).Close())
	assert.Equal(t, "<nil key file> file with 0 API keys", fmt.Sprintf("%v %+v", (*KeyFile)(nil), &KeyFile{}))
}

// What is said of a file with many faults is bounded.
func TestKeyFileFaultsBounded(t *testing.T) {
	t.Parallel()
	_, err := parseKeyFile("f", strings.Repeat("x\n", 100_000))
	require.Error(t, err)
	assert.Equal(t, maxKeyFaults, strings.Count(err.Error(), "\n"))
	assert.ErrorContains(t, err, "and maybe more")
}

// Not parallel: it counts what is left.
func TestLC01_KeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.txt")
	require.NoError(t, os.WriteFile(path, []byte(line("a")), 0o600))
	require.NoError(t, leaktest.Check(1000, func() {
		f, err := NewKeyFile(KeyFileConfig{Path: path, Interval: time.Microsecond})
		require.NoError(t, err)
		a := storeAuth(t, f)
		var wg sync.WaitGroup
		wg.Go(func() { assert.Equal(t, "ok", reason(t, a, keyCall(t, "a"))) })
		wg.Go(func() { _ = f.Update(KeyFileConfig{Path: path}) })
		wg.Go(func() { _ = f.Close() })
		wg.Wait()
		require.NoError(t, f.Close())
		require.Equal(t, "ok", reason(t, a, keyCall(t, "a")))
	}))
}
