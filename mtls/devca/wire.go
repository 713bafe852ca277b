package devca

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/gatemesh-go/gatemesh/mtls"
)

// What either side reads at most. Both sides are of the same user; the limits
// are for programs that are broken.
const (
	maxRequest  = 16 << 10
	maxResponse = 256 << 10
	maxRoots    = 32
)

// answer is what the server says: the roots, DER each, oldest first, and, if a
// certificate was asked for, that.
type answer struct {
	Certificate []byte   `json:"certificate,omitempty"`
	Roots       [][]byte `json:"roots"`
}

// version names a set of roots, so that a client can ask for another one.
func version(roots []*x509.Certificate) string {
	h := sha256.New()
	for _, r := range roots {
		sum := sha256.Sum256(r.Raw)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// roots returns the roots of an answer.
func (a *answer) roots() ([]*x509.Certificate, error) {
	if len(a.Roots) == 0 || len(a.Roots) > maxRoots {
		return nil, fmt.Errorf("devca: the server sent %d roots", len(a.Roots))
	}
	var certs []*x509.Certificate
	for _, der := range a.Roots {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("devca: the server sent a root that cannot be read: %w", err)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// parseRequest returns the id and the public key of a PKCS #10 request. Its
// signature proves that who asks has the private key. Nothing else of it gets
// into a certificate.
func parseRequest(der []byte) (mtls.ID, any, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return mtls.ID{}, nil, fmt.Errorf("devca: %w", err)
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return mtls.ID{}, nil, errors.New("devca: the curve is not P-256 or P-384")
		}
	case ed25519.PublicKey:
	default:
		return mtls.ID{}, nil, fmt.Errorf("devca: a key of type %T is not supported", key)
	}
	// Of these keys only: to check with an RSA key of 60 000 bits takes long.
	if err := csr.CheckSignature(); err != nil {
		return mtls.ID{}, nil, fmt.Errorf("devca: the request is not signed with its key: %w", err)
	}
	if len(csr.URIs) != 1 {
		return mtls.ID{}, nil, fmt.Errorf("devca: the request has %d URI SANs instead of one", len(csr.URIs))
	}
	id, err := mtls.ParseID(csr.URIs[0].String())
	return id, csr.PublicKey, err
}
