package canary_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/canary"
)

func fileStore(t testing.TB, dir string) *canary.FileStore {
	t.Helper()
	s, err := canary.NewFileStore(dir)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func TestStores(t *testing.T) {
	t.Parallel()
	stores := map[string]canary.Store{"memory": canary.NewMemoryStore(), "file": fileStore(t, filepath.Join(t.TempDir(), "state"))}
	for name, s := range stores {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			for _, key := range []string{"orders.production", "../a/b", ".."} {
				value, rev, err := s.Load(ctx, key)
				require.NoError(t, err)
				assert.Empty(t, value)
				assert.Empty(t, rev)
				one := []byte("one")
				first, err := s.Save(ctx, key, one, "")
				require.NoError(t, err)
				copy(one, "XXX")
				got, _, err := s.Load(ctx, key)
				require.NoError(t, err)
				copy(got, "XXX") // neither is the store's
				_, err = s.Save(ctx, key, []byte("two"), "")
				require.ErrorIs(t, err, canary.ErrConflict)
				value, rev, err = s.Load(ctx, key)
				require.NoError(t, err)
				assert.Equal(t, "one", string(value))
				assert.Equal(t, first, rev)
				second, err := s.Save(ctx, key, []byte("two"), rev)
				require.NoError(t, err)
				_, err = s.Save(ctx, key, []byte("three"), first)
				require.ErrorIs(t, err, canary.ErrConflict)
				_, err = s.Save(ctx, key, []byte("three"), second)
				require.NoError(t, err)
				value, _, err = s.Load(ctx, key)
				require.NoError(t, err)
				assert.Equal(t, "three", string(value))
			}
		})
	}
}

// TestCompareAndSwap: of those who save at the same time one succeeds, in
// several processes, too.
func TestCompareAndSwap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var saved atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		s := fileStore(t, dir)
		wg.Go(func() {
			for range 50 {
				value, rev, err := s.Load(t.Context(), "k")
				if !assert.NoError(t, err) {
					return
				}
				n := 0
				if len(value) > 0 {
					_, err = fmt.Sscan(string(value), &n)
					assert.NoError(t, err)
				}
				switch _, err := s.Save(t.Context(), "k", fmt.Append(nil, n+1), rev); err {
				case nil:
					saved.Add(1)
				default:
					assert.ErrorIs(t, err, canary.ErrConflict)
				}
			}
		})
	}
	wg.Wait()
	value, _, err := fileStore(t, dir).Load(t.Context(), "k")
	require.NoError(t, err)
	n, err := strconv.Atoi(string(value))
	require.NoError(t, err)
	// A writer that is overtaken by eight others is told of a conflict.
	assert.GreaterOrEqual(t, n, int(saved.Load()), "no update is lost")
	assert.Positive(t, saved.Load())
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.LessOrEqual(t, len(files), 8, "old revisions go")
}

func TestFilesAreHostile(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	setUp := func(t *testing.T) (dir string, s *canary.FileStore) {
		dir = t.TempDir()
		s = fileStore(t, dir)
		rev, err := s.Save(ctx, "k", []byte("one"), "")
		require.NoError(t, err)
		_, err = s.Save(ctx, "k", []byte("two"), rev)
		require.NoError(t, err)
		return dir, s
	}
	t.Run("for the owner alone", func(t *testing.T) {
		t.Parallel()
		dir, _ := setUp(t)
		info, err := os.Stat(filepath.Join(dir, "k.2"))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
		_, err = os.Stat(filepath.Join(dir, "k.1"))
		require.NoError(t, err, "the one before stays")
	})
	t.Run("damaged", func(t *testing.T) {
		t.Parallel()
		dir, s := setUp(t)
		data, err := os.ReadFile(filepath.Join(dir, "k.2"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "k.2"), append(data, 'x'), 0o600))
		value, rev, err := s.Load(ctx, "k")
		require.NoError(t, err)
		assert.Equal(t, "one", string(value), "the last good one")
		_, err = s.Save(ctx, "k", []byte("three"), rev)
		require.NoError(t, err, "and it goes on from there")
		value, _, err = s.Load(ctx, "k")
		require.NoError(t, err)
		assert.Equal(t, "three", string(value))
	})
	t.Run("all damaged", func(t *testing.T) {
		t.Parallel()
		dir, s := setUp(t)
		require.NoError(t, os.Truncate(filepath.Join(dir, "k.1"), 10))
		require.NoError(t, os.Truncate(filepath.Join(dir, "k.2"), 0))
		_, _, err := s.Load(ctx, "k")
		require.ErrorContains(t, err, "k.2 is damaged")
	})
	t.Run("a link to elsewhere", func(t *testing.T) {
		t.Parallel()
		dir, s := setUp(t)
		elsewhere := filepath.Join(t.TempDir(), "secret")
		require.NoError(t, os.WriteFile(elsewhere, []byte("secret"), 0o600))
		require.NoError(t, os.Symlink(elsewhere, filepath.Join(dir, "k.3")))
		value, _, err := s.Load(ctx, "k")
		require.NoError(t, err)
		assert.Equal(t, "two", string(value))
	})
	t.Run("too large, other names", func(t *testing.T) {
		t.Parallel()
		dir, s := setUp(t)
		_, err := s.Save(ctx, "k", make([]byte, 2<<20), "2")
		require.ErrorContains(t, err, "too large")
		for _, name := range []string{"k.", "k.x", "k.03", "k.-1", "kk.9", "k.2.9"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		}
		_, rev, err := s.Load(ctx, "k")
		require.NoError(t, err)
		assert.Equal(t, "2", rev)
		_, err = s.Save(ctx, "k", nil, "x")
		require.ErrorContains(t, err, "no revision")
	})
	t.Run("what processes that died left behind", func(t *testing.T) {
		t.Parallel()
		dir, _ := setUp(t)
		old, fresh := filepath.Join(dir, ".new.OLD"), filepath.Join(dir, ".new.FRESH")
		require.NoError(t, os.WriteFile(old, nil, 0o600))
		require.NoError(t, os.WriteFile(fresh, nil, 0o600))
		require.NoError(t, os.Chtimes(old, time.Time{}, time.Now().Add(-2*time.Hour)))
		fileStore(t, dir)
		assert.NoFileExists(t, old)
		assert.FileExists(t, fresh, "somebody may be writing it")
		assert.FileExists(t, filepath.Join(dir, "k.2"))
	})
	t.Run("a revision in between is gone", func(t *testing.T) {
		t.Parallel()
		dir, s := setUp(t)
		require.NoError(t, os.Remove(filepath.Join(dir, "k.1")))
		require.NoError(t, os.Rename(filepath.Join(dir, "k.2"), filepath.Join(dir, "k.3")))
		_, err := s.Save(ctx, "k", []byte("late"), "1")
		require.ErrorIs(t, err, canary.ErrConflict, "it would not be the latest")
	})
	t.Run("a pipe", func(t *testing.T) {
		t.Parallel()
		dir, s := setUp(t)
		require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "k.3"), 0o600))
		value, _, err := s.Load(ctx, "k")
		require.NoError(t, err, "nobody waits for its other end")
		assert.Equal(t, "two", string(value))
	})
	t.Run("the highest number there is", func(t *testing.T) {
		t.Parallel()
		dir, s := setUp(t)
		require.NoError(t, os.Symlink("k.2", filepath.Join(dir, "k.18446744073709551615")))
		value, rev, err := s.Load(ctx, "k")
		require.NoError(t, err)
		assert.Equal(t, "two", string(value))
		_, err = s.Save(ctx, "k", []byte("three"), rev)
		require.Error(t, err, "nothing comes behind it")
		value, _, err = s.Load(ctx, "k")
		require.NoError(t, err)
		assert.Equal(t, "two", string(value))
	})
	_, err := canary.NewFileStore("")
	require.EqualError(t, err, "canary: NewFileStore: dir is required")
}
