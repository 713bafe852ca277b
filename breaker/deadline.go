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
}

// Deadline is an outbound gate that bounds how long calls take. An earlier
// deadline of the caller stands. What is over ends with DeadlineExceeded, and
// counts against the callee. It is safe for concurrent use and needs no closing.
// The zero Deadline refuses every call; use [NewDeadline].
type Deadline struct {
	state gatemesh.Live[DeadlineConfig]
}

var _ gatemesh.Gate = (*Deadline)(nil)

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

// Layer returns the gate as a layer of a [gatemesh.Outbound], named "deadline".
func (d *Deadline) Layer() gatemesh.Layer {
	return gatemesh.Layer{
		Name: "deadline", Gate: d, Gives: []gatemesh.Fact{gatemesh.FactDeadline},
		After: []gatemesh.Fact{gatemesh.FactSpan},
	}
}

// Admit gives c a deadline, unless it has an earlier one.
func (d *Deadline) Admit(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	cfg := d.state.For(c)
	if cfg == nil {
		return gatemesh.Admission{}, errUnset
	}
	end := time.Now().Add(cfg.Timeout)
	if own, ok := ctx.Deadline(); ok && !own.After(end) {
		return gatemesh.Admission{}, nil
	}
	ctx, cancel := context.WithDeadline(ctx, end)
	return gatemesh.Admission{Context: ctx, Finish: release(cancel)}, nil
}

// release gives back the timer of a context.
type release context.CancelFunc

func (r release) Finish(*gatemesh.Call, gatemesh.Outcome) { r() }
