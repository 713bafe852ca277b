package mtls_test

import (
	"testing"

	"github.com/gatemesh-go/gatemesh/internal/rttest"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// TestLC02_RefusedRequests: what the transport refuses by itself is left as it
// was, with its body closed, as the contract of http.RoundTripper has it.
func TestLC02_RefusedRequests(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"https://callee/", "http://callee/"} {
		p := rttest.NewProbe(t.Context(), url, true)
		if _, err := new(mtls.Transport).RoundTrip(p.Request); err == nil {
			t.Error("the zero Transport must refuse")
		}
		p.Verify(t, url)
	}
}
