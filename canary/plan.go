package canary

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Phase says where a rollout is.
type Phase string

// The phases.
const (
	Running    Phase = "running"
	Paused     Phase = "paused"      // by hand, or by a Step
	RolledBack Phase = "rolled back" // the canary gets nobody
	Promoted   Phase = "promoted"    // the canary gets everybody
)

// State is where a rollout is, as its replicas agree on. Its zero value is
// before the beginning.
type State struct {
	// ID is that of the configuration, and Past are those that came before it,
	// the latest last.
	ID   string   `json:"id"`
	Past []string `json:"past,omitempty"`
	// Changes counts what has changed since the first rollout.
	Changes uint64 `json:"changes"`
	Phase   Phase  `json:"phase"`
	Step    int    `json:"step"` // index of the step it is in
	// Since is the change that set the share.
	Since uint64 `json:"since"`
	// Share of the canary in 1/10,000.
	Share uint32 `json:"share"`
	// Elapsed is how long the step has lasted.
	Elapsed time.Duration `json:"elapsed"`
	// Halt is why it does not go on though it is time, or "".
	Halt string `json:"halt,omitempty"`
	// History are the latest changes, the oldest first.
	History []Entry `json:"history"`
}

// Entry is something that happened in a rollout.
type Entry struct {
	Change uint64    `json:"change"` // counts as in State
	At     time.Time `json:"at"`     // by the clock of the replica that decided
	Share  uint32    `json:"share"`
	Phase  Phase     `json:"phase"`
	Text   string    `json:"text"` // one line with the numbers that decided
}

const (
	maxHistory = 50
	maxPast    = 16
	whole      = 10_000 // shares are in parts of it
)

// changed returns s after a change. What s holds is not modified.
func (s State) changed(at time.Time, format string, args ...any) State {
	s.Changes++
	s.History = append(slices.Clone(s.History), Entry{s.Changes, at, s.Share, s.Phase, fmt.Sprintf(format, args...)})
	if n := len(s.History); n > maxHistory {
		s.History = slices.Clone(s.History[n-maxHistory:])
	}
	return s
}

func (s State) ended() bool { return s.Phase == RolledBack || s.Phase == Promoted }

// begin returns the beginning of the rollout, behind whatever was before it.
func (p *plan) begin(s State, at time.Time) State {
	if s.ID != "" {
		s.Past = append(slices.Clone(s.Past), s.ID)
		s.Past = slices.Clone(s.Past[max(0, len(s.Past)-maxPast):])
	}
	s.ID = p.ID
	return p.enter(s, 0, at, "begins: ")
}

func (p *plan) enter(s State, i int, at time.Time, why string) State {
	s.Phase, s.Step, s.Share, s.Elapsed, s.Halt, s.Since = Running, i, p.shares[i], 0, "", s.Changes+1
	if p.Steps[i].Pause {
		s.Phase = Paused
	}
	return s.changed(at, "%s%s gets %s, step %d of %d", why, p.Canary, shareText(s.Share), i+1, len(p.Steps))
}

// next returns what becomes of s when f was found of it at the time at, when its
// step has lasted for elapsed. It has no effect.
func (p *plan) next(s State, f finding, elapsed time.Duration, at time.Time) State {
	switch {
	case s.ended() || s.ID != p.ID:
		return s
	case f.quality == bad:
		return p.rollBack(s, at, "rolled back from "+shareText(s.Share)+": "+f.text)
	case s.Phase == Paused:
		return s
	}
	s.Step = min(s.Step, len(p.Steps)-1) // there may be fewer than before
	if elapsed < p.Steps[s.Step].Duration {
		return s
	}
	if f.quality != good {
		if s.Halt == "" {
			s.Halt = f.text
			return s.changed(at, "halted at %s: %s", shareText(s.Share), f.text)
		}
		s.Halt = f.text
		return s
	}
	return p.goOn(s, at, f.text+"; ")
}

func (p *plan) goOn(s State, at time.Time, why string) State {
	if s.Step+1 < len(p.Steps) {
		return p.enter(s, s.Step+1, at, why)
	}
	return p.promote(s, at, why)
}

func (p *plan) promote(s State, at time.Time, why string) State {
	s.Phase, s.Share, s.Elapsed, s.Halt, s.Since = Promoted, whole, 0, "", s.Changes+1
	return s.changed(at, "%spromoted, %s gets everybody", why, p.Canary)
}

func (p *plan) rollBack(s State, at time.Time, why string) State {
	s.Phase, s.Share, s.Elapsed, s.Halt, s.Since = RolledBack, 0, 0, "", s.Changes+1
	return s.changed(at, "%s; %s gets everybody", why, p.Stable)
}

func shareText(share uint32) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", float64(share)/100), "0"), ".") + " %"
}
