package pool

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/follow"
)

const (
	// maxFile bounds a file of endpoints in bytes, and maxFileFaults what is said
	// about it.
	maxFile       = 8 << 20
	maxFileFaults = 64
	labelPrefix   = "label."
)

var errFileUnset = errors.New("the File was not made by NewFile")

// FileConfig configures a [File]. The zero FileConfig is invalid: Path is
// required.
type FileConfig struct {
	// Path is the file, with one endpoint a line:
	//
	//	# address     where it runs        its share  for Config.Selector
	//	10.0.0.1:8080 zone=eu-central-1a   weight=2   label.version=v2
	//	[fd00::1]:80
	//
	// Fields are separated by spaces or tabs; the address comes first, and the
	// others are as in [Target]. Empty lines and lines that begin with # are
	// skipped. Everything else is an error that names its line, as is an address
	// that is there twice. Every line ends with a newline, the last one too, and
	// there is at least one endpoint. The limits are 8 MiB and 10,000 endpoints.
	Path string
	// Interval is how often the file is looked at. Default: 1 s; at least 10 ms.
	Interval time.Duration
	// Observer receives a notice for every change, and a fault for a file that
	// cannot be used: once, until it can be or is faulty in another way.
	// Default: nobody.
	Observer gatemesh.Observer
}

// File is a [TargetResolver] that follows a file. It compares contents, so that
// the swap of a ..data link by Kubernetes is seen like any other change. Whoever
// writes the file should write another one and rename it. A file that is
// missing, cannot be read, or has a fault in any line leaves the last good
// endpoints in use, without a limit of age, as nobody but this host is asked.
//
// File owns a goroutine, which [File.Close] ends. It is safe for concurrent use,
// and may serve several pools. Make it with [NewFile]; the zero File is refused
// by [New].
type File struct{ follower *follow.Follower[[]Target] }

// NewFile returns a File with the endpoints that the file holds now. It reports
// every fault of cfg and up to 64 of the file.
func NewFile(cfg FileConfig) (*File, error) {
	setDefault(&cfg.Interval, time.Second)
	var errs []error
	if cfg.Path == "" {
		errs = append(errs, errors.New("pool: FileConfig.Path is required"))
	}
	if cfg.Interval < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("pool: FileConfig.Interval %v is less than 10ms", cfg.Interval))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	f, err := follow.New(follow.Config[[]Target]{Interval: cfg.Interval, Read: cfg.read, Tell: follow.Teller{
		Observer: cfg.Observer, Layer: "pool", Loaded: "endpoints loaded",
		Faulty:   "file of endpoints not usable, the last good ones stay",
		Restored: "file of endpoints is usable again, and as it was",
	}.Tell})
	if err != nil {
		return nil, err
	}
	return &File{f}, nil
}

func (cfg *FileConfig) read() (c follow.Contents[[]Target], err error) {
	data, err := follow.ReadFile(cfg.Path, maxFile)
	if err != nil {
		return c, fmt.Errorf("pool: file of endpoints: %w", err)
	}
	return follow.Contents[[]Target]{
		Version: sha256.Sum256(data),
		Make: func(*[]Target, time.Time) (*[]Target, error) {
			targets, err := parseFile(cfg.Path, string(data))
			if err != nil {
				return nil, err
			}
			return &targets, nil
		},
	}, nil
}

func parseFile(path, text string) ([]Target, error) {
	var (
		targets []Target
		errs    []error
	)
	seen := map[string]int{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		if len(errs) == maxFileFaults {
			errs = append(errs, fmt.Errorf("%s: and maybe more", path))
			break
		}
		fault := func(err error) { errs = append(errs, fmt.Errorf("%s:%d: %w", path, n, err)) }
		line, ends := strings.CutSuffix(line, "\n")
		if !ends {
			fault(errors.New("the line does not end, so the file was cut short"))
		}
		line = strings.Trim(line, " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		t, err := parseTarget(line)
		switch before := seen[t.Address]; {
		case err != nil:
			fault(err)
			continue
		case before > 0:
			fault(fmt.Errorf("%s is in line %d, too", t.Address, before))
			continue
		case len(targets) == limitMaxEndpoints:
			fault(fmt.Errorf("there are more than %d endpoints", limitMaxEndpoints))
			return nil, errors.Join(errs...)
		}
		seen[t.Address] = n
		targets = append(targets, t)
	}
	if len(targets) == 0 && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("%s: there is no endpoint", path))
	}
	return targets, errors.Join(errs...)
}

func parseTarget(line string) (t Target, err error) {
	fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	t.Address = fields[0]
	seen := map[string]bool{}
	for _, field := range fields[1:] {
		name, value, ok := strings.Cut(field, "=")
		label, isLabel := strings.CutPrefix(name, labelPrefix)
		switch {
		case !ok:
			return t, fmt.Errorf("%q is not name=value", short(field))
		case seen[name]:
			return t, fmt.Errorf("%q is there twice", short(name))
		case name == "zone":
			t.Zone = value
		case name == "weight":
			if t.Weight, err = strconv.Atoi(value); err != nil || t.Weight < 1 {
				return t, fmt.Errorf("the weight %q is not a number above 0", short(value))
			}
		case isLabel:
			if t.Labels == nil {
				t.Labels = map[string]string{}
			}
			t.Labels[label] = value
		default:
			return t, fmt.Errorf("%q is unknown", short(name))
		}
		seen[name] = true
	}
	return t.canonical()
}

// fault is for [New].
func (f *File) fault() error {
	if f == nil || f.follower == nil {
		return errFileUnset
	}
	return nil
}

// Targets implements [TargetResolver].
func (f *File) Targets(context.Context) ([]Target, error) {
	if err := f.fault(); err != nil {
		return nil, err
	}
	return *f.follower.Current(), nil
}

// Resolve implements [Resolver].
func (f *File) Resolve(ctx context.Context) ([]string, error) {
	targets, err := f.Targets(ctx)
	return static(targets).addrs(), err
}

// Close stops looking at the file, and waits for the goroutine. The endpoints
// stay. It may be called more than once.
func (f *File) Close() error {
	if f.follower != nil {
		f.follower.Close()
	}
	return nil
}
