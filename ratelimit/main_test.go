package ratelimit

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// from returns a call from a client address.
func from(t testing.TB, client string) *gatemesh.Call {
	t.Helper()
	c, err := gatemesh.NewCall(gatemesh.CallInfo{RemoteAddr: netip.AddrPortFrom(netip.MustParseAddr(client), 1)})
	require.NoError(t, err)
	return c
}

// admit reports whether l admits c, and requires that a refusal is for the limit.
func admit(t testing.TB, l *Limiter, c *gatemesh.Call) bool {
	t.Helper()
	_, err := l.Admit(t.Context(), c)
	if err == nil {
		return true
	}
	d := gatemesh.AsDenial(t.Context(), err)
	assert.Equal(t, gatemesh.ResourceExhausted, d.Code)
	assert.Equal(t, "rate_limited", d.Reason)
	return false
}

// admitted returns how many of n calls l admits.
func admitted(t testing.TB, l *Limiter, c *gatemesh.Call, n int) (ok int) {
	t.Helper()
	for range n {
		if admit(t, l, c) {
			ok++
		}
	}
	return ok
}

func values(fields []gatemesh.Field) map[string]string {
	m := map[string]string{}
	for _, f := range fields {
		m[f.Name] = f.Value
	}
	return m
}
