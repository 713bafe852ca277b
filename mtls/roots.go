package mtls

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"
)

// roots are authorities that are trusted.
type roots struct {
	pool  *x509.CertPool // built once: a pool per verification is most of its cost
	certs []*x509.Certificate
}

func newRoots() *roots { return &roots{pool: x509.NewCertPool()} }

func (r *roots) add(c *x509.Certificate) {
	r.pool.AddCert(c)
	r.certs = append(r.certs, c)
}

// chains verifies certificates as they were sent, leaf first.
func (r *roots) chains(certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) ([][]*x509.Certificate, error) {
	return certs[0].Verify(x509.VerifyOptions{
		Roots: r.pool, Intermediates: r.intermediates(certs[1:]), CurrentTime: now,
		// A leaf without the extension is good for every use, as X509-SVID
		// §4.4 makes it optional.
		KeyUsages: []x509.ExtKeyUsage{usage},
	})
}

// fewIntermediates is up to where there is little for crypto/x509 to try.
const fewIntermediates = 2

// intermediates returns those of sent that may be part of a chain. Crypto/x509
// goes from the leaf upwards and tries every way there is, with up to a hundred
// signatures by keys of the stranger's choice: nine certificates of one name and
// of P-521 keep it busy for 70 ms. From the roots downwards, none is looked at
// but by a key that we trust already.
func (r *roots) intermediates(sent []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	if len(sent) <= fewIntermediates {
		for _, c := range sent {
			pool.AddCert(c)
		}
		return pool
	}
	trusted, left := slices.Clone(r.certs), slices.Clone(sent)
	for i := 0; i < len(trusted) && len(left) > 0; i++ {
		left = slices.DeleteFunc(left, func(c *x509.Certificate) bool {
			if !bytes.Equal(c.RawIssuer, trusted[i].RawSubject) || c.CheckSignatureFrom(trusted[i]) != nil {
				return false
			}
			trusted = append(trusted, c)
			pool.AddCert(c)
			return true
		})
	}
	return pool
}

// certPool returns the roots as crypto/tls wants them, nil for nil.
func (r *roots) certPool() *x509.CertPool {
	if r == nil {
		return nil
	}
	return r.pool
}
