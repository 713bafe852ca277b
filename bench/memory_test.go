//go:build unix

package bench

import (
	"flag"
	"net/http"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

var memoryTokens = flag.Int("memory.tokens", 20_000, "tokens that TestCredentialMemory has remembered")

// heap is what is in use once everything that can go has gone.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // for what finalizers and pools held
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestCredentialMemory holds what auth.Config.CacheEntries says that a remembered
// token costs: three times its length and 1 KiB. The tokens are as signed makes
// them. Twice as many tokens as there is room for take no more memory. The full
// figure is
//
//	go test -run CredentialMemory -v -timeout 30m ./bench -memory.tokens 1000000
func TestCredentialMemory(t *testing.T) {
	const batch = 1000
	n := *memoryTokens
	before, length := heap(), 0
	goroutines := runtime.NumGoroutine()
	who := authenticator(t, "EdDSA", n)
	fill := func(first int) (used int64) {
		for i := first; i < first+n; i += batch {
			tokens := signedFrom(t, "EdDSA", i, batch)
			length = len(tokens[0])
			for _, token := range tokens {
				c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "api.example.com", Header: http.Header{"Authorization": {"Bearer " + token}}})
				require.NoError(t, err)
				_, err = who.Admit(t.Context(), c)
				require.NoError(t, err)
			}
		}
		return heap() - before
	}
	for _, first := range []int{0, n} {
		used := fill(first)
		t.Logf("%d tokens of %d bytes: %d MiB, %d bytes each", n, length, used>>20, used/int64(n))
		assert.LessOrEqual(t, used, int64(n*(3*length+1024)))
		assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
	}
	runtime.KeepAlive(who)
}
