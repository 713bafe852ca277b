package breaker

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/gatemesh-go/gatemesh/internal/rttest"
)

// TestLC02_Transport checks the contract of http.RoundTripper with breaker and
// retry, whose attempts are answers from below that nobody else closes.
func TestLC02_Transport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate(t)
		rttest.Check(t, "http://callee/", func(base http.RoundTripper) http.RoundTripper {
			return outbound(t, stack(t, g)...).Transport(base)
		})
	})
}
