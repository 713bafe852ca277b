package pool

import (
	"errors"
	"maps"
	"time"
)

func (cfg Config) withDefaults() Config {
	setDefault(&cfg.Interval, defaultInterval)
	setDefault(&cfg.Timeout, defaultTimeout)
	setDefault(&cfg.MaxStale, max(defaultMaxStale, cfg.Interval))
	setDefault(&cfg.Cooldown, min(defaultCooldown, cfg.Interval))
	setDefault(&cfg.MaxEndpoints, defaultMaxEndpoints)
	cfg.Selector = maps.Clone(cfg.Selector)
	setDefault(&cfg.ZoneLoad, defaultZoneLoad)
	setDefault(&cfg.Warmup.MinimumPercent, 10)
	setDefault(&cfg.Warmup.Aggression, 1)
	e := &cfg.Ejection
	setDefault(&e.Failures, defaultFailures)
	switch {
	case e.Base == 0 && e.Max == 0:
		e.Base, e.Max = defaultBase, defaultMax
	case e.Base == 0:
		e.Base = min(defaultBase, e.Max)
	case e.Max == 0:
		e.Max = max(defaultMax, e.Base)
	}
	setDefault(&e.MaxPercent, defaultMaxPercent)
	setDefault(&e.FailurePercent, defaultFailurePercent)
	setDefault(&e.MinSamples, defaultMinSamples)
	setDefault(&e.Window, defaultWindow)
	cfg.Health = cfg.Health.withDefaults()
	return cfg
}

// validate reports every fault of cfg, which has its defaults, at once.
func (cfg *Config) validate() error {
	var f faults
	switch {
	case cfg.Name == "":
		f.add("Name is required")
	case len(cfg.Name) > maxNameLen:
		f.add("Name is longer than %d bytes", maxNameLen)
	}
	if cfg.Resolver == nil {
		f.add("Resolver is required")
	}
	if r, ok := cfg.Resolver.(interface{ fault() error }); ok {
		if err := r.fault(); err != nil {
			f.add("Resolver: %w", err)
		}
	}
	f.within("Interval", cfg.Interval, 10*time.Millisecond, time.Hour)
	f.within("Timeout", cfg.Timeout, time.Millisecond, time.Minute)
	f.within("MaxStale", cfg.MaxStale, cfg.Interval, 30*24*time.Hour)
	f.within("Cooldown", cfg.Cooldown, time.Millisecond, cfg.Interval)
	f.between("MaxEndpoints", cfg.MaxEndpoints, 1, limitMaxEndpoints)
	if err := checkLabels(cfg.Selector); err != nil {
		f.add("Selector: %w", err)
	}
	if cfg.Balancer > RingHash {
		f.add("Balancer %d is unknown", cfg.Balancer)
	}
	cfg.HashKey.validate(&f, cfg.Balancer == RingHash)
	if !validZone(cfg.Zone) {
		f.add("Zone %q is not a name", short(cfg.Zone))
	}
	f.between("ZoneLoad", cfg.ZoneLoad, 100, 1_000)
	f.within("Warmup.Duration", cfg.Warmup.Duration, 0, time.Hour)
	f.between("Warmup.MinimumPercent", cfg.Warmup.MinimumPercent, 1, 100)
	if a := cfg.Warmup.Aggression; !(a >= 0.1 && a <= 10) { // NaN, too
		f.add("Warmup.Aggression %v is not between 0.1 and 10", a)
	}
	f.between("MinHealthPercent", cfg.MinHealthPercent, 0, 100)
	cfg.Ejection.validate(&f)
	f.errs = append(f.errs, cfg.Health.validate()...)
	return errors.Join(f.errs...)
}

func (e *Ejection) validate(f *faults) {
	f.between("Ejection.Failures", e.Failures, 1, 1_000)
	f.within("Ejection.Base", e.Base, time.Millisecond, time.Hour)
	f.within("Ejection.Max", e.Max, e.Base, time.Hour)
	f.between("Ejection.MaxPercent", e.MaxPercent, 1, 100)
	f.between("Ejection.FailurePercent", e.FailurePercent, 1, 100)
	f.between("Ejection.MinSamples", e.MinSamples, 1, 10_000)
	f.within("Ejection.Window", e.Window, time.Second, time.Hour)
}

func (k *HashKey) validate(f *faults, required bool) {
	n := 0
	for _, set := range []bool{k.Header != "", k.Cookie != "", k.Query != "", k.ClientAddress, k.Principal, k.Consumer} {
		if set {
			n++
		}
	}
	switch {
	case required && n == 0:
		f.add("HashKey is required with RingHash")
	case required && n > 1:
		f.add("HashKey has more than one of Header, Cookie, Query, ClientAddress, Principal and Consumer")
	case !required && *k != HashKey{}:
		f.add("HashKey is for RingHash only")
	}
	for _, name := range []struct{ field, value string }{{"Header", k.Header}, {"Cookie", k.Cookie}} {
		if !validToken(name.value) {
			f.add("HashKey.%s %q is not a name", name.field, short(name.value))
		}
	}
	if len(k.Query) > maxNameLen {
		f.add("HashKey.Query is longer than %d bytes", maxNameLen)
	}
	if k.BoundedLoad != 0 {
		f.between("HashKey.BoundedLoad", k.BoundedLoad, 101, 1_000)
	}
}
