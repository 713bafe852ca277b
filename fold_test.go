package gatemesh

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestFoldName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"X-Gatemesh-Identity": "x-gatemesh-identity",
		"X_GATEMESH_IDENTITY": "x-gatemesh-identity",
		"x.gatemesh!identity": "x-gatemesh-identity",
		"A09":                 "a09",
		"é":                   "--",
		"":                    "",
	} {
		var buf [64]byte
		assert.Equal(t, want, string(foldName(buf[:], in)))
	}
	var buf [4]byte
	assert.NotNil(t, foldName(buf[:], "abcd"))
	assert.Nil(t, foldName(buf[:], "abcde"))
}

func TestCarriesIdentity(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"X-Gatemesh-Identity": true, "x_gatemesh_identity": true, "X.GATEMESH.x": true, "x-gatemesh-identity-bin": true,
		"X-Gatemesh-" + strings.Repeat("a", 100): true,
		"X-Gatemesh":                             false, "Gatemesh": false, "": false, "X-Request-Id": false, "XX-Gatemesh-Identity": false,
	} {
		assert.Equal(t, want, CarriesIdentity(name), name)
	}
}
