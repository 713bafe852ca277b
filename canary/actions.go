package canary

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ErrEnded is the error of an action on a rollout that was rolled back or
// promoted.
var ErrEnded = errors.New("canary: the rollout has ended")

// Pause has the rollout stay where it is, until [Rollout.Resume]. It is rolled
// back as before if the canary turns out worse.
func (r *Rollout) Pause(ctx context.Context) error {
	return r.act(ctx, func(_ *plan, s State, now time.Time) (State, error) {
		if s.Phase == Paused {
			return s, nil
		}
		s.Phase, s.Halt = Paused, ""
		return s.changed(now, "paused at %s", shareText(s.Share)), nil
	})
}

// Resume ends a pause. A step that has a Pause of its own is followed by the
// next one.
func (r *Rollout) Resume(ctx context.Context) error { return r.resume(ctx, 0) }

// resume is Resume for who has seen the state after that many changes, or 0.
func (r *Rollout) resume(ctx context.Context, seen uint64) error {
	return r.act(ctx, func(p *plan, s State, now time.Time) (State, error) {
		if seen == 0 {
			seen = s.Changes
		}
		// What has changed since may be our own doing: a store can report a
		// conflict for what it has saved. The next pause is another one.
		if s.Changes != seen {
			return s, errChanged
		}
		if s.Phase != Paused {
			return s, nil
		}
		s.Step = min(s.Step, len(p.Steps)-1)
		if p.Steps[s.Step].Pause {
			return p.goOn(s, now, "resumed: "), nil
		}
		s.Phase = Running
		return s.changed(now, "resumed at %s", shareText(s.Share)), nil
	})
}

// errChanged is for an action on a state that is no more.
var errChanged = errors.New("canary: the rollout has changed meanwhile")

// Promote gives the canary everybody at once, whatever the analysis says.
func (r *Rollout) Promote(ctx context.Context) error { return r.promote(ctx, 0) }

// promote is Promote for who has seen the state after that many changes, or 0.
func (r *Rollout) promote(ctx context.Context, seen uint64) error {
	return r.act(ctx, func(p *plan, s State, now time.Time) (State, error) {
		if seen != 0 && s.Changes != seen {
			return s, errChanged
		}
		return p.promote(s, now, "by hand: "), nil
	})
}

// Abort takes the canary from everybody at once. If the Store is away, it does
// so in this process, returns the Store's error, and has the other replicas
// told when the Store is back.
func (r *Rollout) Abort(ctx context.Context) error {
	why := func(s State) string { return "rolled back from " + shareText(s.Share) + " by hand" }
	err := r.act(ctx, func(p *plan, s State, now time.Time) (State, error) { return p.rollBack(s, now, why(s)), nil })
	if err == nil || errors.Is(err, ErrEnded) {
		return err
	}
	_ = r.wait(context.Background()) // whoever has the turn gives it back in storeTimeout
	defer r.pass()
	if p, now := r.config.Latest(), time.Now(); !r.state.ended() {
		r.fallBack(p, now, why(r.state))
		r.publish(p, now)
	}
	return err
}

func (r *Rollout) act(ctx context.Context, action func(*plan, State, time.Time) (State, error)) error {
	if err := r.wait(ctx); err != nil {
		return err
	}
	defer r.pass()
	p, now := r.config.Latest(), time.Now()
	err := r.agree(ctx, p, now, func(s State) (State, error) {
		if s.ended() || s.ID != p.ID {
			return s, ErrEnded
		}
		return action(p, s, now)
	})
	r.publish(p, now)
	return err
}

// Status is what is known of a rollout, for people and metrics.
type Status struct {
	Service   string    `json:"service"`
	Namespace string    `json:"namespace"`
	Steps     []Step    `json:"steps"`
	State     State     `json:"state"`
	Versions  []Version `json:"versions"` // the stable one first
	Replicas  int       `json:"replicas"` // that are heard of, with this one
	StoreAway bool      `json:"store_away"`
	At        time.Time `json:"at"`
}

// Version is what is known of one version, in the window of the Analysis.
type Version struct {
	Subset string  `json:"subset"`
	Share  float64 `json:"share"` // from 0 to 1
	Calls  int     `json:"calls"`
	Failed int     `json:"failed"`
	// P50, P95 and P99 are latencies of good answers, 0 without any.
	P50 time.Duration `json:"p50_ns"`
	P95 time.Duration `json:"p95_ns"`
	P99 time.Duration `json:"p99_ns"`
	// Users estimates how many users this replica has dealt to the version since
	// its share changed, and Buckets says in which twentieths of all users they
	// are, by how many of 500 places of each are taken.
	Users   int   `json:"users"`
	Buckets []int `json:"buckets"`
}

// Status returns what is known, as of the latest Interval.
func (r *Rollout) Status() Status {
	s := *r.status.Load()
	share := [2]uint32{whole - r.share.Load(), r.share.Load()}
	s.Versions = slices.Clone(s.Versions)
	for v := range s.Versions {
		of := &s.Versions[v]
		of.Share = float64(share[v]) / whole
		of.Users, of.Buckets = r.users[v].count(share[v]), r.users[v].in(20)
	}
	return s
}

func (r *Rollout) publish(p *plan, now time.Time) {
	s := Status{
		Service: r.service.name, Namespace: r.service.namespace, Steps: p.Steps,
		State: r.state, Replicas: len(r.beats) + 1, StoreAway: r.away, At: now,
	}
	s.State.Elapsed = now.Sub(r.entered)
	if s.State.ended() {
		s.State.Elapsed = 0
	}
	for v, name := range r.names {
		of := Version{Subset: name}
		if r.together != nil {
			t := &r.together[v]
			for _, g := range t.Groups {
				of.Calls, of.Failed = of.Calls+int(g[nCalls]), of.Failed+int(g[nFailed])
			}
			of.P50, of.P95, of.P99 = t.quantile(quantiles[0]), t.quantile(quantiles[1]), t.quantile(quantiles[2])
		}
		s.Versions = append(s.Versions, of)
	}
	r.status.Store(&s)
}
