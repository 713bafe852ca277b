package mtls

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh/internal/follow"
)

// maxFolders bounds the folders of a folder.
const maxFolders = 1000

// edgeFile is a pair as it was read.
type edgeFile struct {
	from      string
	cert, key []byte
	err       error
	sum       follow.Version
}

// follow says how the certificates are read, and what is told about them.
func (e *Edge) follow(cfg EdgeConfig) follow.Config[edgeSet] {
	read := func() (follow.Contents[edgeSet], error) { return e.read(&cfg) }
	return follow.Config[edgeSet]{Interval: cfg.Interval, Read: read, Tell: follow.Teller{
		Observer: cfg.Observer, Layer: "mtls", Loaded: "edge certificates loaded", Faulty: "edge certificates not usable, the last good ones stay",
	}.Tell}
}

func (e *Edge) read(cfg *EdgeConfig) (out follow.Contents[edgeSet], err error) {
	pairs, err := cfg.pairs()
	if err != nil {
		return out, err
	}
	all := sha256.New()
	files := make([]*edgeFile, len(pairs))
	for i, p := range pairs {
		files[i] = p.read()
		all.Write(files[i].sum[:])
	}
	var authorities *edgeFile
	if cfg.ClientCA != "" {
		authorities = &edgeFile{from: cfg.ClientCA}
		authorities.cert, authorities.err = follow.ReadFile(cfg.ClientCA, maxFile)
		authorities.sum = sum(authorities.cert, authorities.err)
		all.Write(authorities.sum[:])
	}
	all.Sum(out.Version[:0])
	out.Make = func(last *edgeSet, now time.Time) (*edgeSet, error) {
		s, errs := &edgeSet{}, []error(nil)
		for _, f := range files {
			errs = append(errs, s.add(last.find(f.from), func(old *edgeCert) (*edgeCert, error) { return f.use(old, now) }))
		}
		for i, given := range cfg.Certificates {
			from := fmt.Sprintf("EdgeConfig.Certificates[%d]", i)
			errs = append(errs, s.add(last.find(from), func(old *edgeCert) (*edgeCert, error) {
				if old != nil {
					return old, nil // it cannot change
				}
				return newEdgeCert(from, given)
			}))
		}
		if authorities != nil {
			errs = append(errs, s.trust(authorities, last))
		}
		err := errors.Join(errs...)
		if s.equal(last) {
			return last, err
		}
		if e := s.index(e, cfg); e != nil {
			return nil, errors.Join(err, e)
		}
		return s, err
	}
	return out, nil
}

// pairs returns all pairs of files that there are now.
func (cfg *EdgeConfig) pairs() ([]EdgePair, error) {
	pairs := slices.Clone(cfg.Pairs)
	if cfg.Folder == "" {
		return pairs, nil
	}
	info, err := os.Stat(cfg.Folder)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a folder", cfg.Folder)
	}
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(cfg.Folder)
	}
	if err != nil {
		return nil, fmt.Errorf("mtls: EdgeConfig.Folder: %w", err)
	}
	if p, ok := pairIn(cfg.Folder); ok {
		pairs = append(pairs, p)
	}
	folders := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") { // as ..data, where Kubernetes keeps what it links to
			continue
		}
		if p, ok := pairIn(filepath.Join(cfg.Folder, e.Name())); ok {
			pairs = append(pairs, p)
			folders++
		}
	}
	if folders > maxFolders {
		return nil, fmt.Errorf("mtls: EdgeConfig.Folder: %s has more than %d folders with certificates", cfg.Folder, maxFolders)
	}
	return pairs, nil
}

// pairIn returns the pair of a folder, if at least one half of it is there.
func pairIn(folder string) (EdgePair, bool) {
	p := EdgePair{filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")}
	for _, path := range []string{p.Cert, p.Key} {
		if _, err := os.Lstat(path); err == nil {
			return p, true
		}
	}
	return p, false
}

func (p *EdgePair) read() *edgeFile {
	f := &edgeFile{from: p.Cert}
	var certErr, keyErr error
	f.cert, certErr = follow.ReadFile(p.Cert, maxFile)
	f.key, keyErr = follow.ReadFile(p.Key, maxFile)
	f.err = errors.Join(certErr, keyErr)
	f.sum = sum([]byte(p.Cert+"\x00"+p.Key), f.err, f.cert, f.key)
	return f
}

// sum identifies what was read, or why nothing was.
func sum(data []byte, err error, more ...[]byte) (out follow.Version) {
	h := sha256.New()
	for _, d := range append([][]byte{data, []byte(fmt.Sprint(err))}, more...) {
		part := sha256.Sum256(d)
		h.Write(part[:])
	}
	h.Sum(out[:0])
	return out
}

// use returns the certificate of the files if it is better than the old one.
func (f *edgeFile) use(old *edgeCert, now time.Time) (*edgeCert, error) {
	if f.err != nil {
		return nil, fmt.Errorf("mtls: %w", f.err)
	}
	if old != nil && old.sum == f.sum {
		return old, nil
	}
	if _, err := parsePEM(f.cert); err != nil {
		return nil, fmt.Errorf("mtls: %s: %w", f.from, err)
	}
	pair, err := tls.X509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("mtls: %s and its key: %w", f.from, err)
	}
	c, err := newEdgeCert(f.from, pair)
	if err != nil {
		return nil, err
	}
	if old != nil && !c.validAt(now) && old.validAt(now) {
		return nil, fmt.Errorf("mtls: %s: valid from %s to %s only", f.from, c.since.Format(time.RFC3339), c.until.Format(time.RFC3339))
	}
	c.sum = f.sum
	return c, nil
}
