package manifest

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
)

const (
	maxFiles  = 1000
	maxFolder = 64 << 20 // bytes of all files
)

// files is what was read of a folder, not yet understood.
type files struct {
	list []file
	sum  [sha256.Size]byte // of names, contents and what could not be read
}

type file struct {
	name string // as it is shown
	data []byte
	err  error
}

// readFS reads the root of fsys, which is the folder dir.
func readFS(fsys fs.FS, dir string) (files, error) {
	fail := func(format string, args ...any) (files, error) {
		return files{}, fmt.Errorf("manifest: "+format, args...)
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return fail("folder %s: %w", cmp.Or(dir, "."), reason(err))
	}
	var read files
	hash, total := sha256.New(), 0
	add := func(s string) {
		hash.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		hash.Write([]byte(s))
	}
	for _, e := range entries {
		ext := strings.ToLower(path.Ext(e.Name()))
		if ext != ".yaml" && ext != ".yml" || strings.HasPrefix(e.Name(), ".#") {
			continue
		}
		f := file{name: filepath.Join(dir, e.Name())}
		f.data, f.err = readFile(fsys, e.Name())
		read.list = append(read.list, f)
		add(e.Name())
		add(string(f.data))
		if f.err != nil {
			add(f.err.Error())
		}
		if len(read.list) > maxFiles {
			return fail("there are more than %d files in the folder %s", maxFiles, cmp.Or(dir, "."))
		}
		if total += len(f.data); total > maxFolder {
			return fail("the files in the folder %s are larger than 64 MiB", cmp.Or(dir, "."))
		}
	}
	if len(read.list) == 0 {
		return fail("there is no .yaml or .yml file in the folder %s", cmp.Or(dir, "."))
	}
	hash.Sum(read.sum[:0])
	return read, nil
}

// loaded makes a Set of what readFS returns.
func loaded(read files, err error) (*Set, error) {
	if err != nil {
		return nil, err
	}
	l := newLoader()
	for _, f := range read.list {
		if f.err != nil {
			l.set.unread = true
			l.faults.add(fault{file: f.name, text: reason(f.err).Error()})
			continue
		}
		l.file(f.name, f.data)
	}
	l.set.read = read.sum
	return l.finish()
}

// reason is err without the path, which stands in front of it already.
func reason(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

var errNotRegular = errors.New("is not a regular file")

// readFile reads one byte more than is allowed, so that the excess shows.
func readFile(fsys fs.FS, name string) ([]byte, error) {
	// A named pipe would block whoever opens it.
	if info, err := fs.Stat(fsys, name); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return nil, errNotRegular
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return data, err
}
