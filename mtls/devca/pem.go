package devca

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// BundlePEM returns the roots that are trusted now in PEM form.
func (c *CA) BundlePEM() []byte {
	var out []byte
	for _, cert := range c.trusted().certs {
		out = append(out, encode("CERTIFICATE", cert.Raw)...)
	}
	return out
}

// EncodePEM returns a certificate with its intermediates, and its private key
// as PKCS #8, in PEM form.
func EncodePEM(cert tls.Certificate) (certPEM, keyPEM []byte, err error) {
	for _, der := range cert.Certificate {
		certPEM = append(certPEM, encode("CERTIFICATE", der)...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("devca: %w", err)
	}
	return certPEM, encode("PRIVATE KEY", key), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
