package canary

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/gatemesh-go/gatemesh"
)

// RolloutConfig configures a [Rollout]. Service, Stable, Canary, Steps and
// Store are required.
type RolloutConfig struct {
	// Service and Namespace name the service. Required; Namespace may be "".
	Service, Namespace string
	// Stable and Canary are its subsets: what everybody has, and what is to
	// become of it. Required.
	Stable, Canary string
	// ID names what is rolled out, such as the tag of an image. A rollout that
	// was rolled back or promoted stays so until there is another ID, which
	// begins anew at the first step. Default: Canary.
	ID string
	// Steps are what the canary gets, one after another. Behind the last one it
	// gets everybody. Required.
	Steps []Step
	// Analysis says when a step may go on, and when all go back.
	Analysis Analysis
	// Store keeps the state, and is what replicas agree through; see
	// [NewFileStore]. It is not closed by the Rollout. Required, and not to be
	// changed.
	Store Store
	// Replica names this process among those that share the Store. Default: a
	// random name.
	Replica string
	// Interval is how often samples are looked at and exchanged, 100 ms to 1
	// min. It must be the same on every replica. Default: 1 s.
	Interval time.Duration
	// Observer receives a line for each change, with the numbers that decided:
	// notices, and a fault for a rollback and for a Store that is away. Default:
	// nobody.
	Observer gatemesh.Observer
}

// A Step is a part of a rollout.
type Step struct {
	// Percent of the users of both versions that the canary gets, between 0 and
	// 100, in steps of 0.01. Each must be above the one before it. Required.
	Percent float64
	// Duration is how long the step lasts at least. Default: as long as it takes
	// to have enough samples.
	Duration time.Duration
	// Pause has the step wait for [Rollout.Resume].
	Pause bool
}

// plan is one version of a RolloutConfig.
type plan struct {
	RolloutConfig
	shares []uint32
}

func newPlan(cfg RolloutConfig) (*plan, error) {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("canary: RolloutConfig."+format, args...))
	}
	cfg.ID = cmp.Or(cfg.ID, cfg.Canary)
	for _, f := range [...]struct{ name, value string }{
		{"Service", cfg.Service}, {"Stable", cfg.Stable}, {"Canary", cfg.Canary}, {"ID", cfg.ID}, {"Namespace", cfg.Namespace},
	} {
		switch {
		case f.value == "" && f.name != "Namespace" && f.name != "ID":
			fault("%s is required", f.name)
		case len(f.value) > 253 || strings.ContainsFunc(f.value, unicode.IsControl):
			fault("%s must have at most 253 bytes and no control characters", f.name)
		}
	}
	if cfg.Stable != "" && cfg.Stable == cfg.Canary {
		fault("Canary is %q, as Stable is", cfg.Canary)
	}
	if cfg.Store == nil {
		fault("Store is required")
	}
	cfg.Interval = cmp.Or(cfg.Interval, time.Second)
	if cfg.Interval < 100*time.Millisecond || cfg.Interval > time.Minute {
		fault("Interval is %v; it must be 100ms to 1m", cfg.Interval)
	}
	cfg.Analysis = cfg.Analysis.complete(fault)
	if len(cfg.Steps) == 0 {
		fault("Steps is required")
	}
	p := &plan{RolloutConfig: cfg, shares: make([]uint32, len(cfg.Steps))}
	p.Steps = slices.Clone(cfg.Steps)
	for i, s := range cfg.Steps {
		share := math.Round(s.Percent * 100)
		if !(s.Percent > 0 && s.Percent < 100) || math.Abs(share-s.Percent*100) > 1e-6 { // NaN is not above 0
			fault("Steps[%d].Percent is %v; it must be between 0 and 100, in steps of 0.01", i, s.Percent)
			continue
		}
		p.shares[i] = uint32(share)
		if i > 0 && p.shares[i] <= p.shares[i-1] {
			fault("Steps[%d].Percent is %v, and must be above the one before it", i, s.Percent)
		}
		if s.Duration < 0 {
			fault("Steps[%d].Duration must not be negative", i)
		}
	}
	return p, errors.Join(errs...)
}

// Rollout gives the canary of a service to more and more users, for as long as
// it does as well as the stable version, and takes it from all of them when it
// does not. It decides the shares of a [Splitter] that has it among its
// [Config.Rollouts], and learns from its [Rollout.Layer]. Its zero value is not
// usable. It is safe for concurrent use.
//
// Replicas that share a Store agree within two Intervals: each tells the others
// what it has seen, any of them may take the next step on the sum, and whoever
// is second finds that it is done. No clock is compared with another one's. A
// replica that cannot reach the Store keeps the share it knows and takes no
// step, but rolls back on its own when what it sees itself is bad enough; it
// tells the others when the Store is back. One that has known no state since it
// started gives the canary nobody.
type Rollout struct {
	service service
	names   [2]string      // stable and canary
	route   gatemesh.Route // for a service of which nothing else is said

	config gatemesh.Live[plan]
	share  atomic.Uint32 // of the canary
	limits atomic.Pointer[[len(quantiles)]time.Duration]
	counts atomic.Pointer[counts]
	users  [2]users
	totals totals
	status atomic.Pointer[Status]

	stop func()
	done chan struct{}

	turn chan struct{} // held by the tick or action that works with what is below
	replica
}

// NewRollout returns a Rollout, which has looked into its Store once, for 2 s
// at most. It reports every invalid field at once. A Store that does not answer
// is no error, see [Rollout].
func NewRollout(cfg RolloutConfig) (*Rollout, error) {
	r := &Rollout{
		service: service{cfg.Service, cfg.Namespace}, names: [2]string{cfg.Stable, cfg.Canary},
		done: make(chan struct{}), turn: make(chan struct{}, 1),
	}
	r.replica = replica{id: cmp.Or(cfg.Replica, rand.Text()), seedText: rand.Text(), beats: map[string]beat{}, busy: make(chan struct{}, 1)}
	for _, name := range r.names {
		r.route.Backends = append(r.route.Backends, gatemesh.WeightedDestination{
			Destination: gatemesh.Destination{Service: cfg.Service, Namespace: cfg.Namespace, Subset: name}, Weight: 1,
		})
	}
	r.route.Name = "rollout/" + r.service.String()
	if err := r.Update(cfg); err != nil {
		return nil, err
	}
	r.begin(time.Now())
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.tick(ctx, time.Now())
	go r.run(ctx)
	return r, nil
}

// Update replaces Steps, Analysis, ID, Interval and Observer. If cfg is invalid,
// or is about another service, other subsets or another Store, the old
// configuration stays. With the same ID the rollout stays where it is.
func (r *Rollout) Update(cfg RolloutConfig) error { return gatemesh.Apply(r.Change(cfg)) }

// Change is [Rollout.Update] as a part of [gatemesh.Apply].
func (r *Rollout) Change(cfg RolloutConfig) gatemesh.Change {
	return gatemesh.NewChange(&r.config, func(old *plan) (*plan, error) {
		p, err := newPlan(cfg)
		if err != nil {
			return nil, err
		}
		if old != nil && (old.Service != p.Service || old.Namespace != p.Namespace || old.Stable != p.Stable || old.Canary != p.Canary || old.Store != p.Store) {
			return nil, errors.New("canary: RolloutConfig: Service, Namespace, Stable, Canary and Store cannot be changed")
		}
		return p, nil
	}, nil)
}

// Close stops the Rollout. Its share stays what it is.
func (r *Rollout) Close() error {
	r.stop()
	<-r.done
	return nil
}

func (r *Rollout) run(ctx context.Context) {
	defer close(r.done)
	for {
		t := time.NewTimer(r.config.Latest().Interval)
		select {
		case now := <-t.C:
			r.tick(ctx, now)
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// versionOf returns which version d is, or -1.
func (r *Rollout) versionOf(d gatemesh.Destination) int {
	if d.Service != r.service.name || d.Namespace != r.service.namespace {
		return -1
	}
	return slices.Index(r.names[:], d.Subset)
}

// Layer returns what a Rollout learns by, as a layer of a
// [gatemesh.Outbound], such as routing.Config.Outbound: behind the retry, so
// that it sees the attempts that a retry hides from callers, and behind
// everything that may refuse one. It refuses nothing. In a [gatemesh.Chain] it
// stands behind the Splitter and sees calls as their callers do; that is for
// those who have no Outbound.
func (r *Rollout) Layer() gatemesh.Layer {
	return gatemesh.Layer{Name: "rollout", Gate: r, After: []gatemesh.Fact{
		gatemesh.FactLane, gatemesh.FactAttempt, gatemesh.FactBreaker, gatemesh.FactIdentity,
	}}
}

// Admit listens to how c ends, if it goes to one of the versions.
func (r *Rollout) Admit(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	if r.versionOf(c.Destination()) < 0 {
		return gatemesh.Admission{}, nil
	}
	return gatemesh.Admission{Finish: (*listener)(r)}, nil
}

// AdmitCached is [Rollout.Admit], which never waits.
func (r *Rollout) AdmitCached(ctx context.Context, c *gatemesh.Call) (adm gatemesh.Admission, ok bool, err error) {
	adm, err = r.Admit(ctx, c)
	return adm, true, err
}

// listener is a Rollout as it learns of a call.
type listener Rollout

var _ gatemesh.Answerer = (*listener)(nil)

// Answered notes how long a good answer took.
func (l *listener) Answered(c *gatemesh.Call, a gatemesh.Attempt) {
	if r := (*Rollout)(l); judge(c, &a.Outcome) == success {
		r.timed(c, a.Duration)
	}
}

func (r *Rollout) timed(c *gatemesh.Call, took time.Duration) {
	v := r.versionOf(c.Destination())
	if v < 0 { // a later layer sent it elsewhere
		return
	}
	counts := r.counts.Load()
	seen := &counts.versions[v]
	seen.latencies[bucketOf(took)].Add(1)
	limits := r.limits.Load()
	if limits == nil {
		return
	}
	g := &seen.groups[groupOf(counts.seed, c)]
	g.timed.Add(1)
	for q := range g.slow {
		if took > limits[q] {
			g.slow[q].Add(1)
		}
	}
}

// Finish notes how the call ended.
func (l *listener) Finish(c *gatemesh.Call, o gatemesh.Outcome) {
	r := (*Rollout)(l)
	v, is := r.versionOf(c.Destination()), judge(c, &o)
	if v < 0 || is == neutral {
		return
	}
	counts := r.counts.Load()
	g := &counts.versions[v].groups[groupOf(counts.seed, c)]
	g.calls.Add(1)
	r.totals.calls[v].Add(1)
	if is == failure {
		g.failed.Add(1)
		r.totals.failed[v].Add(1)
	} else if !c.Outbound() { // nobody has told us of its answer
		r.timed(c, o.Duration)
	}
}
