package canary

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/gatemesh-go/gatemesh"
)

const (
	storeTimeout = 2 * time.Second
	tries        = 8    // to save what somebody else has changed in between
	parts        = 12   // parts of a window
	maxReplicas  = 64   // whose samples are counted; others follow
	maxText      = 4096 // bytes of a text from the store
)

// document is what is in the store.
type document struct {
	State  State  `json:"state"`
	Stable string `json:"stable"`
	Canary string `json:"canary"`
	// Seed says which group a caller is counted in. It is the same for all
	// replicas, so that one who calls several is in one group of the sum.
	Seed     string             `json:"seed"`
	Replicas map[string]*report `json:"replicas"`
}

// report is what a replica has seen in its window.
type report struct {
	Beat    uint64  `json:"beat"`  // another one in every report
	Since   uint64  `json:"since"` // as in the State that it was seen in
	Samples samples `json:"samples"`
}

// replica is the bookkeeping of one process.
type replica struct {
	id       string
	seedText string // as in the document
	claimed  string // the ID that this process has begun or found begun
	state    State
	known    bool // state is from the store
	told     uint64
	entered  time.Time // when the step began, by our clock
	rolled   string    // why we have rolled back on our own, until the store knows
	away     bool      // the store is
	beat     uint64
	beats    map[string]beat
	window   []*counts // the latest last; that one is still written to
	rotated  time.Time
	since    uint64        // as in the State that the window is about
	busy     chan struct{} // held by who asks the store
	together *samples
	alarm    alarm
}

// beat is when a report of another replica was seen to be new, by our clock.
type beat struct {
	n  uint64
	at time.Time
}

// wait takes the turn, which ends with pass.
func (r *Rollout) wait(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Rollout) pass() { <-r.turn }

// tick looks at the samples, agrees with the other replicas, and acts.
func (r *Rollout) tick(ctx context.Context, now time.Time) {
	if r.wait(ctx) != nil {
		return // closed
	}
	defer r.pass()
	p := r.config.Latest()
	r.rotate(p, now)
	err := r.agree(ctx, p, now, func(s State) (State, error) {
		f := r.alarm.judge(&p.Analysis, r.together, r.limits.Load(), r.names, s.Since)
		return p.next(s, f, now.Sub(r.entered), now), nil
	})
	if ctx.Err() != nil {
		return // closed
	}
	if err != nil {
		r.alone(p, now)
	}
	r.reportAway(p, err)
	r.publish(p, now)
}

// agree applies decide to the state that all replicas share, and takes over
// what came of it. Its error is of the store, or decide's.
func (r *Rollout) agree(ctx context.Context, p *plan, now time.Time, decide func(State) (State, error)) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	key := r.service.String()
	for range tries {
		doc, revision, err := r.load(ctx, p.Store, key)
		if err != nil {
			return err
		}
		r.group(doc, now)
		s := r.learn(p, doc, now)
		r.together = r.sum(p, doc, s, now)
		if l := p.Analysis.limits(r.together); l != nil {
			r.limits.Store(l)
		}
		if s, err = decide(s); err != nil {
			return err
		}
		ours := s.ID == p.ID // else another configuration's replicas look after it
		if ours {
			if s.Elapsed = 0; !s.ended() && s.Since == doc.State.Since {
				s.Elapsed = now.Sub(r.entered)
			}
			doc.State, doc.Stable, doc.Canary = s, r.names[stable], r.names[canary]
		}
		r.beat++
		if doc.Replicas[r.id] != nil || len(doc.Replicas) < maxReplicas {
			doc.Replicas[r.id] = &report{r.beat, r.since, *r.own()}
		}
		data, err := json.Marshal(doc)
		if err != nil {
			return fmt.Errorf("canary: the state: %w", err)
		}
		_, err = r.ask(ctx, func() (stored, error) {
			_, err := p.Store.Save(ctx, key, data, revision)
			return stored{}, err
		})
		switch {
		case err == nil:
			if ours || doc.Stable == r.names[stable] && doc.Canary == r.names[canary] {
				r.take(p, s, now)
			}
			return nil
		case !errors.Is(err, ErrConflict):
			return err
		case !sleep(ctx, rand.N(p.Interval/20)): // not all at once again
			return ctx.Err()
		}
	}
	return fmt.Errorf("canary: the store changed %d times meanwhile: %w", tries, ErrConflict)
}

type stored struct {
	value    []byte
	revision string
}

var errBusy = errors.New("canary: the store has not answered yet")

// ask waits for the store no longer than ctx, even if the store does: a disk
// that hangs must not keep a bad version up. It asks one thing at a time.
func (r *Rollout) ask(ctx context.Context, f func() (stored, error)) (stored, error) {
	select {
	case r.busy <- struct{}{}:
	default:
		return stored{}, errBusy
	}
	type answer struct {
		stored
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		a := answer{err: errors.New("canary: the store panicked")}
		defer func() {
			_ = recover() // the error says so
			<-r.busy
			answers <- a
		}()
		a.stored, a.err = f()
	}()
	select {
	case a := <-answers:
		return a.stored, a.err
	case <-ctx.Done():
		return stored{}, ctx.Err()
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *Rollout) load(ctx context.Context, store Store, key string) (*document, string, error) {
	got, err := r.ask(ctx, func() (stored, error) {
		value, revision, err := store.Load(ctx, key)
		return stored{value, revision}, err
	})
	if err != nil {
		return nil, "", err
	}
	data, revision := got.value, got.revision
	doc := &document{}
	if len(data) > 0 {
		if len(data) > maxValue {
			return nil, "", fmt.Errorf("canary: the store holds %d bytes, which is no state of a rollout", len(data))
		}
		if err := json.Unmarshal(data, doc); err != nil {
			return nil, "", fmt.Errorf("canary: the store holds no state of a rollout: %w", err)
		}
		if !doc.sound() {
			return nil, "", errors.New("canary: the store holds no state of a rollout")
		}
	}
	if doc.State.ID == r.config.Latest().ID && (doc.Stable != r.names[stable] || doc.Canary != r.names[canary]) {
		return nil, "", fmt.Errorf("canary: the store holds a rollout of that ID from %.50q to %.50q", doc.Stable, doc.Canary)
	}
	if doc.Replicas == nil {
		doc.Replicas = map[string]*report{}
	}
	return doc, revision, nil
}

// sound reports whether a document can be one that was written here.
func (d *document) sound() bool {
	s := &d.State
	for _, e := range s.History {
		if len(e.Text) > maxText || strings.ContainsFunc(e.Text, unicode.IsControl) {
			return false
		}
	}
	switch s.Phase {
	case Running, Paused, RolledBack, Promoted:
	case "":
		return s.ID == ""
	default:
		return false
	}
	return s.ID != "" && s.Step >= 0 && s.Elapsed >= 0 && s.Share <= whole && len(s.History) <= maxHistory && len(s.Past) <= maxPast &&
		len(s.Halt) <= maxText && len(d.Replicas) <= maxReplicas && len(d.Seed) <= maxText
}

// group has callers counted in the groups that all replicas use.
func (r *Rollout) group(doc *document, now time.Time) {
	if doc.Seed == "" {
		doc.Seed = r.seedText
	}
	if doc.Seed != r.seedText {
		r.seedText = doc.Seed
		r.begin(now)
	}
}

// learn returns the state to go on from.
func (r *Rollout) learn(p *plan, doc *document, now time.Time) State {
	s := doc.State
	if !r.known {
		r.told = s.Changes // what was before us is no news
	}
	switch {
	case s.ID == p.ID:
		r.claimed = p.ID
		if r.rolled != "" {
			if !s.ended() {
				s = p.rollBack(s, now, r.rolled)
			}
		}
	case r.claimed != p.ID && !slices.Contains(s.Past, p.ID):
		s = p.begin(s, now)
	}
	if !r.known || s.Since != r.state.Since {
		r.entered = now
	}
	if began := now.Add(-s.Elapsed); began.Before(r.entered) { // somebody has been in the step for longer
		r.entered = began
	}
	return s
}

// take makes s the state of this process.
func (r *Rollout) take(p *plan, s State, now time.Time) {
	if r.rolled != "" {
		r.rolled, r.told = "", s.Changes // it was told when it happened
	}
	if s.ID == p.ID {
		r.claimed = p.ID
	}
	if !r.known || s.Since != r.since {
		r.begin(now)
		r.since = s.Since
	}
	if s.Since != r.state.Since {
		r.entered = now.Add(-s.Elapsed)
	}
	r.state, r.known = s, true
	r.share.Store(s.Share)
	r.tell(p)
}

// alone is for when the store is away: the share may go down, and never up.
func (r *Rollout) alone(p *plan, now time.Time) {
	own := r.own()
	f := r.alarm.judge(&p.Analysis, own, r.limits.Load(), r.names, r.state.Since)
	r.together = own
	if f.quality != bad || !r.known || r.state.ID != p.ID || r.state.ended() {
		return
	}
	r.fallBack(p, now, "rolled back from "+shareText(r.share.Load())+" without the store: "+f.text)
}

// fallBack rolls back here, and has the others told when the store is there.
func (r *Rollout) fallBack(p *plan, now time.Time, why string) {
	r.rolled = why
	r.share.Store(0)
	s := p.rollBack(r.state, now, why)
	r.observe(p, gatemesh.EventFault, s.History[len(s.History)-1].Text, nil)
	r.state = s
	r.told = s.Changes
	r.since = s.Since
	r.begin(now)
}

// sum adds up what the replicas have seen, our own included, and forgets those
// that are gone.
func (r *Rollout) sum(p *plan, doc *document, s State, now time.Time) *samples {
	var all samples
	if r.since == s.Since { // else what was seen is of another share
		all = *r.own()
	}
	gone := max(5*p.Interval, 2*storeTimeout)
	for id, of := range doc.Replicas {
		if id == r.id {
			continue
		}
		if of == nil {
			delete(doc.Replicas, id)
			continue
		}
		b, ok := r.beats[id]
		if !ok || b.n != of.Beat {
			b = beat{of.Beat, now}
			r.beats[id] = b
		}
		switch age := now.Sub(b.at); {
		case age > 2*gone:
			delete(doc.Replicas, id)
		case age <= gone && of.Since == s.Since:
			all.add(&of.Samples)
		}
	}
	for id := range r.beats {
		if doc.Replicas[id] == nil {
			delete(r.beats, id)
		}
	}
	return &all
}

// begin empties the window: what was seen at another share says little.
func (r *Rollout) begin(now time.Time) {
	c := r.newCounts()
	r.counts.Store(c)
	r.window, r.rotated = []*counts{c}, now
	for v := range r.users {
		r.users[v].clear()
	}
}

func (r *Rollout) newCounts() *counts { return &counts{seed: fnvOffset.add("rollout").add(r.seedText)} }

// rotate has calls counted in a new part of the window when it is time.
func (r *Rollout) rotate(p *plan, now time.Time) {
	if len(r.window) == 0 {
		r.begin(now)
	}
	if now.Sub(r.rotated) < p.Analysis.Window/parts {
		return
	}
	c := r.newCounts()
	r.counts.Store(c)
	r.window = append(r.window, c)
	r.window = slices.Clone(r.window[max(0, len(r.window)-parts):])
	r.rotated = now
}

// own returns what we have seen in the window.
func (r *Rollout) own() *samples {
	var all samples
	for _, c := range r.window {
		all.add(c.read())
	}
	return &all
}

// tell reports what has changed since the last time.
func (r *Rollout) tell(p *plan) {
	for _, e := range r.state.History {
		if e.Change <= r.told {
			continue
		}
		kind := gatemesh.EventNotice
		if e.Phase == RolledBack {
			kind = gatemesh.EventFault
		}
		r.observe(p, kind, e.Text, nil)
	}
	r.told = r.state.Changes
}

func (r *Rollout) reportAway(p *plan, err error) {
	switch {
	case err != nil && !r.away:
		r.observe(p, gatemesh.EventFault, "the store is away; the share stays, or goes down", err)
	case err == nil && r.away:
		r.observe(p, gatemesh.EventNotice, "the store is back", nil)
	}
	r.away = err != nil
}

func (r *Rollout) observe(p *plan, kind gatemesh.EventKind, text string, err error) {
	if p.Observer != nil {
		p.Observer.Observe(context.Background(), gatemesh.Event{
			Kind: kind, Layer: "rollout", Err: err,
			Message: r.service.String() + ": " + text,
		})
	}
}

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
	if p, now := r.config.Latest(), time.Now(); !r.state.ended() && r.state.ID == p.ID {
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
