package manifest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Loading costs the same for each route, however many there are: what is
// allocated for one of many is what is allocated for one of few.
func TestLoadingIsLinear(t *testing.T) {
	cost := func(n int) float64 {
		var b strings.Builder
		b.WriteString("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: x, listeners: [{name: all, port: 80, protocol: HTTP}]}\n")
		for i := range n {
			fmt.Fprintf(&b, "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r%d}\nspec: {parentRefs: [{name: g}], hostnames: [h%d.example.com], rules: [{backendRefs: [{name: b%d, port: 1}]}]}\n", i, i, i%10)
		}
		var set *Set
		allocs := testing.AllocsPerRun(1, func() {
			l := newLoader()
			for part := range chunks(b.String()) {
				l.file("a.yaml", []byte(part))
			}
			var err error
			set, err = l.finish()
			require.NoError(t, err)
		})
		require.Len(t, set.Routes(), n)
		return allocs / float64(n)
	}
	few, many := cost(200), cost(2_000)
	assert.Less(t, many, few*1.2, "allocations for each route")
}

// chunks cuts a text between documents into parts that are no larger than files
// may be.
func chunks(text string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for len(text) > maxFile {
			at := strings.LastIndex(text[:maxFile], "---\n")
			if !yield(text[:at]) {
				return
			}
			text = text[at:]
		}
		yield(text)
	}
}
