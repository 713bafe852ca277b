package gatemesh_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/gatemesh-go/gatemesh"
)

// nowhere is a response writer that allocates nothing.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header       { return n.header }
func (*nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (*nowhere) WriteHeader(int)             {}

// twoGates is the least a chain does: Entry and two gates that admit.
func twoGates(adm gatemesh.Admission) (http.Handler, *nowhere, *http.Request) {
	h := chain(gatemesh.EntryConfig{}, admits("a", adm), admits("b", gatemesh.Admission{})).Handler(noContent)
	r := request("/orders/1?q", "Accept", "*/*", "User-Agent", "test", "Authorization", "Bearer x", "Content-Type", "application/json")
	return h, &nowhere{http.Header{}}, r
}

// TestChainAllocations: the Exchange with everything in it, the request that
// carries it, and the request id.
func TestChainAllocations(t *testing.T) {
	h, w, r := twoGates(gatemesh.Admission{})
	assert.LessOrEqual(t, testing.AllocsPerRun(200, func() { h.ServeHTTP(w, r) }), 3.)

	h, w, r = twoGates(gatemesh.Admission{
		Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{}), Consumed: []string{"Authorization"},
		Finish: finishFunc(func(*gatemesh.Call, gatemesh.Outcome) {}),
	})
	assert.LessOrEqual(t, testing.AllocsPerRun(200, func() { h.ServeHTTP(w, r) }), 3., "with a principal and a finisher")
}

func BenchmarkChain(b *testing.B) {
	h, w, r := twoGates(gatemesh.Admission{})
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}

// TestOutboundAllocations: the Exchange with everything in it, the request id,
// the header (two) and the request that is sent.
func TestOutboundAllocations(t *testing.T) {
	resp := &http.Response{StatusCode: 204}
	rt := outbound(nil).Transport(roundTrip(func(*http.Request) (*http.Response, error) { return resp, nil }))
	r := request("/orders/1?q", "Accept", "*/*", "User-Agent", "test")
	r.URL.Scheme, r.URL.Host = "http", "callee"
	assert.LessOrEqual(t, testing.AllocsPerRun(200, func() { _, _ = rt.RoundTrip(r) }), 5.)
}
