package mtls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (c *cache) size() int {
	n := 0
	count := func(any, any) bool { n++; return true }
	if g := c.generations.Load(); g != nil {
		g.young.Range(count)
		if g.old != nil {
			g.old.Range(count)
		}
	}
	return n
}

// The cache forgets whom it has not seen for long, and only them.
func TestCache_Bounded(t *testing.T) {
	t.Parallel()
	c := &cache{}
	often, rarely := &x509.Certificate{}, &x509.Certificate{}
	require.Nil(t, c.get(often))
	kept := &verified{}
	c.put(often, kept)
	c.put(rarely, &verified{})
	for i := range 5 * maxVerified {
		c.put(&x509.Certificate{}, &verified{})
		if i%1000 == 0 {
			require.Same(t, kept, c.get(often), "in use, so remembered")
			require.LessOrEqual(t, c.size(), 2*maxVerified)
		}
	}
	assert.Nil(t, c.get(rarely))
	newer := &verified{}
	c.put(often, newer)
	assert.Same(t, newer, c.get(often))
}

func TestCache_Replaced(t *testing.T) {
	t.Parallel()
	c := &cache{}
	leaf, other := &x509.Certificate{}, &x509.Certificate{}
	c.put(other, &verified{})
	for range 3 * maxVerified { // one peer under changing bundles
		c.put(leaf, &verified{})
	}
	assert.Equal(t, 2, c.size())
	assert.NotNil(t, c.get(other))
}

func TestCache_Concurrent(t *testing.T) {
	t.Parallel()
	c := &cache{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range maxVerified {
				leaf, v := &x509.Certificate{}, &verified{}
				c.put(leaf, v)
				if got := c.get(leaf); got != nil {
					assert.Same(t, v, got)
				}
			}
		})
	}
	wg.Wait()
	// Writers that have seen room at the same moment may each take it.
	assert.LessOrEqual(t, c.size(), 2*(maxVerified+4))
}

// A peer may send as much as a handshake takes beside its own certificate.
func TestCache_BoundedBytes(t *testing.T) {
	t.Parallel()
	c := &cache{}
	const each = 256 << 10
	for range 3 * maxVerifiedBytes / each {
		c.put(&x509.Certificate{}, &verified{bytes: each})
		require.LessOrEqual(t, c.size()*each, 2*maxVerifiedBytes+each)
	}
	assert.Greater(t, c.size(), maxVerifiedBytes/each/2)
}

// What is kept of a peer is counted, and not its chain alone.
func TestVerify_Bytes(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	issue := func(c, parent *x509.Certificate) *x509.Certificate {
		c.NotAfter, c.BasicConstraintsValid = time.Now().Add(time.Hour), true
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), key)
		require.NoError(t, err)
		out, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		return out
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	root := issue(ca, ca)
	leaf := issue(&x509.Certificate{URIs: []*url.URL{{Opaque: "spiffe://td.example/a"}}}, root)
	junk := issue(&x509.Certificate{DNSNames: []string{strings.Repeat("a", 1<<16)}}, root)
	b, err := NewBundles(map[string][]*x509.Certificate{"td.example": {root}})
	require.NoError(t, err)
	v, err := verify([]*x509.Certificate{leaf, junk}, b, x509.ExtKeyUsageClientAuth, time.Now())
	require.NoError(t, err)
	assert.EqualValues(t, len(leaf.Raw)+len(junk.Raw), v.bytes)
}
