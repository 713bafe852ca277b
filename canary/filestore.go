package canary

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kept is how many revisions stay.
const kept = 8

// maxValue bounds what is read of a file.
const maxValue = 1 << 20

// FileStore keeps values as files of one folder, which several processes may
// share, also over a network. Each revision is a file of its own, KEY.REVISION,
// that appears whole or not at all: written beside, synced, and linked under a
// name that must not exist yet. The folder must be on a file system with hard
// links. The last eight revisions stay.
//
// Files are made for their owner alone (0600). Links to elsewhere are not
// followed, what is no regular file is an error, and a revision that is damaged
// is passed over for the one before it.
type FileStore struct{ root *os.Root }

// NewFileStore returns a store in the folder dir, which is made (0700) if it is
// not there. [FileStore.Close] releases it.
func NewFileStore(dir string) (*FileStore, error) {
	if dir == "" {
		return nil, errors.New("canary: NewFileStore: dir is required")
	}
	if err := os.MkdirAll(filepath.Clean(dir), 0o700); err != nil {
		return nil, fmt.Errorf("canary: the store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("canary: the store: %w", err)
	}
	s := &FileStore{root}
	s.tidy(time.Now())
	return s, nil
}

const unfinished = ".new."

// tidy removes what processes that died left behind.
func (s *FileStore) tidy(now time.Time) {
	old, _ := fs.Glob(s.root.FS(), unfinished+"*") // what cannot be read stays
	for _, name := range old {
		if info, err := s.root.Lstat(name); err == nil && now.Sub(info.ModTime()) > time.Hour {
			_ = s.root.Remove(name)
		}
	}
}

// Close releases the folder. The store is not usable afterwards.
func (s *FileStore) Close() error { return s.root.Close() }

// Load implements [Store].
func (s *FileStore) Load(_ context.Context, key string) ([]byte, string, error) {
	var errs []error
	for range 3 { // others may tidy up in between
		errs = nil
		revisions, err := s.revisions(key)
		if err != nil || len(revisions) == 0 {
			return nil, "", err
		}
		for _, r := range revisions { // the highest first
			value, err := s.read(fileName(key, r))
			if err == nil {
				return value, strconv.FormatUint(revisions[0], 10), nil
			}
			errs = append(errs, err)
		}
	}
	return nil, "", fmt.Errorf("canary: the store: %w", errors.Join(errs...))
}

// Save implements [Store].
func (s *FileStore) Save(_ context.Context, key string, value []byte, revision string) (string, error) {
	var have uint64
	if revision != "" {
		var err error
		if have, err = strconv.ParseUint(revision, 10, 64); err != nil {
			return "", fmt.Errorf("canary: the store: %q is no revision of it", revision)
		}
	}
	if len(value) > maxValue-sumLength {
		return "", fmt.Errorf("canary: the store: a value of %d bytes is too large", len(value))
	}
	if latest, err := s.latest(key); err != nil {
		return "", err
	} else if latest != have {
		return "", ErrConflict
	}
	next := have + 1
	if err := s.write(fileName(key, next), value); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return "", ErrConflict
		}
		return "", fmt.Errorf("canary: the store: %w", err)
	}
	revisions, err := s.revisions(key)
	if err != nil {
		return "", err
	}
	// Others may have gone on from it already. If they are so far that they
	// have removed files, then maybe the one that would have stopped us.
	if revisions[0] >= next+kept {
		return "", ErrConflict
	}
	for _, r := range revisions {
		if r+kept <= next {
			_ = s.root.Remove(fileName(key, r)) // somebody else may have
		}
	}
	return strconv.FormatUint(next, 10), nil
}

func fileName(key string, revision uint64) string {
	return url.PathEscape(key) + "." + strconv.FormatUint(revision, 10)
}

func (s *FileStore) latest(key string) (uint64, error) {
	revisions, err := s.revisions(key)
	if err != nil || len(revisions) == 0 {
		return 0, err
	}
	return revisions[0], nil
}

// revisions returns the revisions of key, the highest first.
func (s *FileStore) revisions(key string) ([]uint64, error) {
	dir, err := s.root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("canary: the store: %w", err)
	}
	defer func() { _ = dir.Close() }() // it was only read
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("canary: the store: %w", err)
	}
	var all []uint64
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, url.PathEscape(key)+".")
		if r, err := strconv.ParseUint(digits, 10, 64); ok && err == nil && strconv.FormatUint(r, 10) == digits {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b uint64) int { return cmp.Compare(b, a) })
	return all, nil
}

// sumLength is that of the first line, the SHA-256 of what follows.
const sumLength = 2*sha256.Size + 1

func sumOf(value []byte) string {
	sum := sha256.Sum256(value)
	return hex.EncodeToString(sum[:]) + "\n"
}

func (s *FileStore) read(name string) ([]byte, error) {
	// Looked at before it is opened: to open a pipe would wait for its other end.
	if info, err := s.root.Lstat(name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	f, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxValue))
	if err != nil {
		return nil, err
	}
	if len(data) < sumLength || !bytes.Equal(data[:sumLength], []byte(sumOf(data[sumLength:]))) {
		return nil, fmt.Errorf("%s is damaged", name)
	}
	return data[sumLength:], nil
}

func (s *FileStore) write(name string, value []byte) (err error) {
	temp := unfinished + rand.Text()
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = s.root.Remove(temp) }() // the link stays
	_, err = f.Write(append([]byte(sumOf(value)), value...))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := s.root.Link(temp, name); err != nil {
		return err
	}
	dir, err := s.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
