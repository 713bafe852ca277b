package mtls_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// maze returns a leaf and nine intermediates of one name and key, so that each
// may be the issuer of each: crypto/x509 tries a hundred signatures. With P-521,
// that takes 70 ms.
func maze(t *testing.T, of string, ids ...*url.URL) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	name := &x509.Certificate{Subject: pkix.Name{CommonName: of}}
	issue := func(c *x509.Certificate, public crypto.PublicKey) []byte {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, name, public, key)
		require.NoError(t, err)
		return der
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	out := tls.Certificate{PrivateKey: leaf}
	out.Certificate = append(out.Certificate, issue(&x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, URIs: ids,
	}, leaf.Public()))
	for i := range 9 {
		out.Certificate = append(out.Certificate, issue(&x509.Certificate{
			Subject: name.Subject, DNSNames: []string{fmt.Sprint("room", i)},
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}, key.Public()))
	}
	return out
}

// A stranger's certificates must not keep us busy with signatures by the
// stranger's own keys. Crypto/x509 says so when it has given up.
func TestF10_MazeOfIntermediates(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	m := newTLS(t, newSource(t, root.leaf(t, callee), bundles(t, root)))
	for _, of := range []string{"maze", root.cert.Subject.CommonName} {
		_, err := m.Peer(received(maze(t, of, &url.URL{Opaque: caller})))
		var d *gatemesh.Denial
		require.ErrorAs(t, err, &d)
		_, unknown := errors.AsType[x509.UnknownAuthorityError](d.Cause())
		assert.True(t, unknown, "%s: %v", of, d.Cause())
	}
}

// However many certificates there are, in whatever order, with others among
// them, and with one of two roots: who has a chain gets in.
func TestManyIntermediates(t *testing.T) {
	t.Parallel()
	ca := func(name string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.Subject, c.IsCA, c.KeyUsage = pkix.Name{CommonName: name}, true, x509.KeyUsageCertSign
		}
	}
	old, root := newAuthority(t), newAuthority(t)
	one := sign(t, root, ca("one"))
	// The same authority, certified by another root, too.
	der, err := x509.CreateCertificate(rand.Reader, one.cert, old.cert, one.key.Public(), old.key)
	require.NoError(t, err)
	crossed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	deep, rest := one, []authority{one}
	for i := range 6 {
		deep = sign(t, deep, ca(fmt.Sprint("deep", i)))
		rest = append(rest, deep)
	}
	leaf := sign(t, deep, func(c *x509.Certificate) { c.URIs = []*url.URL{{Opaque: caller}} })
	foreign := sign(t, newAuthority(t), ca("one")) // of the name of one, and of somebody else
	rest = append(rest, foreign, authority{cert: crossed})
	for name, trusted := range map[string]authority{"its root": root, "the other root": old} {
		m := newTLS(t, newSource(t, trusted.leaf(t, callee), bundles(t, trusted, newAuthority(t), newAuthority(t))))
		var all sync.WaitGroup
		for turn := range len(rest) {
			all.Go(func() {
				sent := slices.Concat(rest[turn:], rest[:turn])
				p, err := m.Peer(received(leaf.tls(sent...)))
				if assert.NoError(t, err, "%s, turn %d", name, turn) {
					assert.Equal(t, caller, p.ID())
				}
				_, err = m.Peer(received(leaf.tls(slices.DeleteFunc(sent, func(a authority) bool { return a.cert == rest[3].cert })...)))
				assert.Error(t, err, "one is missing")
			})
		}
		all.Wait()
	}
	m := newTLS(t, newSource(t, foreign.leaf(t, callee), bundles(t, newAuthority(t))))
	_, err = m.Peer(received(leaf.tls(rest...)))
	assert.Error(t, err)
}
