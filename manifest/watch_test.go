package manifest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
)

// allowing is an AuthorizationPolicy of this name.
func allowing(name string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: " + name + "}\nspec: {rules: [{}]}\n"
}

func write(t testing.TB, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// following is a Watcher under test, in a bubble.
type following struct {
	t      *testing.T
	dir    string
	mu     sync.Mutex
	used   []string // names of the policies, by Set
	refuse error
	tries  int
	events []string
	*manifest.Watcher
}

const interval = time.Second

func follow(t *testing.T, current *manifest.Set) *following {
	f := &following{t: t, dir: t.TempDir()}
	f.start(current)
	return f
}

func (f *following) start(current *manifest.Set) {
	f.t.Helper()
	var err error
	f.Watcher, err = manifest.NewWatcher(manifest.WatcherConfig{
		Dir: f.dir, Interval: interval, Current: current,
		Apply: func(set *manifest.Set) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.tries++
			if f.refuse != nil {
				return f.refuse
			}
			f.used = append(f.used, names(set))
			return nil
		},
		Observer: gatemesh.ObserverFunc(func(_ context.Context, e gatemesh.Event) {
			f.mu.Lock()
			defer f.mu.Unlock()
			text := e.Message
			if e.Err != nil {
				text += ": " + e.Err.Error()
			}
			assert.Equal(f.t, "manifest", e.Layer)
			assert.Equal(f.t, e.Err != nil, e.Kind == gatemesh.EventFault)
			f.events = append(f.events, strings.ReplaceAll(text, f.dir, "DIR"))
		}),
	})
	require.NoError(f.t, err)
	f.t.Cleanup(func() { assert.NoError(f.t, f.Close()) })
}

func names(set *manifest.Set) string {
	var all []string
	for _, p := range set.Policies() {
		all = append(all, p.Name)
	}
	return strings.Join(all, " ")
}

// looks lets so many intervals pass.
func (f *following) looks(n int) {
	time.Sleep(time.Duration(n) * interval)
	synctest.Wait()
}

// take returns what was put in use, and what was reported, since the last time.
func (f *following) take() (used, events []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	used, events, f.used, f.events = f.used, f.events, nil, nil
	return used, events
}

func (f *following) wants(used, events []string) {
	f.t.Helper()
	gotUsed, gotEvents := f.take()
	assert.Equal(f.t, used, gotUsed)
	assert.Equal(f.t, events, gotEvents)
}

func (f *following) file(name string) string { return filepath.Join(f.dir, name) }

func inUse(names ...string) (used, events []string) {
	for range names {
		events = append(events, "DIR: manifests are in use")
	}
	return names, events
}

func TestWatcher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, nil)
		f.looks(3)
		f.wants(nil, []string{"DIR: manifests cannot be read, the last good ones stay: manifest: there is no .yaml or .yml file in the folder DIR"})

		write(t, f.file("a.yaml"), allowing("one"))
		f.looks(1)
		f.wants(nil, nil)
		f.looks(1)
		f.wants(inUse("one"))
		f.looks(10)
		f.wants(nil, nil)

		// A fault is told once, and so is another one; what is good stays.
		write(t, f.file("b.yaml"), "kind: X\n")
		f.looks(5)
		f.wants(nil, []string{"DIR: manifests cannot be used, the last good ones stay: DIR/b.yaml:1: apiVersion: is required"})
		write(t, f.file("b.yaml"), "\nkind: X\n")
		f.looks(5)
		f.wants(nil, []string{"DIR: manifests cannot be used, the last good ones stay: DIR/b.yaml:2: apiVersion: is required"})
		require.NoError(t, os.Remove(f.file("b.yaml")))
		f.looks(5)
		f.wants(nil, []string{"DIR: manifests can be used again, and are as they were"})
		write(t, f.file("b.yaml"), "\nkind: X\n")
		f.looks(5)
		f.wants(nil, []string{"DIR: manifests cannot be used, the last good ones stay: DIR/b.yaml:2: apiVersion: is required"})
		write(t, f.file("b.yaml"), allowing("two"))
		f.looks(2)
		f.wants(inUse("one two"))

		// So it is with a folder that goes and comes back.
		require.NoError(t, os.Rename(f.dir, f.dir+".gone"))
		f.looks(5)
		f.wants(nil, []string{"DIR: manifests cannot be read, the last good ones stay: manifest: folder DIR: no such file or directory"})
		require.NoError(t, os.Rename(f.dir+".gone", f.dir))
		f.looks(5)
		f.wants(nil, []string{"DIR: manifests can be used again, and are as they were"})

		// What was faulty before it could not be read is told again.
		write(t, f.file("b.yaml"), "kind: X\n")
		faulty := []string{"DIR: manifests cannot be used, the last good ones stay: DIR/b.yaml:1: apiVersion: is required"}
		f.looks(2)
		f.wants(nil, faulty)
		require.NoError(t, os.Rename(f.dir, f.dir+".gone"))
		f.looks(2)
		f.take()
		require.NoError(t, os.Rename(f.dir+".gone", f.dir))
		f.looks(2)
		f.wants(nil, faulty)

		require.NoError(t, f.Close())
		require.NoError(t, f.Close())
		write(t, f.file("b.yaml"), allowing("three"))
		f.looks(5)
		f.wants(nil, nil)
	})
}

// Current is not put in use once more, and what came after it was loaded is.
func TestWatcherCurrent(t *testing.T) {
	t.Parallel()
	for change, want := range map[bool][]string{false: nil, true: {"two"}} {
		synctest.Test(t, func(t *testing.T) {
			f := &following{t: t, dir: t.TempDir()}
			write(t, f.file("a.yaml"), allowing("one"))
			current, err := manifest.LoadDir(f.dir)
			require.NoError(t, err)
			if change {
				write(t, f.file("a.yaml"), allowing("two"))
			}
			f.start(current)
			f.looks(10)
			used, _ := f.take()
			assert.Equal(t, want, used)
		})
	}
}

// What Apply refuses is told once, offered ever more rarely, and put in use when
// it can be; something else is offered at once.
func TestWatcherRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, nil)
		tries := func() int {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.tries
		}
		refuse := func(err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.refuse = err
		}
		refuse(errors.New("no such upstream"))
		write(t, f.file("a.yaml"), allowing("one"))
		f.looks(2)
		refused := []string{"DIR: manifests are refused, those from before stay: no such upstream"}
		f.wants(nil, refused)
		for i, after := range []int{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			require.Equal(t, i+1, tries())
			f.looks(after - 1)
			require.Equal(t, i+1, tries(), "not yet")
			f.looks(1)
			require.Equal(t, i+2, tries())
		}
		f.wants(nil, nil)
		refuse(nil)
		write(t, f.file("a.yaml"), allowing("two"))
		f.looks(2)
		f.wants(inUse("two"))
		refuse(errors.New("no such upstream"))
		write(t, f.file("a.yaml"), allowing("three"))
		f.looks(2)
		f.wants(nil, refused)
		refuse(nil)
		f.looks(1)
		f.wants(inUse("three"))
	})
}

// A file that is written piece by piece is valid in between, and says less: here,
// a DENY is not there yet.
func TestWatcherHalfWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, nil)
		text := allowing("one") + "---\n" + allowing("two") + "---\n" + allowing("three")
		for n := 1; n < len(text); n += 50 {
			write(t, f.file("a.yaml"), text[:n])
			f.looks(1)
		}
		f.wants(nil, nil)
		write(t, f.file("a.yaml"), text)
		f.looks(2)
		f.wants(inUse("one two three"))
	})
}

// A folder that is never the same for two looks is never taken, and that is told.
func TestWatcherKeepsMoving(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, nil)
		write(t, f.file("a.yaml"), allowing("one"))
		f.looks(2)
		f.wants(inUse("one"))
		for i := range 20 {
			write(t, f.file("a.yaml"), allowing(fmt.Sprint("p", i)))
			f.looks(1)
			if i == 8 {
				f.wants(nil, nil)
			}
		}
		f.wants(nil, []string{"DIR: manifests keep changing, the last good ones stay: manifest: every look finds something else"})
		f.looks(1)
		f.wants(inUse("p19"))
	})
}

// Kubernetes swaps a link, so that all files change at once.
func TestWatcherKubernetes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, nil)
		publish := func(version string) {
			dir := f.file("..2026_" + version)
			require.NoError(t, os.Mkdir(dir, 0o700))
			for _, name := range []string{"a", "b"} {
				write(t, filepath.Join(dir, name+".yaml"), allowing(name+version))
			}
			require.NoError(t, os.Symlink(filepath.Base(dir), f.file("..data_tmp")))
			require.NoError(t, os.Rename(f.file("..data_tmp"), f.file("..data")))
		}
		publish("1")
		for _, name := range []string{"a", "b"} {
			require.NoError(t, os.Symlink("..data/"+name+".yaml", f.file(name+".yaml")))
		}
		f.looks(2)
		f.wants(inUse("a1 b1"))
		publish("2")
		require.NoError(t, os.RemoveAll(f.file("..2026_1")))
		f.looks(2)
		f.wants(inUse("a2 b2"))
		require.NoError(t, os.RemoveAll(f.file("..2026_2")))
		f.looks(2)
		f.wants(nil, []string{"DIR: manifests cannot be used, the last good ones stay: DIR/a.yaml: no such file or directory\nDIR/b.yaml: no such file or directory"})
	})
}

// What editors leave beside a file does not matter, nor does what cannot be read.
func TestWatcherStrangers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, nil)
		write(t, f.file("a.yaml"), allowing("one"))
		f.looks(2)
		f.wants(inUse("one"))
		for _, name := range []string{".a.yaml.swp", "a.yaml~", "#a.yaml#", "4913", "a.yaml.tmp123", "sedAbCdEf", ".a.yaml.Xy12Zz"} {
			write(t, f.file(name), "{")
		}
		require.NoError(t, os.Symlink("user@host.1234:1", f.file(".#a.yaml")))
		f.looks(5)
		f.wants(nil, nil)
		require.NoError(t, syscall.Mkfifo(f.file("b.yaml"), 0o600))
		f.looks(5)
		f.wants(nil, []string{"DIR: manifests cannot be used, the last good ones stay: DIR/b.yaml: is not a regular file"})
		// A file that can be read and is empty is another fault.
		require.NoError(t, os.Remove(f.file("b.yaml")))
		write(t, f.file("b.yaml"), "")
		f.looks(2)
		f.wants(nil, []string{"DIR: manifests cannot be used, the last good ones stay: DIR/b.yaml: there is no document in the file"})
		require.NoError(t, os.Remove(f.file("b.yaml")))
		require.NoError(t, os.Rename(f.file("a.yaml"), f.file("z.yaml")))
		f.looks(2)
		f.wants(inUse("one")) // under another name, which positions tell
	})
}

// Close waits for an Apply, so that what it uses can be closed after it.
func TestWatcherClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Bool
		w, err := manifest.NewWatcher(manifest.WatcherConfig{Dir: folder, Interval: interval, Apply: func(*manifest.Set) error {
			time.Sleep(time.Minute)
			ended.Store(true)
			return nil
		}})
		require.NoError(t, err)
		time.Sleep(2*interval + interval/2)
		require.NoError(t, w.Close())
		assert.True(t, ended.Load())
	})
}

// The work of a look is bounded.
func TestFolderLimits(t *testing.T) {
	t.Parallel()
	large := &fstest.MapFile{Data: bytes.Repeat([]byte("#"), 1<<20)}
	files := fstest.MapFS{}
	for i := range 65 {
		files[fmt.Sprintf("%d.yaml", i)] = large
	}
	_, err := manifest.LoadFS(files)
	require.EqualError(t, err, "manifest: the files in the folder . are larger than 64 MiB")
	for i := range 1001 {
		files[fmt.Sprintf("%d.yaml", i)] = &fstest.MapFile{Data: []byte("#")}
	}
	_, err = manifest.LoadFS(files)
	require.EqualError(t, err, "manifest: there are more than 1000 files in the folder .")
}

func TestWatcherConfig(t *testing.T) {
	t.Parallel()
	_, err := manifest.NewWatcher(manifest.WatcherConfig{Interval: -1})
	require.EqualError(t, err, "manifest: WatcherConfig.Dir is required\nmanifest: WatcherConfig.Apply is required\nmanifest: WatcherConfig.Interval must not be negative")
	require.NoError(t, new(manifest.Watcher).Close())
	var called atomic.Bool
	synctest.Test(t, func(t *testing.T) {
		w, err := manifest.NewWatcher(manifest.WatcherConfig{Dir: folder, Apply: func(*manifest.Set) error { called.Store(true); return nil }})
		require.NoError(t, err)
		time.Sleep(10*time.Second - time.Nanosecond)
		synctest.Wait()
		assert.False(t, called.Load())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		assert.True(t, called.Load(), "by default, after the second look of 5 s")
		require.NoError(t, w.Close())
	})
}
