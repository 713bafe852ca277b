package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/follow"
)

const (
	// maxKeyFile bounds a key file in bytes, and maxKeyFaults what is said about it.
	maxKeyFile   = 64 << 20
	maxKeyFaults = 64
	metaPrefix   = "meta."
)

var (
	errKeyFileUnset  = errors.New("auth: the KeyFile was not made by NewKeyFile")
	errKeyFileClosed = errors.New("auth: the KeyFile is closed")
)

// LoadKeyFile reads a KeySet from a file with one key a line:
//
//	# id       consumer   hash             what it may do           when it ends                  about it
//	billing-7  billing    sha256:9f86d0…   scopes=orders:read,jobs  expires=2027-01-31T00:00:00Z  meta.plan=gold
//
// Fields are separated by spaces or tabs. The first three are required; scopes
// (separated by commas), expires (RFC 3339) and any number of meta.NAME, up to
// the limits of [Key.Metadata], may follow. Empty lines and lines that begin
// with # are skipped. Everything else is an error that names its line, and all
// of them are reported at once, up to 64. The hash is what [HashKey] returns, so
// the file holds no secret.
//
// Every line ends with a newline, the last one too, and there is at least one:
// the end of a line that is still being written may be what limits the key. A
// file without keys has a comment. The limit is 64 MiB.
func LoadKeyFile(path string) (*KeySet, error) {
	data, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	s, err := parseKeyFile(path, string(data))
	if err != nil {
		return nil, err
	}
	return s, nil
}

func readKeyFile(path string) ([]byte, error) {
	data, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, keyFileError(path, err)
	}
	return data, nil
}

func keyFileError(path string, err error) error {
	if errors.Is(err, errTooLong) || errors.Is(err, follow.ErrTooLong) {
		err = fmt.Errorf("%s is longer than 64 MiB", path)
	}
	return fmt.Errorf("auth: key file: %w", err)
}

func parseKeyFile(path, text string) (*KeySet, error) {
	s, ids := &KeySet{map[KeyDigest]*APIKey{}}, map[string]bool{}
	var f faults
	n := 0
	for line := range strings.Lines(text) {
		n++
		if len(f) == maxKeyFaults {
			f.add("%s: and maybe more", path)
			break
		}
		line, ends := strings.CutSuffix(line, "\n")
		if !ends {
			f.add("%s:%d: the line does not end, so the file was cut short", path, n)
		}
		line = strings.Trim(line, " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		k, err := parseKeyLine(line)
		if err == nil {
			err = s.add(k, ids)
		}
		if err != nil {
			f.add("%s:%d: %w", path, n, err)
		}
	}
	if n == 0 {
		f.add("%s: the file is empty; without keys, it has a comment", path)
	}
	if err := errors.Join(f...); err != nil {
		return nil, err
	}
	return s, nil
}

func parseKeyLine(line string) (Key, error) {
	fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(fields) < 3 {
		return Key{}, errors.New("a key needs an id, a consumer and a hash")
	}
	k := Key{ID: fields[0], Consumer: fields[1], Hash: fields[2]}
	for _, field := range fields[3:] {
		name, value, ok := strings.Cut(field, "=")
		meta, isMeta := strings.CutPrefix(name, metaPrefix)
		_, twice := k.Metadata[meta]
		switch {
		case !ok || value == "":
			// Not quoted: whoever wrote a secret here should not find it in a log.
			return k, errors.New("a field after the hash is not name=value")
		case isMeta && twice:
			return k, errors.New("a meta field is there twice")
		case isMeta:
			if k.Metadata == nil {
				k.Metadata = map[string]string{}
			}
			k.Metadata[meta] = value
		case name == "scopes" && k.Scopes == nil:
			k.Scopes = strings.Split(value, ",")
		case name == "expires" && k.Expires.IsZero():
			t, err := time.Parse(time.RFC3339, value)
			if err != nil || t.IsZero() {
				return k, errors.New("expires is not a time as in RFC 3339")
			}
			k.Expires = t
		case name == "scopes", name == "expires":
			return k, fmt.Errorf("%s is there twice", name)
		case len(name) > 16 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_-") != "":
			return k, errors.New("unknown field") // it may be half of a secret
		default:
			return k, fmt.Errorf("unknown field %q", name)
		}
	}
	return k, nil
}

// KeyFileConfig configures a [KeyFile]. The zero KeyFileConfig is invalid: Path
// is required. All of it can be changed with [KeyFile.Update].
type KeyFileConfig struct {
	// Path is the file, of the form that [LoadKeyFile] reads. It must be a
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

// KeyFile is a [KeyStore] that follows a key file. It compares contents, so
// that the swap of a ..data link by Kubernetes is seen like any other change.
// Whoever writes the file should write another one and rename it: a file that
// is cut off between two lines looks like any other.
//
// A call sees the keys of one file, all of them. A file that is missing, cannot
// be read, or has a fault in any line leaves the last good keys in use, those it
// was to withdraw included, and is read again at the next interval. They have no
// age limit, because nobody but this host is asked.
//
// KeyFile owns a goroutine, which [KeyFile.Close] ends. It is safe for
// concurrent use. The zero KeyFile has no keys; make one with [NewKeyFile].
type KeyFile struct{ follower *follow.Follower[KeySet] } // nil for the zero KeyFile

// NewKeyFile returns a KeyFile with the keys that the file holds now. It reports
// every fault of cfg and of the file.
func NewKeyFile(cfg KeyFileConfig) (*KeyFile, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	f, err := follow.New(cfg.follow())
	if err != nil {
		return nil, err
	}
	return &KeyFile{f}, nil
}

// complete returns cfg with its defaults, or every fault of it.
func (cfg KeyFileConfig) complete() (KeyFileConfig, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	var f faults
	if cfg.Path == "" {
		f.add("KeyFileConfig.Path is required")
	}
	if cfg.Interval < 0 {
		f.add("KeyFileConfig.Interval must not be negative")
	}
	return cfg, errors.Join(f...)
}

// follow says how cfg's file is read, and what is told about it.
func (cfg KeyFileConfig) follow() follow.Config[KeySet] {
	return follow.Config[KeySet]{Interval: cfg.Interval, Read: cfg.read, Tell: follow.Teller{
		Observer: cfg.Observer, Layer: "auth", Loaded: "API keys loaded",
		Faulty:   "API key file not usable, the last good keys stay",
		Restored: "API key file is usable again, and as it was",
	}.Tell}
}

func (cfg *KeyFileConfig) read() (c follow.Contents[KeySet], err error) {
	data, err := follow.ReadFile(cfg.Path, maxKeyFile)
	if err != nil {
		return c, keyFileError(cfg.Path, err)
	}
	return follow.Contents[KeySet]{
		Version: sha256.Sum256(data),
		Make: func(*KeySet, time.Time) (*KeySet, error) {
			return parseKeyFile(cfg.Path, string(data))
		},
	}, nil
}

// Update replaces the configuration, all of it at once: when it returns, the
// keys are those that the file of cfg holds now. If cfg is invalid, its file
// cannot be used, or the KeyFile is closed, it returns an error, and
// configuration and keys stay as they were; it is for the caller to try again.
func (f *KeyFile) Update(cfg KeyFileConfig) error {
	if f.follower == nil {
		return errKeyFileUnset
	}
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	if err = f.follower.Update(cfg.follow()); errors.Is(err, follow.ErrClosed) {
		return errKeyFileClosed
	}
	return err
}

// Close stops looking at the file, and waits for the goroutine. The keys stay.
// It may be called more than once.
func (f *KeyFile) Close() error {
	if f.follower != nil {
		f.follower.Close()
	}
	return nil
}

// set returns the keys of the moment, nil for the zero KeyFile.
func (f *KeyFile) set() *KeySet {
	if f.follower == nil {
		return nil
	}
	return f.follower.Current()
}

// FindKey returns the key with the digest, or nil. It is always the answer.
func (f *KeyFile) FindKey(digest KeyDigest, now time.Time) (k *APIKey, known bool) {
	if s := f.set(); s != nil {
		return s.FindKey(digest, now)
	}
	return nil, true
}

// LoadKey returns what FindKey does.
func (f *KeyFile) LoadKey(_ context.Context, digest KeyDigest) (*APIKey, error) {
	k, _ := f.FindKey(digest, time.Time{})
	return k, nil
}

// Len returns the number of keys.
func (f *KeyFile) Len() int {
	if s := f.set(); s != nil {
		return s.Len()
	}
	return 0
}

// Format prints the number of keys, whatever the verb.
func (f *KeyFile) Format(s fmt.State, _ rune) {
	if f == nil {
		fmt.Fprint(s, "<nil key file>")
		return
	}
	fmt.Fprintf(s, "file with %d API keys", f.Len())
}
