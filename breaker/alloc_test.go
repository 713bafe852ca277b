package breaker

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// fixed is a base transport that allocates nothing.
type fixed struct{ resp *http.Response }

func (f fixed) RoundTrip(*http.Request) (*http.Response, error) { return f.resp, nil }

// TestOutboundAllocations: what deadline, retry and breaker add to the five of
// an outbound call without layers.
func TestOutboundAllocations(t *testing.T) {
	resp := &http.Response{StatusCode: 204}
	deadline := gatemesh.Must(NewDeadline(DeadlineConfig{Timeout: time.Second})).Layer()
	retry := gatemesh.Must(NewRetry(RetryConfig{})).Layer()
	gate := gatemesh.Must(NewGate(GateConfig{})).Layer()
	throttle := gatemesh.Must(NewThrottle(ThrottleConfig{})).Layer()
	for _, test := range []struct {
		name   string
		body   bool
		layers []gatemesh.Layer
		want   float64
	}{
		{"none", false, nil, 5},
		{"breaker", false, []gatemesh.Layer{gate}, 6},
		{"throttle", false, []gatemesh.Layer{throttle}, 6},
		{"deadline", false, []gatemesh.Layer{deadline}, 12},
		{"deadline, retry, breaker", false, []gatemesh.Layer{deadline, retry, gate}, 16},
		{"and a body", true, []gatemesh.Layer{deadline, retry, gate}, 20},
	} {
		rt := outbound(t, test.layers...).Transport(fixed{resp})
		var body io.Reader
		if test.body {
			body = strings.NewReader("a")
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://callee/orders/1", body)
		require.NoError(t, err)
		assert.LessOrEqual(t, testing.AllocsPerRun(200, func() { _, _ = rt.RoundTrip(r) }), test.want, test.name)
	}
}
