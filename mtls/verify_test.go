package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/mtls"
)

// strangers are certificates that must not get in, of whatever kind.
func strangers(t *testing.T, root, other authority) map[string]tls.Certificate {
	t.Helper()
	intermediate := sign(t, root, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
	deep := root
	var rest []authority
	for range 10 {
		deep = sign(t, deep, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
		rest = append([]authority{deep}, rest...)
	}
	// below is a leaf of an intermediate that is not as it should be.
	below := func(change func(*x509.Certificate)) tls.Certificate {
		i := sign(t, root, func(c *x509.Certificate) {
			c.Subject, c.IsCA, c.KeyUsage = pkix.Name{CommonName: "intermediate"}, true, x509.KeyUsageCertSign
			change(c)
		})
		return sign(t, i, func(c *x509.Certificate) {
			c.URIs, c.DNSNames = []*url.URL{{Scheme: "spiffe", Host: domain, Path: "/ns/prod/sa/caller"}}, []string{"caller.prod.svc"}
		}).tls(i)
	}
	unknown := []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	shallow := sign(t, root, func(c *x509.Certificate) {
		c.Subject, c.IsCA, c.KeyUsage, c.MaxPathLenZero = pkix.Name{CommonName: "shallow"}, true, x509.KeyUsageCertSign, true
	})
	tooDeep := sign(t, shallow, func(c *x509.Certificate) {
		c.Subject, c.IsCA, c.KeyUsage = pkix.Name{CommonName: "too deep"}, true, x509.KeyUsageCertSign
	})
	deepLeaf := sign(t, deep, func(c *x509.Certificate) { c.URIs = []*url.URL{{Opaque: caller}} })
	return map[string]tls.Certificate{
		"two spiffe ids":       root.leaf(t, caller, callee),
		"spiffe and https":     root.leaf(t, caller, "https://td.example/a"),
		"https and spiffe":     root.leaf(t, "https://td.example/a", caller),
		"no URI":               root.leaf(t),
		"id in the CN only":    root.leafWith(t, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: caller} }),
		"id in a DNS SAN only": root.leafWith(t, func(c *x509.Certificate) { c.DNSNames = []string{caller} }),
		"no path":              root.leaf(t, "spiffe://td.example"),
		"CA": root.leafWith(t, func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		}, caller),
		"CA without usage":        root.leafWith(t, func(c *x509.Certificate) { c.IsCA = true }, caller),
		"keyCertSign":             root.leafWith(t, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, caller),
		"cRLSign":                 root.leafWith(t, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, caller),
		"other domain, our root":  root.leaf(t, "spiffe://other.example/a"),
		"known domain, our root":  root.leaf(t, "spiffe://friend.example/a"),
		"our domain, friend root": other.leaf(t, caller),
		"self-signed":             sign(t, authority{}, func(c *x509.Certificate) { c.URIs = []*url.URL{{Opaque: caller}} }).tls(),
		"expired":                 root.leafWith(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, caller),
		"not yet valid":           root.leafWith(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, caller),
		"server only": root.leafWith(t, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}, caller),
		"unknown critical extension":           root.leafWith(t, func(c *x509.Certificate) { c.ExtraExtensions = unknown }, caller),
		"its authority has one":                below(func(c *x509.Certificate) { c.ExtraExtensions = unknown }),
		"its authority is expired":             below(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"its authority may not sign":           below(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }),
		"its authority is no CA":               below(func(c *x509.Certificate) { c.IsCA = false }),
		"its authority is for another domain":  below(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"friend.example"} }),
		"its authority is not for this domain": below(func(c *x509.Certificate) { c.ExcludedURIDomains = []string{domain} }),
		"its authority is not for that host":   below(func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"prod.svc"} }),
		"an authority below one that has none": sign(t, tooDeep, func(c *x509.Certificate) { c.URIs = []*url.URL{{Opaque: caller}} }).tls(tooDeep, shallow),
		"intermediate not sent":                intermediate.leaf(t, caller),
		"signed by a leaf":                     sign(t, sign(t, root, func(*x509.Certificate) {}), func(c *x509.Certificate) { c.URIs = []*url.URL{{Opaque: caller}} }).tls(),
		"root itself":                          root.tls(),
		"too many intermediates":               deepLeaf.tls(rest...),
	}
}

// federation trusts root for td.example and other for friend.example.
func federation(t *testing.T, root, other authority) *mtls.Bundles {
	t.Helper()
	b, err := mtls.NewBundles(map[string][]*x509.Certificate{domain: {root.cert}, "friend.example": {other.cert}})
	require.NoError(t, err)
	return b
}

func TestMTLS03_Peer(t *testing.T) {
	t.Parallel()
	root, other := newAuthority(t), newAuthority(t)
	m := newTLS(t, newSource(t, root.leaf(t, callee), federation(t, root, other)))
	trusted := x509bundle.NewSet(
		x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(domain), []*x509.Certificate{root.cert}),
		x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("friend.example"), []*x509.Certificate{other.cert}),
	)
	for name, c := range strangers(t, root, other) {
		cs := received(c)
		for range 2 { // a refusal must not be remembered as anything else
			p, err := m.Peer(cs)
			assert.Error(t, err, name)
			assert.Nil(t, p, name)
		}
	}
	intermediate := sign(t, root, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
	below := sign(t, intermediate, func(c *x509.Certificate) { c.URIs = []*url.URL{{Opaque: caller}} })
	constrained := sign(t, root, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.PermittedURIDomains = true, x509.KeyUsageCertSign, []string{domain}
	})
	within := sign(t, constrained, func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: domain, Path: "/ns/prod/sa/caller"}}
	})
	for name, c := range map[string]struct {
		cert tls.Certificate
		id   string
	}{
		"plain":        {root.leaf(t, caller), caller},
		"federated":    {other.leaf(t, "spiffe://friend.example/a"), "spiffe://friend.example/a"},
		"intermediate": {below.tls(intermediate), caller},
		"constrained":  {within.tls(constrained), caller},
		"no usage":     {root.leafWith(t, func(c *x509.Certificate) { c.ExtKeyUsage = nil }, caller), caller},
		"with a DNS SAN": {root.leafWith(t, func(c *x509.Certificate) {
			c.DNSNames = []string{"caller.prod.svc"}
		}, caller), caller},
	} {
		cs := received(c.cert)
		p, err := m.Peer(cs)
		require.NoError(t, err, name)
		assert.Equal(t, c.id, p.ID(), name)
		assert.Same(t, cs.PeerCertificates[0], p.Leaf())
		// Never more lenient than go-spiffe.
		id, _, err := x509svid.Verify(cs.PeerCertificates, trusted)
		require.NoError(t, err, name)
		assert.Equal(t, c.id, id.String())
	}
}

func TestMTLS03_Handshake(t *testing.T) {
	t.Parallel()
	root, other := newAuthority(t), newAuthority(t)
	m := newTLS(t, newSource(t, root.leaf(t, callee), federation(t, root, other)))
	var hits atomic.Int64
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	addr, _ := serve(t, m.ServerConfig(), true, h)
	all := strangers(t, root, other)
	all["none"] = tls.Certificate{}
	for name, c := range all {
		for _, proto := range []string{"http/1.1", "h2"} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				n, err := knock(t, addr, &tls.Config{
					InsecureSkipVerify: true, NextProtos: []string{proto}, MaxVersion: version,
					GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil },
				})
				assert.Error(t, err, "%s over %s", name, proto)
				assert.Zero(t, n, "%s over %s got bytes", name, proto)
			}
		}
	}
	assert.Zero(t, hits.Load(), "the handler was called")

	// The same knock opens the door for a workload.
	c := root.leaf(t, caller)
	n, _ := knock(t, addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{c}})
	assert.NotZero(t, n)
	assert.EqualValues(t, 1, hits.Load())
}

// A stranger who pretends to be a server.
func TestMTLS03_Server(t *testing.T) {
	t.Parallel()
	root, other := newAuthority(t), newAuthority(t)
	m := newTLS(t, newSource(t, root.leaf(t, caller), federation(t, root, other)))
	all := strangers(t, root, other)
	delete(all, "server only")
	all["client only"] = root.leafWith(t, func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}, callee)
	any := func() mtls.Authorizer { a, _ := mtls.PathPrefix(domain, "/ns"); return a }()
	for name, c := range all {
		var hits atomic.Int64
		h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) })
		addr, _ := serve(t, &tls.Config{Certificates: []tls.Certificate{c}}, true, h)
		_, _, _, err := get(t, transport(t, m, any), addr)
		assert.Error(t, err, name)
		assert.Zero(t, hits.Load(), name)
	}
	// Ours, but not the callee.
	addr, _ := serve(t, &tls.Config{Certificates: []tls.Certificate{root.leaf(t, callee)}}, true, http.NotFoundHandler())
	_, _, _, err := get(t, transport(t, m, exactly(t, caller)), addr)
	assert.ErrorContains(t, err, "is not the callee")
	status, proto, _, err := get(t, transport(t, m, exactly(t, callee)), addr)
	require.NoError(t, err)
	assert.Equal(t, 404, status)
	assert.Equal(t, "HTTP/2.0", proto)
}

func TestMTLS04_Parse(t *testing.T) {
	t.Parallel()
	root := newAuthority(t)
	leaf := root.leaf(t, caller)
	_, err := mtls.NewBundles(nil)
	assert.Error(t, err)
	_, err = mtls.NewBundles(map[string][]*x509.Certificate{domain: nil, "b.example": {leaf.Leaf}, "c.example": {nil}})
	require.Error(t, err)
	for _, td := range []string{domain, "b.example", "c.example"} {
		assert.ErrorContains(t, err, td, "all faults at once")
	}
	for name, c := range map[string]struct {
		cert tls.Certificate
		b    *mtls.Bundles
	}{
		"no certificate": {tls.Certificate{}, bundles(t, root)},
		"no bundles":     {leaf, nil},
		"no key":         {tls.Certificate{Certificate: leaf.Certificate}, bundles(t, root)},
		"another's key":  {tls.Certificate{Certificate: leaf.Certificate, PrivateKey: root.key}, bundles(t, root)},
		"foreign bundle": {root.leaf(t, "spiffe://other.example/a"), bundles(t, root)},
		"no SPIFFE id":   {root.leaf(t), bundles(t, root)},
		"not DER":        {tls.Certificate{Certificate: [][]byte{{1}}, PrivateKey: leaf.PrivateKey}, bundles(t, root)},
	} {
		creds, err := mtls.NewCredentials(c.cert, c.b)
		assert.Error(t, err, name)
		assert.Nil(t, creds, name)
	}
}
