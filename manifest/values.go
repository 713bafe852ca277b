package manifest

import (
	"math"
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

type (
	// decimal is a number that may have a fraction, such as a percentage.
	decimal struct {
		mark
		V float64
	}
	// span is a duration, in the format that its check names.
	span struct {
		mark
		V time.Duration
	}
)

func (d *decimal) decode(s scope, n *yaml.Node, c checks) {
	if !s.expect(n, d.mark, yaml.ScalarNode) {
		return
	}
	v, err := strconv.ParseFloat(n.Value, 64)
	switch tag := n.ShortTag(); {
	case tag != "!!int" && tag != "!!float":
		s.fault(d.mark, "must be a number, not %s", describe(n))
	case err != nil || !plainDecimal.MatchString(n.Value):
		s.fault(d.mark, "must be written in plain decimal digits")
	case v < float64(c.min) || v > float64(c.max):
		s.fault(d.mark, "%s is not between %d and %d", n.Value, c.min, c.max)
	default:
		d.V = v
	}
}

var plainDecimal = regexp.MustCompile(`^-?[0-9]{1,15}(\.[0-9]{1,15})?$`)

// perMillion is the share of d percent in parts of a million. It reports false
// if that says something else than d does.
func (d decimal) perMillion() (uint32, bool) {
	parts := d.V * 10_000
	whole := math.Round(parts)
	return uint32(whole), math.Abs(parts-whole) < 1e-6
}

var (
	gepSpan   = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)
	istioSpan = regexp.MustCompile(`^([0-9]{1,9}(\.[0-9]{1,9})?(h|m|s|ms))+$`)
)

// maxSpan is longer than anything that a proxy should wait for.
const maxSpan = 30 * 24 * time.Hour

func (d *span) decode(s scope, n *yaml.Node, c checks) {
	if !s.isText(n, d.mark) {
		return
	}
	form := gepSpan
	if c.format == "duration" {
		form = istioSpan
	}
	v, err := time.ParseDuration(n.Value)
	switch {
	case err != nil || !form.MatchString(n.Value):
		s.fault(d.mark, "%s is not a %s", quote(n.Value), formatNames[c.format])
	case v > maxSpan:
		s.fault(d.mark, "%s is longer than 30 days", quote(n.Value))
	case v < time.Millisecond && (v != 0 || c.format == "duration"): // as the CRDs of Istio have it
		s.fault(d.mark, "%s is shorter than 1ms", quote(n.Value))
	default:
		d.V = v
	}
}
