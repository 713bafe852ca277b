package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// callFrom returns a call from the holder of the certificate.
func callFrom(t testing.TB, m *mtls.TLS, cs *tls.ConnectionState) *gatemesh.Call {
	t.Helper()
	p, err := m.Peer(cs)
	require.NoError(t, err)
	return callOf(t, gatemesh.HTTP, p)
}

func callOf(t testing.TB, proto gatemesh.Protocol, p *gatemesh.Peer) *gatemesh.Call {
	t.Helper()
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "callee", Peer: p, Protocol: proto})
	require.NoError(t, err)
	return c
}

func requireDenial(t testing.TB, err error, code gatemesh.Code, reason string, closes bool) {
	t.Helper()
	var d *gatemesh.Denial
	require.ErrorAs(t, err, &d)
	require.Equal(t, code, d.Code)
	require.Equal(t, reason, d.Reason)
	if closes {
		require.Equal(t, []gatemesh.Field{{Name: "Connection", Value: "close"}}, d.Header)
	} else {
		require.Empty(t, d.Header)
	}
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	_, m, _, s, cs := pair(t)
	p, err := m.Peer(received(cs.Load().Certificate))
	require.NoError(t, err)

	_, err = m.Admit(t.Context(), callOf(t, gatemesh.HTTP, nil))
	requireDenial(t, err, gatemesh.Unauthenticated, "peer_missing", true)
	_, err = m.Admit(t.Context(), callOf(t, gatemesh.HTTP, peer(t, caller)))
	requireDenial(t, err, gatemesh.Unauthenticated, "peer_invalid", true)

	c := callOf(t, gatemesh.HTTP, p)
	adm, err := m.Admit(t.Context(), c)
	require.NoError(t, err)
	assert.Same(t, p, adm.Peer)
	assert.Equal(t, c.Received().Add(time.Minute), adm.Until)
	cached, ok, err := m.AdmitCached(t.Context(), c)
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, adm, cached)

	require.NoError(t, m.Update(mtls.Config{Source: s, Authorize: deny}))
	_, err = m.Admit(t.Context(), c)
	requireDenial(t, err, gatemesh.PermissionDenied, "peer_not_allowed", true)
	_, err = m.Admit(t.Context(), callOf(t, gatemesh.GRPC, p))
	requireDenial(t, err, gatemesh.PermissionDenied, "peer_not_allowed", true)
	_, ok, err = m.AdmitCached(t.Context(), c)
	assert.True(t, ok)
	assert.Error(t, err)

	require.NoError(t, m.Update(mtls.Config{Source: s, Authorize: member(t), Recheck: 24 * time.Hour}))
	adm, err = m.Admit(t.Context(), c)
	require.NoError(t, err)
	assert.Equal(t, p.Leaf().NotAfter, adm.Until, "never longer than the certificate")
}

// A bundle change is seen on calls that were verified before it, and undone
// trust is trust again.
func TestAdmit_BundleChange(t *testing.T) {
	t.Parallel()
	root, m, _, s, cs := pair(t)
	state := received(cs.Load().Certificate)
	c := callFrom(t, m, state)
	_, err := m.Admit(t.Context(), c)
	require.NoError(t, err)

	s.trust(t, bundles(t, newAuthority(t)))
	_, err = m.Admit(t.Context(), c)
	requireDenial(t, err, gatemesh.Unauthenticated, "peer_invalid", true)
	_, err = m.Revalidate(t.Context(), c)
	requireDenial(t, err, gatemesh.Unauthenticated, "peer_invalid", true)
	_, err = m.Peer(state)
	requireDenial(t, err, gatemesh.Unauthenticated, "peer_invalid", true)

	s.trust(t, bundles(t, newAuthority(t), root))
	_, err = m.Admit(t.Context(), c)
	require.NoError(t, err)
}

// Time passes on a connection that stays open.
func TestAdmit_Time(t *testing.T) {
	t.Parallel()
	soon := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(90 * time.Second) }
	for name, issue := range map[string]func(t *testing.T, root authority) tls.Certificate{
		"leaf": func(t *testing.T, root authority) tls.Certificate { return root.leafWith(t, soon, caller) },
		"intermediate": func(t *testing.T, root authority) tls.Certificate {
			short := sign(t, root, func(c *x509.Certificate) {
				c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
				soon(c)
			})
			return sign(t, short, func(c *x509.Certificate) { c.URIs = []*url.URL{{Opaque: caller}} }).tls(short)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				root := newAuthority(t)
				m := newTLS(t, newSource(t, root.leaf(t, callee), bundles(t, root)))
				start, state := time.Now(), received(issue(t, root))
				first := callFrom(t, m, state)
				adm, err := m.Admit(t.Context(), first)
				require.NoError(t, err)
				require.Equal(t, start.Add(time.Minute), adm.Until)

				time.Sleep(time.Minute)
				until, err := m.Revalidate(t.Context(), first)
				require.NoError(t, err)
				require.True(t, start.Add(90*time.Second).Equal(until), "the end of the chain, not %s", until)

				time.Sleep(30*time.Second + time.Nanosecond)
				_, err = m.Revalidate(t.Context(), first)
				requireDenial(t, err, gatemesh.Unauthenticated, "peer_invalid", true)
				_, err = m.Admit(t.Context(), callOf(t, gatemesh.HTTP, first.Peer()))
				requireDenial(t, err, gatemesh.Unauthenticated, "peer_invalid", true)
				_, err = m.Peer(state)
				requireDenial(t, err, gatemesh.Unauthenticated, "peer_invalid", true)
			})
		})
	}
}

func TestRevalidate_Authorizer(t *testing.T) {
	t.Parallel()
	_, m, _, s, cs := pair(t)
	c := callFrom(t, m, received(cs.Load().Certificate))
	var fault error
	require.NoError(t, m.Update(mtls.Config{Source: s, Authorize: func(*gatemesh.Peer) error { return fault }}))
	_, err := m.Revalidate(t.Context(), c)
	require.NoError(t, err)
	fault = errors.New("gone")
	_, err = m.Revalidate(t.Context(), c)
	requireDenial(t, err, gatemesh.PermissionDenied, "peer_not_allowed", true)
}

func TestPeer(t *testing.T) {
	t.Parallel()
	_, m, _, _, cs := pair(t)
	for _, state := range []*tls.ConnectionState{nil, {HandshakeComplete: true}} {
		p, err := m.Peer(state)
		require.NoError(t, err)
		require.Nil(t, p)
	}
	state := received(cs.Load().Certificate)
	state.HandshakeComplete = false
	_, err := m.Peer(state)
	requireDenial(t, err, gatemesh.Unauthenticated, "peer_invalid", false)
	state.HandshakeComplete = true
	p, err := m.Peer(state)
	require.NoError(t, err)
	assert.Equal(t, "prod", p.Namespace())
	assert.Equal(t, "caller", p.ServiceAccount())
	again, err := m.Peer(state)
	require.NoError(t, err)
	assert.Same(t, p, again)
}

func TestHandler(t *testing.T) {
	t.Parallel()
	_, m, _, _, cs := pair(t)
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{Peer: m.Peer})
	require.NoError(t, err)
	hits := 0
	h := m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits++ }))
	for _, c := range []struct {
		name   string
		h      http.Handler
		state  *tls.ConnectionState
		status int
	}{
		{"no call", h, nil, 500},
		{"plain text", entry.Handler(h), nil, 401},
		{"no certificate", entry.Handler(h), &tls.ConnectionState{HandshakeComplete: true}, 401},
		{"peer", entry.Handler(h), received(cs.Load().Certificate), 200},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.TLS = c.state
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, r)
		assert.Equal(t, c.status, w.Code, c.name)
	}
	assert.Equal(t, 1, hits)
	l := m.Layer()
	assert.Equal(t, "peer", l.Name)
	assert.Equal(t, []gatemesh.Fact{gatemesh.FactPeer}, l.Gives)
	assert.Implements(t, (*gatemesh.CachedGate)(nil), l.Gate)
	assert.Implements(t, (*gatemesh.Revalidator)(nil), l.Gate)
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	root, m, _, s, cs := pair(t)
	both, one := bundles(t, root, newAuthority(t)), bundles(t, root)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			state := received(cs.Load().Certificate)
			for j := range 200 {
				if i == 0 && j%10 == 0 {
					b := both
					if j%20 == 0 {
						b = one
					}
					s.trust(t, b)
					assert.NoError(t, m.Update(mtls.Config{Source: s, Authorize: member(t)}))
				}
				c := callFrom(t, m, state)
				_, err := m.Admit(t.Context(), c)
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
}

func TestAllocs(t *testing.T) {
	_, m, _, s, cs := pair(t)
	state := received(cs.Load().Certificate)
	c := callFrom(t, m, state)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = m.Peer(state) }))
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = m.Admit(t.Context(), c) }))
	require.NoError(t, m.Update(mtls.Config{Source: s, Authorize: member(t), Modes: mtls.Modes{Default: mtls.ModePermissive}}))
	c, err := gatemesh.NewCall(gatemesh.CallInfo{Host: "callee", Scheme: "http"})
	require.NoError(t, err)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = m.Admit(t.Context(), c) }), "plain text")
}

// What every call on a live connection pays: Peer in Entry, Admit in the gate.
func BenchmarkAdmit(b *testing.B) {
	_, m, _, _, cs := pair(b)
	c := callFrom(b, m, received(cs.Load().Certificate))
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := m.Admit(ctx, c); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkPeer(b *testing.B) {
	_, m, _, _, cs := pair(b)
	state := received(cs.Load().Certificate)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Peer(state); err != nil {
			b.Fatal(err)
		}
	}
}

// What a handshake, or the first call after a change of bundles, pays.
func BenchmarkVerify(b *testing.B) {
	_, m, _, _, cs := pair(b)
	cert := cs.Load().Certificate
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		state := received(cert)
		b.StartTimer()
		if _, err := m.Peer(state); err != nil {
			b.Fatal(err)
		}
	}
}
