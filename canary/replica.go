package canary

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
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
	rolled   rolled    // back on our own, until the store knows
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

// rolled is why we have rolled back on our own what has that ID in our
// configuration.
type rolled struct{ id, why string }

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
	case r.claimed != p.ID && !slices.Contains(s.Past, p.ID):
		s = p.begin(s, now)
	}
	if s.ID == p.ID && r.rolled.id == p.ID && !s.ended() {
		s = p.rollBack(s, now, r.rolled.why)
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
	if r.rolled.id != "" {
		r.rolled, r.told = rolled{}, s.Changes // it was told when it happened
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
	if f.quality != bad || !r.known || r.state.ended() {
		return
	}
	r.fallBack(p, now, "rolled back from "+shareText(r.share.Load())+" without the store: "+f.text)
}

// fallBack rolls back here, whatever is known, and has the others told when the
// store is there, unless they are at something that is not ours by then.
func (r *Rollout) fallBack(p *plan, now time.Time, why string) {
	r.rolled = rolled{p.ID, why}
	r.share.Store(0)
	s := p.rollBack(r.state, now, why)
	s.ID, s.Since = cmp.Or(s.ID, p.ID), math.MaxUint64 // which is no change of the store: what is seen now is of no other share
	r.totals.changed(s.Phase)
	r.observe(p, gatemesh.EventFault, s.History[len(s.History)-1].Text, nil)
	r.state = s
	r.since = s.Since
	r.begin(now)
}

// tell reports what has changed since the last time.
func (r *Rollout) tell(p *plan) {
	for _, e := range r.state.History {
		if e.Change <= r.told {
			continue
		}
		r.totals.changed(e.Phase)
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
