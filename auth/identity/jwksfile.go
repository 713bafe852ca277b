package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/follow"
)

// JWKSFileConfig configures a [JWKSFile]. The zero JWKSFileConfig is invalid:
// Path is required. All of it can be changed with [JWKSFile.Update].
type JWKSFileConfig struct {
	// Path is a file with a JWK set, as [ParseJWKS] reads it. It must be a
	// regular file, or a symbolic link to one. Required.
	Path string
	// Interval is how often the file is looked at, and so the time after which
	// a withdrawn key is refused. Default: 10 s. Must not be negative.
	Interval time.Duration
	// Observer receives a notice for every change of the keys, and a fault for a
	// file that cannot be used: once, until it can be or is faulty in another
	// way. Default: nobody.
	Observer gatemesh.Observer
}

// JWKSFile is a [KeySource] that follows the published keys of the edge in a
// file, such as one that a ConfigMap projects. A file that is missing, cannot
// be read or has a fault leaves the last good keys in use, those it was to
// withdraw included, and is read again at the next interval.
//
// JWKSFile owns a goroutine, which [JWKSFile.Close] ends. It is safe for
// concurrent use. The zero JWKSFile knows no key; make one with [NewJWKSFile].
type JWKSFile struct {
	follower *follow.Follower[StaticKeys] // nil for the zero JWKSFile
}

var (
	errJWKSFileUnset  = errors.New("identity: the JWKSFile was not made by NewJWKSFile")
	errJWKSFileClosed = errors.New("identity: the JWKSFile is closed")
)

// NewJWKSFile returns a JWKSFile with the keys that the file holds now. It
// reports every fault of cfg and of the file.
func NewJWKSFile(cfg JWKSFileConfig) (*JWKSFile, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	f, err := follow.New(cfg.follow())
	if err != nil {
		return nil, err
	}
	return &JWKSFile{f}, nil
}

// complete returns cfg with its defaults, or every fault of it.
func (cfg JWKSFileConfig) complete() (JWKSFileConfig, error) {
	var errs []error
	if cfg.Path == "" {
		errs = append(errs, errors.New("identity: JWKSFileConfig.Path is required"))
	}
	if cfg.Interval < 0 {
		errs = append(errs, errors.New("identity: JWKSFileConfig.Interval must not be negative"))
	}
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	return cfg, errors.Join(errs...)
}

// follow says how cfg's file is read, and what is told about it.
func (cfg JWKSFileConfig) follow() follow.Config[StaticKeys] {
	return follow.Config[StaticKeys]{Interval: cfg.Interval, Read: cfg.read, Tell: follow.Teller{
		Observer: cfg.Observer, Layer: "identity", Loaded: "identity keys loaded",
		Faulty:   "identity key file not usable, the last good keys stay",
		Restored: "identity key file is usable again, and as it was",
	}.Tell}
}

func (cfg *JWKSFileConfig) read() (c follow.Contents[StaticKeys], err error) {
	data, err := follow.ReadFile(cfg.Path, maxJWKS)
	if err != nil {
		return c, fmt.Errorf("identity: key file: %w", err)
	}
	return follow.Contents[StaticKeys]{
		Version: sha256.Sum256(data),
		Make: func(*StaticKeys, time.Time) (*StaticKeys, error) {
			keys, err := ParseJWKS(data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", cfg.Path, err)
			}
			return &keys, nil
		},
	}, nil
}

// Update replaces the configuration, all of it at once: when it returns, the
// keys are those that the file of cfg holds now. If cfg is invalid, its file
// cannot be used, or the JWKSFile is closed, it returns an error, and
// configuration and keys stay as they were.
func (f *JWKSFile) Update(cfg JWKSFileConfig) error {
	if f.follower == nil {
		return errJWKSFileUnset
	}
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	if err = f.follower.Update(cfg.follow()); errors.Is(err, follow.ErrClosed) {
		return errJWKSFileClosed
	}
	return err
}

// Key implements [KeySource].
func (f *JWKSFile) Key(id string) (ed25519.PublicKey, bool) {
	if f.follower == nil {
		return nil, false
	}
	return f.follower.Current().Key(id)
}

// Len returns how many keys there are.
func (f *JWKSFile) Len() int {
	if f.follower == nil {
		return 0
	}
	return f.follower.Current().Len()
}

// Close stops looking at the file, and waits for the goroutine. The keys stay.
// It may be called more than once.
func (f *JWKSFile) Close() error {
	if f.follower != nil {
		f.follower.Close()
	}
	return nil
}
