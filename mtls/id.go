package mtls

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Limits of SPIFFE-ID §2.1 and §2.3. Go-spiffe does not enforce them.
const (
	maxID          = 2048
	maxTrustDomain = 255
)

// ID is the SPIFFE id of a workload. IDs are comparable with ==. The zero ID is
// no workload's; every other one was made by [ParseID] and is valid.
type ID struct{ trustDomain, path string }

// ParseID returns the id that s spells, such as
// "spiffe://cluster.local/ns/production/sa/order-service". It is strict
// (SPIFFE-ID §2): no port, user, query, fragment, escape, empty or dot segment,
// and no id without a path, which would be the trust domain itself. Scheme and
// trust domain may be in any case and become lower case; the path is kept.
func ParseID(s string) (ID, error) {
	id, err := parseID(s)
	if err != nil {
		return ID{}, fmt.Errorf("mtls: %w", err)
	}
	return id, nil
}

func parseID(s string) (ID, error) {
	if len(s) > maxID {
		return ID{}, fmt.Errorf("SPIFFE id has more than %d bytes", maxID)
	}
	id, err := spiffeid.FromString(lowerAuthority(s))
	switch {
	case err != nil:
		return ID{}, fmt.Errorf("SPIFFE id %q: %w", s, err)
	case len(id.TrustDomain().Name()) > maxTrustDomain:
		return ID{}, fmt.Errorf("trust domain has more than %d bytes", maxTrustDomain)
	case id.Path() == "":
		return ID{}, fmt.Errorf("SPIFFE id %q has no path", s)
	}
	return ID{id.TrustDomain().Name(), id.Path()}, nil
}

// lowerAuthority returns s with the ASCII letters in front of the path in lower
// case. strings.ToLower would make a letter of U+212A, the Kelvin sign.
func lowerAuthority(s string) string {
	b := []byte(s)
	slashes := 0
	for i, c := range b {
		if c == '/' {
			if slashes++; slashes == 3 {
				break
			}
		}
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// String returns the id as a URI, or "" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.trustDomain + id.path
}

// TrustDomain returns the trust domain, such as "cluster.local".
func (id ID) TrustDomain() string { return id.trustDomain }

// Path returns the path with its leading slash.
func (id ID) Path() string { return id.path }

// IsZero reports whether id is the zero ID.
func (id ID) IsZero() bool { return id == ID{} }

// checkTrustDomain returns an error unless td is a trust domain name in its
// canonical spelling.
func checkTrustDomain(td string) error {
	// FromString would also take an id and use its authority.
	if strings.ContainsAny(td, ":/") {
		return fmt.Errorf("trust domain %q is not a name", td)
	}
	if len(td) > maxTrustDomain {
		return fmt.Errorf("trust domain has more than %d bytes", maxTrustDomain)
	}
	if _, err := spiffeid.TrustDomainFromString(td); err != nil {
		return fmt.Errorf("trust domain %q: %w", td, err)
	}
	return nil
}

// leafID applies the rules for leaves of X509-SVID §2 and §5.2.
func leafID(leaf *x509.Certificate) (ID, error) {
	switch {
	case leaf.IsCA:
		return ID{}, errors.New("the leaf is a CA certificate")
	case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return ID{}, errors.New("the leaf may sign certificates or CRLs")
	case len(leaf.URIs) != 1:
		return ID{}, fmt.Errorf("the leaf has %d URI SANs instead of one", len(leaf.URIs))
	}
	return parseID(writtenURI(leaf))
}

var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// writtenURI returns the first URI SAN as it is written: an empty fragment, by
// which "…/sa/a#" is another name, is lost in the net/url.URL that crypto/x509
// makes of it.
func writtenURI(leaf *x509.Certificate) string {
	for _, e := range leaf.Extensions {
		var names []asn1.RawValue
		if !e.Id.Equal(subjectAltName) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
			return ""
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == 6 { // RFC 5280 §4.2.1.6
				return string(n.Bytes)
			}
		}
	}
	return ""
}
