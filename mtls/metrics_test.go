package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/metrictest"
	"github.com/gatemesh-go/gatemesh/mtls"
)

func measured(t testing.TB, of gatemesh.Measurable) map[string]float64 {
	t.Helper()
	told, err := metrictest.Read(of)
	require.NoError(t, err)
	return told
}

// The time that is left falls below 0 with a certificate that nobody renews, and
// rises with one that somebody has.
func TestMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := newAuthority(t)
		s := newSource(t, root.leafWith(t, lives(time.Hour), callee), bundles(t, root))
		seen := &events{}
		m, err := mtls.New(mtls.Config{Source: s, Authorize: member(t), Observer: seen})
		require.NoError(t, err)
		remaining := "gatemesh.mtls.certificate.remaining{name=" + callee + "}"
		assert.Equal(t, map[string]float64{
			remaining: 3600, "gatemesh.mtls.plain_text": 0, "gatemesh.mtls.missing": 0, "gatemesh.mtls.refused": 0,
		}, measured(t, m))
		time.Sleep(61 * time.Minute)
		assert.EqualValues(t, -60, measured(t, m)[remaining])
		assert.Equal(t, []string{expired}, said(seen), "as Status does")
		c, err := mtls.NewCredentials(root.leafWith(t, lives(2*time.Hour), callee), bundles(t, root))
		require.NoError(t, err)
		s.Store(c)
		assert.EqualValues(t, 7200, measured(t, m)[remaining])
	})
	var zero mtls.TLS
	assert.Equal(t, map[string]float64{"gatemesh.mtls.plain_text": 0, "gatemesh.mtls.missing": 0, "gatemesh.mtls.refused": 0}, measured(t, &zero))
}

func TestMetricsOfHandshakes(t *testing.T) {
	t.Parallel()
	_, server, client, _, _ := pair(t)
	addr, _ := serve(t, server.ServerConfig(), true, mesh(t, server, func(http.ResponseWriter, *http.Request) {}))
	rt := transport(t, client, exactly(t, callee))
	status, _, _, err := get(t, rt, addr)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	assert.Zero(t, measured(t, server)["gatemesh.mtls.refused"])
	cfg := mtls.Config{Source: source2(server), Authorize: deny}
	require.NoError(t, server.Update(cfg))
	rt.CloseIdleConnections()
	_, _, _, err = get(t, transport(t, client, exactly(t, callee)), addr)
	require.Error(t, err)
	assert.Positive(t, measured(t, server)["gatemesh.mtls.refused"])
}

// source2 is the Source that m has.
func source2(m *mtls.TLS) mtls.Source {
	s := &source{}
	s.Store(m.Credentials())
	return s
}

func TestEdgeMetrics(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	one := root.siteWith(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) }, "a.example")
	two := root.siteWith(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Hour) }, "b.example")
	e := newEdge(t, mtls.EdgeConfig{Certificates: []tls.Certificate{one, two}, Default: "a.example"})
	told, all := measured(t, e), e.Status()
	require.Len(t, told, 2)
	for i, hours := range []float64{1, 2} {
		assert.InDelta(t, hours*3600, told["gatemesh.mtls.certificate.remaining{name="+all[i].From+"}"], 60)
	}
	assert.Empty(t, measured(t, &mtls.Edge{}))
}
