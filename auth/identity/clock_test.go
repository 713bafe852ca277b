package identity

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// A clock that is set back must not bring tokens from the future into use:
// neither does the edge send them on, nor does a service remember them.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	key := SigningKey{ID: "k1", Private: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
	m, err := NewMinter(MinterConfig{Issuer: "edge", Audience: []string{"a"}, Key: key})
	require.NoError(t, err)
	v, err := NewVerifier(VerifierConfig{Issuer: "edge", Audience: []string{"a"}, Keys: m})
	require.NoError(t, err)
	ms, vs := m.state.Latest(), v.state.Latest()
	alice := mintKey{principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: "alice"})}

	now := time.Unix(1_800_000_000, 0)
	first, err := ms.token(alice, now)
	require.NoError(t, err)
	token := first.field[0].Value
	_, err = vs.verify(token, now)
	require.NoError(t, err)
	assert.NotNil(t, vs.remembered(token, now))
	assert.NotNil(t, vs.remembered(token, now.Add(-5*time.Second)), "within the leeway")

	earlier := now.Add(-5*time.Second - 1)
	assert.Nil(t, vs.remembered(token, earlier))
	_, err = vs.verify(token, earlier)
	assert.Same(t, denyFuture, err)
	second, err := ms.token(alice, earlier)
	require.NoError(t, err)
	assert.NotEqual(t, token, second.field[0].Value)
	_, err = vs.verify(second.field[0].Value, earlier)
	assert.NoError(t, err)
}
