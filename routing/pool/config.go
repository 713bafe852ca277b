package pool

import (
	"errors"
	"fmt"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

const (
	defaultInterval     = 2 * time.Second
	defaultTimeout      = 2 * time.Second
	defaultMaxStale     = 5 * time.Minute
	defaultCooldown     = 500 * time.Millisecond
	defaultMaxEndpoints = 1_000
	limitMaxEndpoints   = 10_000
	maxNameLen          = 253

	defaultFailures   = 5
	defaultBase       = 5 * time.Second
	defaultMax        = time.Minute
	defaultMaxPercent = 50
)

// Config configures a [Pool]. The zero Config is invalid: Name and Resolver
// are required.
type Config struct {
	// Name names the pool in events and errors, such as "orders.shop".
	// Required; at most 253 bytes.
	Name string
	// Resolver says who serves. Required. See [Static] and [NewDNS].
	Resolver Resolver
	// Interval is the longest time between the end of a lookup and the begin
	// of the next. Lookups come up to a fifth earlier, so that replicas do not
	// march in step. Default: 2 s; 10 ms to 1 h. With it, a pod that joins a
	// headless service is seen within 5 s by those who ask the authoritative
	// server, and behind a cache within 5 s of the end of the record's TTL.
	Interval time.Duration
	// Timeout bounds a lookup, and the wait of the first requests for the
	// first one. Default: 2 s; 1 ms to 1 min.
	Timeout time.Duration
	// MaxStale is how long the last good endpoints are used while lookups fail
	// or find nobody. Default: 5 min, or Interval if that is more, which is
	// also its lower limit; at most 30 days.
	MaxStale time.Duration
	// Cooldown is the shortest time between the begins of two lookups, however
	// often connections fail. Default: 500 ms, or Interval if that is less,
	// which is also its upper limit; at least 1 ms.
	Cooldown time.Duration
	// MaxEndpoints bounds how many endpoints are used: the first ones in the
	// order of their addresses. The Observer hears when there are more. As many
	// are remembered of those that were lost; see [Ejection.Max].
	// Default: 1,000; at most 10,000.
	MaxEndpoints int
	// Ejection says when an endpoint that fails is left alone for a while.
	Ejection Ejection
	// Observer hears of lookups that fail or work again. It is called on the
	// goroutine that looks up. Default: nobody.
	Observer gatemesh.Observer
}

// Ejection configures passive outlier ejection: endpoints are judged by how
// the attempts at them end. The zero Ejection has the documented defaults.
//
// How they end is not up to the endpoint alone: a client may have requests that
// bring forth a [Failure] wherever they go. While more than half of the
// endpoints have failed the last time, a Failure ejects none: a client who is
// alone, or has most of the load, ejects nobody once its attempts have gone to
// more than half. One among others still can: it takes Failures attempts of its
// own at an endpoint in a row, with no success of another client between them,
// while the last attempt at half of the endpoints was no failure. Whatever a
// client does, no more than MaxPercent are out, each for no longer than Max at a
// time, and those that are in get the load. Where that is too much, choose a
// lower MaxPercent, more Failures, or Disable. [Unreachable] counts always: a
// client brings it forth only by what ends the process of an endpoint, or keeps
// it from accepting connections.
type Ejection struct {
	// Disable keeps endpoints in, however they fail.
	Disable bool
	// Failures is how many attempts in a row have to end in [Failure]. One
	// [Unreachable] is enough, whatever Failures says and others show. Default:
	// 5; 1 to 1,000.
	Failures int
	// Base is how long an endpoint is left alone the first time. Each repeat
	// doubles it. An endpoint that comes back is out again at its next failure,
	// until an attempt succeeds. Default: 5 s, or Max if that is less; at least
	// 1 ms.
	Base time.Duration
	// Max bounds the time. An endpoint that was in for that long without a
	// break starts over with Base, and one whose address lookups have not found
	// for that long is forgotten. Default: 1 min, or Base if that is more, which
	// is also its lower limit; at most 1 h.
	Max time.Duration
	// MaxPercent bounds the share of endpoints that are out, in percent,
	// rounded down. One endpoint always stays in. If a larger share of those
	// to choose from is out, because others have left or these have come back,
	// ejections are ignored: the few that are in could not carry the load.
	// Default: 50; 1 to 100. Above 50, only [Unreachable] adds to it.
	MaxPercent int
}

func (cfg Config) withDefaults() Config {
	if cfg.Interval == 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxStale == 0 {
		cfg.MaxStale = max(defaultMaxStale, cfg.Interval)
	}
	if cfg.Cooldown == 0 {
		cfg.Cooldown = min(defaultCooldown, cfg.Interval)
	}
	if cfg.MaxEndpoints == 0 {
		cfg.MaxEndpoints = defaultMaxEndpoints
	}
	e := &cfg.Ejection
	if e.Failures == 0 {
		e.Failures = defaultFailures
	}
	switch {
	case e.Base == 0 && e.Max == 0:
		e.Base, e.Max = defaultBase, defaultMax
	case e.Base == 0:
		e.Base = min(defaultBase, e.Max)
	case e.Max == 0:
		e.Max = max(defaultMax, e.Base)
	}
	if e.MaxPercent == 0 {
		e.MaxPercent = defaultMaxPercent
	}
	return cfg
}

// validate reports every fault of cfg, which has its defaults, at once.
func (cfg *Config) validate() error {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("pool: Config."+format, args...))
	}
	within := func(field string, d, low, high time.Duration) {
		if d < low || d > high {
			fault("%s %v is not between %v and %v", field, d, low, high)
		}
	}
	switch {
	case cfg.Name == "":
		fault("Name is required")
	case len(cfg.Name) > maxNameLen:
		fault("Name is longer than %d bytes", maxNameLen)
	}
	if cfg.Resolver == nil {
		fault("Resolver is required")
	}
	if r, ok := cfg.Resolver.(interface{ fault() error }); ok {
		if err := r.fault(); err != nil {
			fault("Resolver: %w", err)
		}
	}
	within("Interval", cfg.Interval, 10*time.Millisecond, time.Hour)
	within("Timeout", cfg.Timeout, time.Millisecond, time.Minute)
	within("MaxStale", cfg.MaxStale, cfg.Interval, 30*24*time.Hour)
	within("Cooldown", cfg.Cooldown, time.Millisecond, cfg.Interval)
	if cfg.MaxEndpoints < 1 || cfg.MaxEndpoints > limitMaxEndpoints {
		fault("MaxEndpoints %d is not between 1 and %d", cfg.MaxEndpoints, limitMaxEndpoints)
	}
	e := &cfg.Ejection
	if e.Failures < 1 || e.Failures > 1_000 {
		fault("Ejection.Failures %d is not between 1 and 1000", e.Failures)
	}
	within("Ejection.Base", e.Base, time.Millisecond, time.Hour)
	within("Ejection.Max", e.Max, e.Base, time.Hour)
	if e.MaxPercent < 1 || e.MaxPercent > 100 {
		fault("Ejection.MaxPercent %d is not between 1 and 100", e.MaxPercent)
	}
	return errors.Join(errs...)
}
