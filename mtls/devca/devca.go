package devca

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

// Config configures a [CA]. The zero Config is invalid: TrustDomain is required.
type Config struct {
	// TrustDomain is the SPIFFE trust domain, such as "cluster.local". Required.
	TrustDomain string
	// RootLifetime is how long a root holds. No certificate outlives the root
	// that signs it. Default: 365 days. At least 1 minute.
	RootLifetime time.Duration
}

// CA issues certificates with ECDSA P-256 keys for the workloads of one trust
// domain. Make it with [New] or [NewCA]. It is safe for concurrent use and owns
// no goroutine. Printing it shows its trust domain and no key. The zero CA issues
// nothing.
//
// Its root is replaced in time: the next one is trusted from two thirds of its
// life on, signs from five sixths on, and stands alone when the old one has
// ended. So everybody has known a root for long when the first certificate of
// it appears. The CA looks at the time whenever it is used, which every open
// [Source] and [Server] does at least once a minute.
type CA struct {
	trustDomain string
	lifetime    time.Duration // of a root

	mu    sync.Mutex
	roots []root // oldest first, at least one
	trust atomic.Pointer[trust]
}

var errUnset = errors.New("devca: the CA was not made by New or NewCA")

type root struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	since time.Time // signs from then on
}

// trust is what relies on the roots, swapped as one.
type trust struct {
	certs   []*x509.Certificate
	bundles *mtls.Bundles
	changed chan struct{} // closed when there is another trust
}

// New returns an authority with a new root for the trust domain, such as
// "cluster.local".
func New(trustDomain string) (*CA, error) { return NewCA(Config{TrustDomain: trustDomain}) }

// NewCA returns an authority with a new root. It reports every invalid field at
// once.
func NewCA(cfg Config) (*CA, error) {
	var errs []error
	id, err := mtls.ParseID("spiffe://" + cfg.TrustDomain + "/x")
	if err != nil || id.TrustDomain() != cfg.TrustDomain {
		errs = append(errs, fmt.Errorf("devca: Config.TrustDomain: %q is not a trust domain", cfg.TrustDomain))
	}
	if cfg.RootLifetime == 0 {
		cfg.RootLifetime = rootLifetime
	}
	if cfg.RootLifetime < time.Minute {
		errs = append(errs, errors.New("devca: Config.RootLifetime must be at least 1 minute"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c := &CA{trustDomain: cfg.TrustDomain, lifetime: cfg.RootLifetime}
	if err := c.Rotate(); err != nil {
		return nil, err
	}
	return c, nil
}

// TrustDomain returns the trust domain.
func (c *CA) TrustDomain() string { return c.trustDomain }

// Bundle returns the roots that are trusted now, oldest first.
func (c *CA) Bundle() []*x509.Certificate {
	return append([]*x509.Certificate(nil), c.trusted().certs...)
}

// Pool returns the roots that are trusted now, for clients of
// [CA.ServerCertificate].
func (c *CA) Pool() *x509.CertPool { return poolOf(c.trusted().certs) }

func poolOf(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}

// Issue returns a certificate with a new key for the workload with this SPIFFE
// id, good as client and as server. For one that can be renewed see
// [CA.Source].
func (c *CA) Issue(id string, lifetime time.Duration) (tls.Certificate, error) {
	parsed, err := mtls.ParseID(id)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := c.workload(parsed, key.Public(), lifetime)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// workload returns a certificate of the workload for its public key.
func (c *CA) workload(id mtls.ID, public crypto.PublicKey, lifetime time.Duration) (*x509.Certificate, error) {
	switch {
	case id.TrustDomain() != c.trustDomain:
		return nil, fmt.Errorf("devca: %s is not of trust domain %s", id, c.trustDomain)
	case lifetime <= 0:
		return nil, errors.New("devca: the lifetime must be positive")
	}
	return c.issue(&x509.Certificate{
		// X509-SVID §2 has the id as URI SAN; the subject is for people.
		Subject:     pkix.Name{Organization: []string{"gatemesh development workload"}},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: id.TrustDomain(), Path: id.Path()}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, public, lifetime)
}

// ServerCertificate returns a certificate for a server that is known by host
// names and addresses and not by a SPIFFE id, such as the edge in a demo. It
// holds for 30 days and nothing renews it.
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
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := c.issue(template, key.Public(), serverLifetime)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// Format prints the trust domain, whatever the verb.
func (c *CA) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "development CA of %s", c.trustDomain) }

// issue completes the template of a leaf and signs it. The leaf does not
// outlive its signer.
func (c *CA) issue(template *x509.Certificate, public crypto.PublicKey, lifetime time.Duration) (*x509.Certificate, error) {
	now := time.Now()
	signer, err := c.signer(now)
	if err != nil {
		return nil, err
	}
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(lifetime)
	if template.NotAfter.After(signer.cert.NotAfter) {
		template.NotAfter = signer.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return sign(template, signer, public)
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	return key, nil
}

// sign returns the certificate of a public key, signed by parent, or by itself if
// parent has no certificate.
func sign(template *x509.Certificate, parent root, public crypto.PublicKey) (*x509.Certificate, error) {
	if parent.cert == nil {
		parent.cert = template
	}
	// CreateCertificate chooses a random serial number if there is none.
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, public, parent.key)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	return cert, nil
}
