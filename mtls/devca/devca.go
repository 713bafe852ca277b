package devca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh/mtls"
)

const (
	rootLifetime   = 365 * 24 * time.Hour
	serverLifetime = 30 * 24 * time.Hour
	// backdate tolerates clocks that are a little behind.
	backdate = time.Minute
)

// CA issues certificates with ECDSA P-256 keys for the workloads of one trust
// domain. Make it with [New]. It is safe for concurrent use. Printing it shows
// its trust domain and no key.
type CA struct {
	trustDomain string

	mu    sync.Mutex
	roots []root // the last one signs
	trust atomic.Pointer[trust]
}

type root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// trust is what relies on the roots, swapped as one.
type trust struct {
	certs   []*x509.Certificate
	bundles *mtls.Bundles
}

// New returns an authority with a new root for the trust domain, such as
// "cluster.local".
func New(trustDomain string) (*CA, error) {
	id, err := mtls.ParseID("spiffe://" + trustDomain + "/x")
	if err != nil || id.TrustDomain() != trustDomain {
		return nil, fmt.Errorf("devca: %q is not a trust domain", trustDomain)
	}
	c := &CA{trustDomain: trustDomain}
	if err := c.Rotate(); err != nil {
		return nil, err
	}
	return c, nil
}

// Rotate makes a new root that signs from now on. Older roots stay trusted
// until [CA.Retire]. Every [Source] of the CA trusts the new root at once and
// keeps its certificate until [Source.Renew].
func (c *CA) Rotate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("devca: %w", err)
	}
	now := time.Now()
	cert, err := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "gatemesh development CA of " + c.trustDomain},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: c.trustDomain}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}, root{key: key}, key)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rely(append(c.roots, root{cert, key}))
}

// Retire ends the trust in all roots but the newest. Certificates that older
// roots signed are worth nothing from now on.
func (c *CA) Retire() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rely(c.roots[len(c.roots)-1:])
}

func (c *CA) rely(roots []root) error {
	t := &trust{}
	for _, r := range roots {
		t.certs = append(t.certs, r.cert)
	}
	var err error
	if t.bundles, err = mtls.NewBundles(map[string][]*x509.Certificate{c.trustDomain: t.certs}); err != nil {
		return err
	}
	c.roots = append([]root(nil), roots...)
	c.trust.Store(t)
	return nil
}

// TrustDomain returns the trust domain.
func (c *CA) TrustDomain() string { return c.trustDomain }

// Bundle returns the roots that are trusted now, oldest first.
func (c *CA) Bundle() []*x509.Certificate {
	return append([]*x509.Certificate(nil), c.trust.Load().certs...)
}

// Pool returns the roots that are trusted now, for clients of
// [CA.ServerCertificate].
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range c.trust.Load().certs {
		pool.AddCert(cert)
	}
	return pool
}

// Issue returns a certificate with a new key for the workload with this SPIFFE
// id, good as client and as server. For one that can be renewed see
// [CA.Source].
func (c *CA) Issue(id string, lifetime time.Duration) (tls.Certificate, error) {
	parsed, err := mtls.ParseID(id)
	switch {
	case err != nil:
		return tls.Certificate{}, err
	case parsed.TrustDomain() != c.trustDomain:
		return tls.Certificate{}, fmt.Errorf("devca: %s is not of trust domain %s", parsed, c.trustDomain)
	case lifetime <= 0:
		return tls.Certificate{}, errors.New("devca: the lifetime must be positive")
	}
	return c.issue(&x509.Certificate{
		// X509-SVID §2 has the id as URI SAN; the subject is for people.
		Subject:     pkix.Name{Organization: []string{"gatemesh development workload"}},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: parsed.TrustDomain(), Path: parsed.Path()}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, lifetime)
}

// ServerCertificate returns a certificate for a server that is known by host
// names and addresses and not by a SPIFFE id, such as the edge in a demo. It
// holds for 30 days.
func (c *CA) ServerCertificate(hosts ...string) (tls.Certificate, error) {
	if len(hosts) == 0 {
		return tls.Certificate{}, errors.New("devca: a server certificate needs at least one host")
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: hosts[0]},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return c.issue(template, serverLifetime)
}

// Format prints the trust domain, whatever the verb.
func (c *CA) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "development CA of %s", c.trustDomain) }

// issue completes the template of a leaf and signs it.
func (c *CA) issue(template *x509.Certificate, lifetime time.Duration) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("devca: %w", err)
	}
	c.mu.Lock()
	signer := c.roots[len(c.roots)-1]
	c.mu.Unlock()
	now := time.Now()
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(lifetime)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	leaf, err := sign(template, signer, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// sign returns the certificate of key, signed by parent, or by itself if
// parent has no certificate.
func sign(template *x509.Certificate, parent root, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	if parent.cert == nil {
		parent.cert = template
	}
	// CreateCertificate chooses a random serial number if there is none.
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	return cert, nil
}
