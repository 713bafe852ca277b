package identity

import (
	"context"

	"github.com/gatemesh-go/gatemesh"
)

// method is the Method of the Principals that a Verifier makes.
const method = "identity"

// Forward returns the outbound gate of a service, for
// [gatemesh.OutboundConfig.Layers]. A call that is made for an inbound call
// which a [Verifier] admitted carries that call's identity on, unchanged; any
// other call carries none. It has no state and cannot fail.
//
// The callee verifies the token anew. A call made after the token has expired,
// as from a stream that outlived it, is refused there.
func Forward() gatemesh.Layer {
	return gatemesh.Layer{
		Name: "identity forward", Gate: gatemesh.GateFunc(forward), Gives: identityGives, After: identityAfter,
	}
}

// An identity is put on every attempt, and only on one that may be made.
var (
	identityGives = []gatemesh.Fact{gatemesh.FactIdentity}
	identityAfter = []gatemesh.Fact{gatemesh.FactLane, gatemesh.FactAttempt, gatemesh.FactBreaker}
)

func forward(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	parent := c.Parent()
	if parent == nil || parent.Principal() == nil || parent.Principal().Method() != method {
		return gatemesh.Admission{}, nil
	}
	slot, ok := parent.Reserved(gatemesh.IdentityHeader)
	if !ok || slot.Count != 1 {
		return gatemesh.Admission{}, nil
	}
	return gatemesh.Admission{Header: []gatemesh.Field{{Name: gatemesh.IdentityHeader, Value: slot.Value}}}, nil
}
