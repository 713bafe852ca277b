package pool

import (
	"testing"

	"github.com/gatemesh-go/gatemesh/internal/rttest"
)

// TestLC02_Transport checks the contract of http.RoundTripper.
func TestLC02_Transport(t *testing.T) {
	t.Parallel()
	rttest.Check(t, "http://callee/", newPool(t, Static("127.0.0.1:1")).Transport)
	p := rttest.NewProbe(t.Context(), "http://callee/", true)
	if _, err := (&Pool{}).Transport(nil).RoundTrip(p.Request); err == nil {
		t.Error("the zero Pool must refuse")
	}
	p.Verify(t, "the zero Pool")
}
