package gatemesh_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/rttest"
)

// TestLC02_Transports checks the contract of http.RoundTripper for the
// transports of this package.
func TestLC02_Transports(t *testing.T) {
	t.Parallel()
	identity := admits("identity", gatemesh.Admission{Header: []gatemesh.Field{{Name: gatemesh.IdentityHeader, Value: "ours"}}})
	refusing := refuses("no", gatemesh.Deny(gatemesh.PermissionDenied, "no", "No."))
	for _, layers := range [][]gatemesh.Layer{nil, {identity}} {
		rttest.Check(t, "http://callee/a%2Fb?q", outbound(nil, layers...).Transport)
	}
	rttest.Check(t, "http://elsewhere/", outbound(nil, identity).Transport) // not to the mesh
	rttest.Check(t, "http://callee/", func(base http.RoundTripper) http.RoundTripper {
		return gatemesh.HostTransports(map[string]http.RoundTripper{"callee": base}, nil)
	})
	p := rttest.NewProbe(context.Background(), "http://callee/", true)
	if _, err := outbound(nil, refusing).Transport(nil).RoundTrip(p.Request); err == nil {
		t.Error("it was not refused")
	}
	p.Verify(t, "refused")
}
