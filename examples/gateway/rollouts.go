package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/routing"
)

// rolloutUsage is what -h says.
const rolloutUsage = "roll out a version step by step, as `service.namespace:stable->canary[#id]:percent,…@duration`, such as 'user-service.production:v1->v2#2.3.0:5,25,50,100@1m'; repeatable, for services of -manifests. The canary gets each share for at least that long, as long as it does as well as the stable version, and is taken from everybody if it does not. What was rolled back stays so until there is another id (default: the canary's name)"

// rolloutFlag is the rollouts as they were given.
type rolloutFlag []canary.RolloutConfig

func (f *rolloutFlag) String() string { return "" }

func (f *rolloutFlag) Set(s string) error {
	cfg, err := parseRollout(s)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(*f, func(o canary.RolloutConfig) bool { return o.Service == cfg.Service && o.Namespace == cfg.Namespace }) {
		return fmt.Errorf("%s is rolled out already", rolloutName(&cfg))
	}
	*f = append(*f, cfg)
	return nil
}

// parseRollout reads service.namespace:stable->canary[#id]:percent,…@duration.
func parseRollout(s string) (cfg canary.RolloutConfig, err error) {
	parts := strings.SplitN(s, ":", 3)
	if len(parts) != 3 {
		return cfg, errors.New("must be service.namespace:stable->canary:percent,…@duration")
	}
	var named, to bool
	cfg.Service, cfg.Namespace, named = strings.Cut(parts[0], ".")
	versions, id, hasID := strings.Cut(parts[1], "#")
	cfg.Stable, cfg.Canary, to = strings.Cut(versions, "->")
	cfg.ID = id
	steps, every, timed := strings.Cut(parts[2], "@")
	switch {
	case !named || cfg.Service == "" || cfg.Namespace == "":
		return cfg, fmt.Errorf("%q is not a service and its namespace, as in user-service.production", parts[0])
	case !to || cfg.Stable == "" || cfg.Canary == "" || hasID && id == "":
		return cfg, fmt.Errorf("%q is not two versions, as in v1->v2 or v1->v2#2.3.0", parts[1])
	case !timed:
		return cfg, fmt.Errorf("%q does not say how long a step lasts, as in 5,25,50@1m", parts[2])
	}
	var d durationFlag
	if err := d.Set(every); err != nil {
		return cfg, fmt.Errorf("the duration %q %w", every, err)
	}
	for step := range strings.SplitSeq(steps, ",") {
		percent, err := strconv.ParseFloat(strings.TrimSpace(step), 64)
		if err != nil {
			return cfg, fmt.Errorf("%q is not a percentage", step)
		}
		cfg.Steps = append(cfg.Steps, canary.Step{Percent: percent, Duration: time.Duration(d)})
	}
	// Behind the last step everybody has the canary, whether that is written or not.
	if last := len(cfg.Steps) - 1; last > 0 && cfg.Steps[last].Percent == 100 {
		cfg.Steps = cfg.Steps[:last]
	}
	return cfg, nil
}

func rolloutName(cfg *canary.RolloutConfig) string { return cfg.Service + "." + cfg.Namespace }

// checkRollouts reports what is wrong with the flags.
func (o *options) checkRollouts(b *built) error {
	switch {
	case len(o.rollouts) == 0 && o.rolloutState != "":
		return errors.New("-rollout-state needs -rollout")
	case len(o.rollouts) == 0:
		return nil
	case o.rolloutState == "":
		return errors.New("-rollout needs -rollout-state, so that a restart does not give a bad version to users again")
	case b.plain:
		return errors.New("-rollout needs -manifests, which say who the versions are")
	}
	var errs []error
	for _, cfg := range o.rollouts {
		cfg.Store = canary.NewMemoryStore()
		trial, err := canary.NewRollout(cfg)
		if err != nil {
			errs = append(errs, fmt.Errorf("-rollout %s: %w", rolloutName(&cfg), err))
		} else {
			_ = trial.Close() // it has no errors
		}
		if b.edge.Manifests != nil { // else there is a fault already
			errs = append(errs, o.checkRollout(b, &cfg))
		}
	}
	return errors.Join(errs...)
}

// startRollouts begins the rollouts, or goes on with them.
func (o *options) startRollouts(b *built, observer gatemesh.Observer) error {
	if len(o.rollouts) == 0 {
		return nil
	}
	store, err := canary.NewFileStore(o.rolloutState)
	if err != nil {
		return fmt.Errorf("-rollout-state: %w", err)
	}
	b.closes = append(b.closes, store.Close)
	for _, cfg := range o.rollouts {
		cfg.Store, cfg.Observer, cfg.Interval = store, observer, o.turn
		r, err := canary.NewRollout(cfg)
		if err != nil {
			return fmt.Errorf("-rollout %s: %w", rolloutName(&cfg), err)
		}
		b.closes = append(b.closes, r.Close)
		b.measured = append(b.measured, r)
		b.edge.Rollouts = append(b.edge.Rollouts, r)
	}
	return nil
}

// checkRollout refuses a rollout of what nobody routes to and of versions that
// nobody has defined, as a name with a slip in it would be.
func (o *options) checkRollout(b *built, cfg *canary.RolloutConfig) error {
	of := gatemesh.Destination{Service: cfg.Service, Namespace: cfg.Namespace}
	known := destinations(b)
	if !slices.ContainsFunc(known, func(to gatemesh.Destination) bool { return overlap(of, to) }) {
		return fmt.Errorf("-rollout %s: no route goes there; routes go to %s", rolloutName(cfg), names(known))
	}
	var errs []error
	for _, subset := range []string{cfg.Stable, cfg.Canary} {
		if !slices.ContainsFunc(b.edge.Manifests.Subsets(), func(s routing.Subset) bool {
			return s.Service == cfg.Service && s.Namespace == cfg.Namespace && s.Name == subset
		}) && !slices.ContainsFunc(o.upstreams, func(u routing.Upstream) bool {
			return u.Service == cfg.Service && (u.Namespace == "" || u.Namespace == cfg.Namespace) && u.Subset == subset
		}) {
			errs = append(errs, fmt.Errorf("-rollout %s: there is no version %q: neither a DestinationRule nor -upstream has it", rolloutName(cfg), subset))
		}
	}
	return errors.Join(errs...)
}

// localOnly refuses what a browser on this machine sends for a website that has
// had its name resolve to us: the Host is that of the website.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			name = r.Host
		}
		if !loopback(strings.Trim(name, "[]")) {
			http.Error(w, "the admin port answers to loopback names alone", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
