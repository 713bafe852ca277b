package policy

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/leaktest"
)

// TestLC01_Lifecycle does not run in parallel: it counts what is left. An
// Engine needs no closing.
func TestLC01_Lifecycle(t *testing.T) {
	pay := call(t, gatemesh.CallInfo{Peer: peer(t, "production", "order-service"), Method: "POST", Path: "/v1/payments/1"})
	require.NoError(t, leaktest.Check(1000, func() {
		e := engine(t, config(paymentPolicy()))
		require.Equal(t, Allow, verdict(t, e, pay))
		require.NoError(t, e.Update(config()))
		require.Equal(t, Deny, verdict(t, e, pay))
	}))
}
