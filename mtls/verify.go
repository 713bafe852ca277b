package mtls

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// maxChain bounds what a stranger can make us verify. Meshes use two to four.
const maxChain = 10

// verified is a peer whose chain leads to an authority of bundles between
// since and until.
type verified struct {
	peer         *gatemesh.Peer
	bundles      *Bundles
	since, until time.Time
	bytes        int64 // of the certificates that peer keeps
}

func (v *verified) validAt(now time.Time) bool {
	return !now.Before(v.since) && !now.After(v.until)
}

var errNoCertificate = errors.New("mtls: the peer sent no certificate")

// verify judges the certificates that a peer sent, leaf first, for a use as
// client or server. That the peer holds the private key was proved by the
// handshake.
func verify(certs []*x509.Certificate, b *Bundles, usage x509.ExtKeyUsage, now time.Time) (*verified, error) {
	if len(certs) == 0 {
		return nil, errNoCertificate
	}
	if len(certs) > maxChain {
		return nil, fmt.Errorf("mtls: the peer sent more than %d certificates", maxChain)
	}
	leaf := certs[0]
	id, err := leafID(leaf)
	if err != nil {
		return nil, fmt.Errorf("mtls: %w", err)
	}
	trusted := b.of(id.trustDomain)
	if trusted == nil {
		return nil, fmt.Errorf("mtls: %s: the trust domain is not trusted", id)
	}
	chains, err := trusted.chains(certs, usage, now)
	if err != nil {
		return nil, fmt.Errorf("mtls: %s: %w", id, err)
	}
	peer, err := gatemesh.NewPeer(id.trustDomain, id.path, certs)
	if err != nil {
		return nil, fmt.Errorf("mtls: %s: %w", id, err)
	}
	v := &verified{peer: peer, bundles: b}
	for _, c := range certs {
		v.bytes += int64(len(c.Raw))
	}
	for _, chain := range chains {
		if since, until := window(chain); until.After(v.until) {
			v.since, v.until = since, until
		}
	}
	return v, nil
}

// window returns when all certificates of a chain are valid together.
func window(chain []*x509.Certificate) (since, until time.Time) {
	since, until = chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotBefore.After(since) {
			since = c.NotBefore
		}
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	return since, until
}
