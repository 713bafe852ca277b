package mtls

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// Bundles are the authorities of each trusted trust domain. A certificate is
// verified against the bundle of the trust domain it claims, so that no
// authority can speak for another domain. Bundles are immutable. A nil *Bundles
// trusts nobody.
type Bundles struct {
	roots map[string]*roots
}

// NewBundles returns Bundles of the authorities by trust domain. It reports
// every fault at once: a name that is no trust domain, a domain without
// authorities, an authority that is no CA certificate.
func NewBundles(authorities map[string][]*x509.Certificate) (*Bundles, error) {
	b := &Bundles{roots: make(map[string]*roots, len(authorities))}
	var errs []error
	if len(authorities) == 0 {
		errs = append(errs, errors.New("mtls: no bundle"))
	}
	for td, certs := range authorities {
		if err := checkTrustDomain(td); err != nil {
			errs = append(errs, fmt.Errorf("mtls: bundle: %w", err))
		}
		if len(certs) == 0 {
			errs = append(errs, fmt.Errorf("mtls: the bundle of %q is empty", td))
		}
		trusted := newRoots()
		for _, c := range certs {
			// A leaf in a pool of roots would be trusted as it is.
			if c == nil || !c.BasicConstraintsValid || !c.IsCA {
				errs = append(errs, fmt.Errorf("mtls: the bundle of %q holds a certificate that is no CA", td))
				continue
			}
			trusted.add(c)
		}
		b.roots[td] = trusted
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return b, nil
}

// of returns the roots of a trust domain, or nil.
func (b *Bundles) of(trustDomain string) *roots {
	if b == nil {
		return nil
	}
	return b.roots[trustDomain]
}

// ParseCertificates returns the certificates of PEM data, at least one. Text
// between the blocks is ignored; a block that is broken or no certificate is
// an error, where encoding/pem would skip it.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	certs, err := parsePEM(data)
	if err != nil {
		return nil, fmt.Errorf("mtls: %w", err)
	}
	return certs, nil
}

func parsePEM(data []byte) ([]*x509.Certificate, error) {
	blocks := bytes.Count(data, []byte("-----BEGIN "))
	if blocks == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("a PEM block is not a certificate")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) != blocks {
		return nil, fmt.Errorf("%d of %d PEM blocks are broken", blocks-len(certs), blocks)
	}
	return certs, nil
}
