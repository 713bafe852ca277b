package follow_test

import (
	"errors"
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
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh/internal/follow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(at("a"), []byte("12345"), 0o600))
	require.NoError(t, os.Symlink("a", at("link")))
	require.NoError(t, os.Symlink("loop", at("loop")))
	require.NoError(t, syscall.Mkfifo(at("pipe"), 0o600))
	writer, err := os.OpenFile(at("pipe"), os.O_RDWR, 0) // so that it would never end
	require.NoError(t, err)
	defer func() { require.NoError(t, writer.Close()) }()
	require.NoError(t, syscall.Mkfifo(at("nobody"), 0o600))
	for _, name := range []string{"a", "link"} {
		data, err := follow.ReadFile(at(name), 5)
		require.NoError(t, err)
		assert.Equal(t, "12345", string(data))
		_, err = follow.ReadFile(at(name), 4)
		require.ErrorIs(t, err, follow.ErrTooLong)
		assert.ErrorContains(t, err, at(name))
	}
	for name, want := range map[string]string{
		"absent": "no such file", "loop": "too many", ".": "not a regular file", "pipe": "not a regular file", "nobody": "not a regular file",
	} {
		_, err := follow.ReadFile(at(name), 5)
		assert.ErrorContains(t, err, want, name)
	}
	_, err = follow.ReadFile("/dev/zero", 5)
	assert.ErrorContains(t, err, "not a regular file")
}

// script is what each Read finds: a text, of which "bad" is of no use and "half"
// in part.
type script struct {
	mu    sync.Mutex
	texts []string // the last one stays
	told  []follow.News
}

func (s *script) finds(texts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.texts = texts
}

// take returns what was told since the last time.
func (s *script) take() []follow.News {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.told
	s.told = nil
	return told
}

func (s *script) config() follow.Config[string] {
	return follow.Config[string]{
		Interval: time.Second,
		Tell: func(n follow.News, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.told = append(s.told, n)
			if (n == follow.Faulty) != (err != nil) {
				panic("an error belongs to a fault")
			}
		},
		Read: func() (c follow.Contents[string], err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			text := s.texts[0]
			if len(s.texts) > 1 {
				s.texts = s.texts[1:]
			}
			if text == "" {
				return c, errors.New("nothing there")
			}
			copy(c.Version[:], text)
			c.Make = func(last *string, _ time.Time) (*string, error) {
				switch {
				case strings.HasPrefix(text, "bad"):
					return nil, errors.New(text)
				case strings.HasPrefix(text, "half") && *last == text:
					return last, errors.New(text)
				case strings.HasPrefix(text, "half"):
					return &text, errors.New(text)
				}
				return &text, nil
			}
			return c, nil
		},
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	s := &script{texts: []string{"a"}}
	w, changed, err := follow.Begin(s.config(), nil, time.Now())
	require.NoError(t, err)
	assert.True(t, changed)
	const loaded, faulty, restored = follow.Loaded, follow.Faulty, follow.Restored
	for i, step := range []struct {
		texts string
		want  string
		told  []follow.News
	}{
		{"a", "a", nil},
		{"b", "b", []follow.News{loaded}},
		{"bad", "b", []follow.News{faulty}},
		{"bad", "b", nil},
		{"bad2", "b", []follow.News{faulty}},
		{"", "b", []follow.News{faulty}},
		{"b", "b", []follow.News{restored}},
		{"b", "b", nil},
		{"c d", "b", nil}, // while it is read
		{"bad", "b", []follow.News{faulty}},
		{"c d", "b", nil},
		{"bad", "b", nil}, // nothing was told in between
		{"half", "half", []follow.News{loaded, faulty}},
		{"half", "half", nil},
		{"b", "b", []follow.News{loaded}}, // as it was before half, which is in use
		{"half", "half", []follow.News{loaded, faulty}},
		{"c", "c", []follow.News{loaded}},
	} {
		s.finds(strings.Split(step.texts, " ")...)
		w.Look(time.Now())()
		assert.Equal(t, step.want, *w.Current(), i)
		assert.Equal(t, step.told, s.take(), i)
	}

	// What has not changed stays in the next Watch; what is of no use begins none.
	s.finds("c")
	next, changed, err := follow.Begin(s.config(), w, time.Now())
	require.NoError(t, err)
	assert.False(t, changed)
	assert.Same(t, w.Current(), next.Current())
	for _, text := range []string{"", "bad", "half"} {
		s.finds(text)
		_, _, err = follow.Begin(s.config(), w, time.Now())
		require.Error(t, err)
	}
	s.finds("d")
	next, changed, err = follow.Begin(s.config(), w, time.Now())
	require.NoError(t, err)
	assert.True(t, changed)
	assert.Equal(t, "d", *next.Current())
	assert.Equal(t, "c", *w.Current())
}

func TestFollower(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{texts: []string{"bad"}}
		_, err := follow.New(s.config())
		require.Error(t, err)
		s.finds("a")
		f, err := follow.New(s.config())
		require.NoError(t, err)
		next := &script{texts: []string{"b"}}
		cfg := next.config()
		cfg.Interval = time.Minute
		require.NoError(t, f.Update(cfg))
		assert.Equal(t, "b", *f.Current())
		assert.Equal(t, []follow.News{follow.Loaded}, next.take())
		next.finds("c")
		time.Sleep(40 * time.Second)
		require.NoError(t, f.Update(cfg)) // sees c, and puts nothing off
		next.finds("d")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		assert.Equal(t, "d", *f.Current())
		next.finds("bad")
		require.Error(t, f.Update(cfg))
		f.Close()
		f.Close()
		next.finds("e")
		time.Sleep(time.Hour)
		require.ErrorIs(t, f.Update(cfg), follow.ErrClosed)
		assert.Equal(t, "d", *f.Current())
		assert.Empty(t, s.take())
	})
}
