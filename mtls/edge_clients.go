package mtls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// EdgeClients says whether the clients of an [Edge] are asked for certificates.
type EdgeClients uint8

const (
	// EdgeClientsIgnored asks for no certificate.
	EdgeClientsIgnored EdgeClients = iota
	// EdgeClientsOptional asks for one. Who sends none gets in without; who
	// sends one that cannot be verified does not get in.
	EdgeClientsOptional
	// EdgeClientsRequired asks for one, and nobody gets in without.
	EdgeClientsRequired
)

// auth is what crypto/tls demands. It does not verify what it gets: any stranger
// could keep it busy, see [roots.intermediates].
func (m EdgeClients) auth() tls.ClientAuthType {
	switch m {
	case EdgeClientsOptional:
		return tls.RequestClientCert
	case EdgeClientsRequired:
		return tls.RequireAnyClientCert
	}
	return tls.NoClientCert
}

var (
	errClientMissing   = errors.New("mtls: the client sent no certificate")
	errClientUnwanted  = errors.New("mtls: certificates of clients are not asked for any more")
	errClientWorkload  = errors.New("mtls: the certificate is a workload's, which has no business at the edge")
	errClientHandshake = errors.New("mtls: the handshake is not complete")
)

// trust sets the authorities of clients.
func (s *edgeSet) trust(f *edgeFile, last *edgeSet) error {
	if last != nil {
		s.clients, s.clientSum = last.clients, last.clientSum
		if s.clientSum == f.sum {
			return nil
		}
	}
	if f.err != nil {
		return fmt.Errorf("mtls: EdgeConfig.ClientCA: %w", f.err)
	}
	certs, err := parsePEM(f.cert)
	if err != nil {
		return fmt.Errorf("mtls: EdgeConfig.ClientCA: %s: %w", f.from, err)
	}
	trusted := newRoots()
	for _, c := range certs {
		if !c.BasicConstraintsValid || !c.IsCA { // it would be trusted as it is
			return fmt.Errorf("mtls: EdgeConfig.ClientCA: %s holds a certificate that is no CA", f.from)
		}
		trusted.add(c)
	}
	s.clients, s.clientSum = trusted, f.sum
	return nil
}

// resume has sessions resumed under the authorities of clients that they began
// with, and for as long as all certificates are valid that the client has sent.
// Otherwise there is a full handshake, for which it may have a newer one.
func (s *edgeSet) resume(c *tls.Config) {
	if s.clients == nil {
		return
	}
	c.WrapSession = func(cs tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		until := int64(math.MaxInt64)
		if len(cs.PeerCertificates) > 0 {
			_, end := window(cs.PeerCertificates)
			until = end.Unix()
		}
		session.Extra = append(session.Extra, binary.BigEndian.AppendUint64(s.clientSum[:], uint64(until)))
		return c.EncryptTicket(cs, session)
	}
	c.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		session, err := c.DecryptTicket(ticket, cs)
		if err != nil || session == nil || len(session.Extra) != 1 {
			return nil, err
		}
		until, same := bytes.CutPrefix(session.Extra[0], s.clientSum[:])
		if !same || len(until) != 8 || time.Now().Unix() > int64(binary.BigEndian.Uint64(until)) {
			return nil, nil
		}
		return session, nil
	}
}

// verifyClient judges the client of every handshake, resumed ones included, by
// what is configured when it ends.
func (e *Edge) verifyClient(cs tls.ConnectionState) error {
	_, err := e.verify(cs.PeerCertificates, time.Now())
	return err
}

// Client returns the certificate of the client at the other end of a connection
// that e has accepted, verified against the authorities of now and not those of
// the handshake. It is nil without an error if the client has sent none, and
// where clients are not asked for one.
//
// It is no [gatemesh.Peer]: what its names mean is for the application to
// know, and no layer of this module makes anything of it. As the edge accepts
// no certificate with a SPIFFE id, and [TLS.Peer] none without, neither is ever
// taken for the other, even if one authority signs both. An Entry behind an edge
// has no [gatemesh.EntryConfig.Peer]: it would refuse clients for a certificate
// that is no workload's.
//
// Each call costs a verification; an application that does without finds the
// certificate of the handshake in [tls.ConnectionState], where it is verified
// although VerifiedChains is empty.
func (e *Edge) Client(cs *tls.ConnectionState) (*x509.Certificate, error) {
	if cs == nil {
		return nil, nil
	}
	if !cs.HandshakeComplete { // else the client may not hold the private key
		return nil, errClientHandshake
	}
	return e.verify(cs.PeerCertificates, time.Now())
}

func (e *Edge) verify(certs []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	s := e.live.Latest()
	if s == nil {
		return nil, errEdgeUnset
	}
	switch {
	case len(certs) == 0 && s.cfg.Clients == EdgeClientsRequired:
		return nil, errClientMissing
	case len(certs) == 0:
		return nil, nil
	case len(certs) > maxChain:
		return nil, fmt.Errorf("mtls: the client sent more than %d certificates", maxChain)
	}
	trusted := s.watch.Current().clients
	if trusted == nil {
		return nil, errClientUnwanted
	}
	leaf := certs[0]
	for _, uri := range leaf.URIs {
		if uri.Scheme == "spiffe" {
			return nil, errClientWorkload
		}
	}
	_, err := trusted.chains(certs, x509.ExtKeyUsageClientAuth, now)
	if err != nil {
		return nil, fmt.Errorf("mtls: the client: %w", err)
	}
	return leaf, nil
}
