package canary

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"sync"
)

// A Store keeps the state of rollouts, so that it survives a restart, and so
// that replicas agree. Several replicas share one, such as a folder on a shared
// disk, a ConfigMap with its resourceVersion, or a key in Redis. It must be safe
// for concurrent use, and should return when ctx ends.
type Store interface {
	// Load returns the value of key and its revision. Both are empty if there is
	// none.
	Load(ctx context.Context, key string) (value []byte, revision string, err error)
	// Save sets the value of key if its revision is still the given one, and
	// returns the new revision. Otherwise it returns an error that is
	// [ErrConflict]. It may do so, too, for a value that was saved and that others
	// have gone on from already, but never the other way round.
	Save(ctx context.Context, key string, value []byte, revision string) (string, error)
}

// ErrConflict is the error of a [Store] whose value has changed since it was
// loaded.
var ErrConflict = errors.New("canary: the value in the store has changed")

// NewMemoryStore returns a Store that forgets everything when the process ends,
// rollbacks included. It is for tests.
func NewMemoryStore() Store { return &memory{values: map[string]remembered{}} }

type memory struct {
	mu     sync.Mutex
	values map[string]remembered
}

type remembered struct {
	value    []byte
	revision uint64
}

func (m *memory) Load(_ context.Context, key string) ([]byte, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.values[key]
	if !ok {
		return nil, "", nil
	}
	return bytes.Clone(v.value), strconv.FormatUint(v.revision, 10), nil
}

func (m *memory) Save(_ context.Context, key string, value []byte, revision string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := ""
	v, ok := m.values[key]
	if ok {
		now = strconv.FormatUint(v.revision, 10)
	}
	if now != revision {
		return "", ErrConflict
	}
	v = remembered{bytes.Clone(value), v.revision + 1}
	m.values[key] = v
	return strconv.FormatUint(v.revision, 10), nil
}
