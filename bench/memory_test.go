//go:build unix

package bench

import (
	"flag"
	"fmt"
	"net/http"
	"runtime"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/race"
)

var memoryTokens = flag.Int("memory.tokens", 20_000, "typical tokens that TestCredentialMemory has remembered")

// heap is what is in use once everything that can go has gone.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // for what finalizers and pools held
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestCredentialMemory holds what auth.Config.CacheEntries says that a remembered
// token costs. Twice as many tokens as there is room for take no more. The full
// figure is
//
//	go test -run CredentialMemory/typical -v -timeout 30m ./bench -memory.tokens 1000000
func TestCredentialMemory(t *testing.T) {
	roles := make([]string, 100)
	for i := range roles {
		roles[i] = fmt.Sprintf("orders:role-%d", i)
	}
	typical := *memoryTokens
	if race.Enabled { // what a token takes does not depend on their number
		typical = min(typical, 2000)
	}
	for _, c := range []struct {
		name   string
		tokens int
		claims jwt.MapClaims
	}{
		{"typical", typical, nil},
		{"short", 2000, jwt.MapClaims{"azp": nil, "jti": nil, "tenant": nil, "roles": nil, "name": nil}},
		{"many roles", 2000, jwt.MapClaims{"roles": roles}},
	} {
		t.Run(c.name, func(t *testing.T) { checkMemory(t, c.tokens, c.claims) })
	}
}

func checkMemory(t *testing.T, n int, claims jwt.MapClaims) {
	const batch = 1000
	before, length := heap(), 0
	goroutines := runtime.NumGoroutine()
	who := authenticator(t, "EdDSA", n)
	for _, first := range []int{0, n} {
		for i := first; i < first+n; i += batch {
			tokens := signedWith(t, "EdDSA", i, batch, claims)
			length = len(tokens[0])
			for _, token := range tokens {
				c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "api.example.com", Header: http.Header{"Authorization": {"Bearer " + token}}})
				require.NoError(t, err)
				_, err = who.Admit(t.Context(), c)
				require.NoError(t, err)
			}
		}
		used := heap() - before
		t.Logf("%d tokens of %d bytes: %d MiB, %d bytes each", n, length, used>>20, used/int64(n))
		assert.LessOrEqual(t, used, int64(n*(4*length+1024)))
		assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
	}
	runtime.KeepAlive(who)
}
