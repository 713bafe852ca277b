package breaker

import (
	"context"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// DeadlineConfig configures a [Deadline]. The zero DeadlineConfig is invalid.
type DeadlineConfig struct {
	// Timeout bounds a call with all its attempts, the pauses between them, and
	// the body of the answer: streams end with it. Required. 1 ms to 24 hours.
	Timeout time.Duration
	// Unbounded names calls that Timeout does not bound, as streams that stay
	// open. What their caller asks for holds all the same. Default: none.
	Unbounded func(c *gatemesh.Call) bool
}

// Deadline is a gate that bounds how long calls take, on either side. An earlier
// deadline of the caller stands.
//
// In an Outbound, what is over ends with DeadlineExceeded, and counts against
// the callee. What is left goes to the callee with each attempt, less the time
// that earlier ones took; see [gatemesh.Hop].
//
// In a Chain, it applies what the caller said ([gatemesh.Call.CallerDeadline]),
// up to Timeout: the context of the handler ends with it, and so do the calls
// that are made with that context. What came too late is refused at once.
//
// It is safe for concurrent use and needs no closing. The zero Deadline refuses
// every call; use [NewDeadline].
type Deadline struct {
	state gatemesh.Live[DeadlineConfig]
}

var _ gatemesh.CachedGate = (*Deadline)(nil)

// NewDeadline returns a Deadline.
func NewDeadline(cfg DeadlineConfig) (*Deadline, error) {
	d := &Deadline{}
	if err := d.Update(cfg); err != nil {
		return nil, err
	}
	return d, nil
}

// Update replaces the configuration for the calls that come from now on. If
// cfg is invalid, the old one stays.
func (d *Deadline) Update(cfg DeadlineConfig) error { return gatemesh.Apply(d.Change(cfg)) }

// Change is [Deadline.Update] as a part of [gatemesh.Apply].
func (d *Deadline) Change(cfg DeadlineConfig) gatemesh.Change {
	return gatemesh.NewChange(&d.state, func(*DeadlineConfig) (*DeadlineConfig, error) {
		var f faults
		between(&f, "DeadlineConfig.Timeout", cfg.Timeout, time.Millisecond, 24*time.Hour)
		return &cfg, f.err()
	}, nil)
}

// Layer returns the gate as a layer named "deadline", for a [gatemesh.Chain] or
// a [gatemesh.Outbound].
func (d *Deadline) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name: "deadline", Gate: d, Gives: []gatemesh.Fact{gatemesh.FactDeadline},
		After: []gatemesh.Fact{gatemesh.FactSpan},
	}
}

var errLate = gatemesh.Deny(gatemesh.DeadlineExceeded, "deadline_exceeded", "The request came after its deadline.")

// Admit gives c a deadline, unless it has an earlier one.
func (d *Deadline) Admit(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	cfg := d.state.For(c)
	if cfg == nil {
		return gatemesh.Admission{}, errUnset
	}
	now := time.Now()
	end := c.CallerDeadline() // none of an outbound call
	if ours := now.Add(cfg.Timeout); (end.IsZero() || ours.Before(end)) && (cfg.Unbounded == nil || !cfg.Unbounded(c)) {
		end = ours
	}
	own, ok := ctx.Deadline()
	if !c.Outbound() && (ok && !now.Before(own) || !end.IsZero() && !now.Before(end)) {
		return gatemesh.Admission{}, errLate
	}
	if end.IsZero() || ok && !own.After(end) {
		return gatemesh.Admission{}, nil
	}
	ctx, cancel := context.WithDeadline(ctx, end)
	return gatemesh.Admission{Context: ctx, Finish: release(cancel)}, nil
}

// AdmitCached is Admit, which waits for nobody.
func (d *Deadline) AdmitCached(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, bool, error) {
	adm, err := d.Admit(ctx, c)
	return adm, true, err
}

// release gives back the timer of a context.
type release context.CancelFunc

func (r release) Finish(*gatemesh.Call, gatemesh.Outcome) { r() }
