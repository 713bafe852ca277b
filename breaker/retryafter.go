package breaker

import (
	"net/http"
	"strings"
	"time"
)

// maxRetryAfter bounds what is believed of the field, and keeps its seconds
// from overflowing.
const maxRetryAfter = 24 * time.Hour

// RetryAfter returns how long a value of the field Retry-After (RFC 9110 §10.2.3) asks to
// wait: seconds, or a date. Anything else, and a date that has passed, is 0.
// More than a day is a day.
func RetryAfter(value string, now time.Time) time.Duration {
	value = strings.Trim(value, " \t")
	if value == "" {
		return 0
	}
	if d, ok := seconds(value); ok {
		return d
	}
	t, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(0, t.Sub(now)), maxRetryAfter)
}

// seconds reads digits. Numbers of any length are only large.
func seconds(s string) (time.Duration, bool) {
	var d time.Duration
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		d = min(d*10+time.Duration(s[i]-'0')*time.Second, maxRetryAfter)
	}
	return d, true
}

// retryAfterOf reads the field of a header in canonical form. Of several
// values, none can be trusted.
func retryAfterOf(header map[string][]string) time.Duration {
	v := header["Retry-After"]
	if len(v) != 1 {
		return 0
	}
	return RetryAfter(v[0], time.Now())
}
