package pool

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestLatency(t *testing.T) {
	t.Parallel()
	const ms, tenSeconds = time.Millisecond, int64(10 * time.Second)
	var l latency
	assert.Zero(t, l.at(0))
	l.failed(0, time.Second)
	assert.Zero(t, l.at(0), "a failure is no first sample")
	l.observe(0, 100*ms)
	assert.InDelta(t, float64(100*ms), l.at(0), 1e3)
	assert.InDelta(t, float64(100*ms)/math.E, l.at(tenSeconds), 1e5, "sinks")
	l.observe(0, 300*ms)
	assert.InDelta(t, float64(300*ms), l.at(0), 1e3, "a peak counts at once")
	l.observe(tenSeconds, 10*ms)
	assert.InDelta(t, float64(300*ms)/math.E+float64(10*ms)*(1-1/math.E), l.at(tenSeconds), 1e5, "an old average gives way")
	l.atLeast(tenSeconds, time.Microsecond)
	assert.InDelta(t, float64(300*ms)/math.E+float64(10*ms)*(1-1/math.E), l.at(tenSeconds), 1e5, "no lower bound lowers")
	l.atLeast(tenSeconds, time.Second)
	assert.InDelta(t, float64(time.Second), l.at(tenSeconds), 1e3)
	l.failed(2*tenSeconds, ms)
	assert.InDelta(t, float64(time.Second), l.at(2*tenSeconds), 1e3, "a failure keeps it up")
	assert.InDelta(t, float64(time.Second), l.at(tenSeconds), 1e3, "a clock behind")

	month := int64(31 * 24 * time.Hour)
	l.observe(month*2, ms)
	assert.LessOrEqual(t, l.at(month*2), float64(time.Second), "the time may wrap")
}

// Averages are compared without a clock as they would be with one.
func TestLatencyCompare(t *testing.T) {
	t.Parallel()
	var none latency
	averages := []time.Duration{time.Microsecond, time.Millisecond, time.Second}
	times := []time.Duration{0, time.Millisecond, 3 * time.Second, time.Minute, 49 * 24 * time.Hour} // the last is just before the time wraps
	for _, averageA := range averages {
		for _, averageB := range averages {
			for _, begin := range times {
				for _, later := range times[:4] {
					var a, b latency
					a.observe(int64(begin), averageA)
					b.observe(int64(begin+later), averageB)
					now := int64(begin + later + time.Second)
					ofA, ofB := compare(&a, &b)
					assert.InEpsilon(t, a.at(now)/b.at(now), ofA/ofB, 1e-9)
					ofB, ofA = compare(&b, &a)
					assert.InEpsilon(t, a.at(now)/b.at(now), ofA/ofB, 1e-9)
					ofA, ofNone := compare(&a, &none)
					assert.Positive(t, ofA)
					assert.Zero(t, ofNone)
					ofNone, ofA = compare(&none, &a)
					assert.Positive(t, ofA)
					assert.Zero(t, ofNone)
				}
			}
		}
	}
}
