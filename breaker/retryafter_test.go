package breaker

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, " 120\t": 2 * time.Minute, "86400": 24 * time.Hour, "86401": 24 * time.Hour,
		"999999999": 24 * time.Hour, strings.Repeat("9", 1000): 24 * time.Hour, "-1": 0, "+1": 0, "1.5": 0, "x": 0, "1s": 0, "0x10": 0,
		"Fri, 01 May 2026 12:00:30 GMT":   30 * time.Second,
		"Friday, 01-May-26 12:00:30 GMT":  30 * time.Second,
		"Fri May  1 12:00:30 2026":        30 * time.Second,
		"Fri, 01 May 2026 11:59:59 GMT":   0,
		"Fri, 01 May 9999 12:00:00 GMT":   24 * time.Hour,
		"Fri, 01 May 2026 12:00:30 +0100": 0,
	} {
		assert.Equal(t, want, RetryAfter(value, now), value)
	}
	assert.Equal(t, time.Second, retryAfterOf(http.Header{"Retry-After": {"1"}}))
	assert.Zero(t, retryAfterOf(http.Header{"Retry-After": {"1", "2"}}))
	assert.Zero(t, retryAfterOf(nil))
}

// Whatever a callee sends is within bounds, digits are seconds, and dates mean
// the time that they name.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "1", "-1", "x", "999999999", "Fri, 01 May 2026 12:00:30 GMT", " 7 "} {
		f.Add(s, int64(1_777_636_800))
	}
	f.Fuzz(func(t *testing.T, s string, unix int64) {
		now := time.Unix(unix, 0)
		d := RetryAfter(s, now)
		if d < 0 || d > maxRetryAfter {
			t.Fatalf("%q is %v", s, d)
		}
		trimmed := strings.Trim(s, " \t")
		if n, err := strconv.ParseUint(trimmed, 10, 31); err == nil && d != min(time.Duration(n)*time.Second, maxRetryAfter) {
			t.Fatalf("%q is %v", s, d)
		}
		if at, err := http.ParseTime(trimmed); err == nil && d > 0 && d < maxRetryAfter && !now.Add(d).Equal(at) {
			t.Fatalf("%q is %v from %v", s, d, now)
		}
		if strings.ContainsAny(trimmed, "-+.") && !strings.ContainsAny(trimmed, " ") && d != 0 {
			t.Fatalf("%q is %v", s, d)
		}
	})
}
