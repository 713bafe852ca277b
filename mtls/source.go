package mtls

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// A Source says who we are and whom we trust. It is asked for every handshake
// and for every call, so Credentials must be as cheap as an atomic load, and
// must return the same pointer until something changes. It must be safe for
// concurrent use. Where it returns nil, handshakes and calls are refused.
type Source interface {
	Credentials() *Credentials
}

// Credentials are a certificate of ours together with the bundles that belong
// to the same moment. They are immutable; make them with [NewCredentials].
// Printing them shows the SPIFFE id and no key.
type Credentials struct {
	// Certificate is our leaf, its intermediates and its private key. Leaf is set.
	Certificate tls.Certificate
	// ID is the SPIFFE id of the certificate.
	ID ID
	// Bundles are the authorities we trust. A Source whose trust does not
	// change hands out the same pointer again with a new certificate: peers
	// are verified anew when the pointer changes.
	Bundles *Bundles
}

// NewCredentials returns Credentials after checking that the leaf follows the
// rules of X509-SVID, that the private key belongs to it, and that its own
// trust domain has a bundle. Validity is not checked.
func NewCredentials(cert tls.Certificate, bundles *Bundles) (*Credentials, error) {
	if len(cert.Certificate) == 0 {
		return nil, errors.New("mtls: no certificate")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("mtls: %w", err)
	}
	id, err := leafID(leaf)
	if err != nil {
		return nil, fmt.Errorf("mtls: %w", err)
	}
	key, ok := cert.PrivateKey.(crypto.Signer)
	pub, comparable := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !comparable || !pub.Equal(key.Public()) {
		return nil, errors.New("mtls: the private key does not belong to the certificate")
	}
	if bundles.of(id.trustDomain) == nil {
		return nil, fmt.Errorf("mtls: there is no bundle for our own trust domain %s", id.trustDomain)
	}
	cert.Leaf = leaf
	return &Credentials{Certificate: cert, ID: id, Bundles: bundles}, nil
}

// Format prints the SPIFFE id, whatever the verb.
func (c Credentials) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "credentials of %s", c.ID) }
