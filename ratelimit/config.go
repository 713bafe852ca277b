package ratelimit

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

const (
	defaultMaxKeys = 100_000
	minKeys        = 1_000 // below that, the shards of the table would be too small to be fair
	maxNameLen     = 64
)

// Config configures a [Limiter]. The zero Config is invalid: Name, Key and
// Limit are required.
type Config struct {
	// Name is the policy's name in response fields, events and errors, such as
	// "consumer". Required; 1 to 64 of a-z, 0-9, "_" and "-".
	Name string
	// Key says whom a call is charged to. Required.
	Key Key
	// Limit is how much each key may do. Required.
	Limit Limit
	// MaxKeys bounds the number of keys that are remembered, and so the
	// memory: about 300 bytes each, and at most 256 more for a long key.
	// Default: 100,000; at least 1,000. Beyond
	// it, keys with few calls are forgotten, which the Observer learns at most
	// once a minute. Keys spread evenly but not exactly, so a few are
	// forgotten already when the table is nearly full.
	MaxKeys int
	// DisableFields leaves the fields RateLimit and RateLimit-Policy off the
	// responses. Retry-After stays. Default: they are sent.
	DisableFields bool
	// Observer receives faults. Default: nobody.
	Observer gatemesh.Observer
}

// validate reports every fault of cfg at once.
func (cfg *Config) validate() error {
	var errs []error
	switch {
	case cfg.Name == "":
		errs = append(errs, errors.New("ratelimit: Config.Name is required"))
	case len(cfg.Name) > maxNameLen || strings.Trim(cfg.Name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "":
		errs = append(errs, fmt.Errorf("ratelimit: Config.Name %q is not 1 to %d of a-z, 0-9, _ and -", cfg.Name, maxNameLen))
	}
	errs = append(errs, cfg.Key.fault())
	errs = append(errs, cfg.Limit.faults("ratelimit: Config.Limit.")...)
	if cfg.MaxKeys != 0 && cfg.MaxKeys < minKeys {
		errs = append(errs, fmt.Errorf("ratelimit: Config.MaxKeys must be at least %d", minKeys))
	}
	return errors.Join(errs...)
}

// withDefaults returns cfg with the documented defaults filled in.
func (cfg Config) withDefaults() Config {
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = defaultMaxKeys
	}
	return cfg
}
