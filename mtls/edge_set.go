package mtls

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh/internal/follow"
)

// edgeCert is one certificate of an edge. It is immutable.
type edgeCert struct {
	from         string
	sum          follow.Version // of its files
	cert         tls.Certificate
	names        []string // lower case, sorted
	since, until time.Time
}

func newEdgeCert(from string, cert tls.Certificate) (*edgeCert, error) {
	var chain []*x509.Certificate
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("mtls: %s: %w", from, err)
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("mtls: %s has no certificate", from)
	}
	leaf := chain[0]
	key, ok := cert.PrivateKey.(crypto.Signer)
	pub, comparable := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !comparable || !pub.Equal(key.Public()) {
		return nil, fmt.Errorf("mtls: %s: the private key does not belong to the certificate", from)
	}
	if uses := leaf.ExtKeyUsage; len(uses)+len(leaf.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(uses, x509.ExtKeyUsageServerAuth) && !slices.Contains(uses, x509.ExtKeyUsageAny) {
		return nil, fmt.Errorf("mtls: %s is not for servers", from)
	}
	c := &edgeCert{from: from, cert: cert}
	c.cert.Leaf = leaf
	for _, name := range leaf.DNSNames {
		c.names = append(c.names, strings.ToLower(name))
	}
	for _, ip := range leaf.IPAddresses {
		c.names = append(c.names, ip.String())
	}
	slices.Sort(c.names)
	if c.names = slices.Compact(c.names); len(c.names) == 0 {
		return nil, fmt.Errorf("mtls: %s has no DNS name and no IP address, so that no client would accept it", from)
	}
	// Of the leaf alone: chains may hold a certificate that has expired, for
	// clients that know no other path.
	c.since, c.until = window(chain[:1])
	return c, nil
}

func (c *edgeCert) validAt(now time.Time) bool { return !now.Before(c.since) && !now.After(c.until) }

// edgeSet is what an edge serves. It is immutable but for the ticket keys.
type edgeSet struct {
	certs     []*edgeCert
	clients   *roots // whom clients' certificates are verified against, nil if not at all
	clientSum follow.Version

	byName map[string][]*edgeEntry
	others []*edgeEntry // for clients that name none of these
}

// edgeEntry is the configuration of connections that see one certificate.
type edgeEntry struct {
	*edgeCert
	config *tls.Config

	mu   sync.Mutex
	keys *ticketKeys // that config has
}

// find returns the certificate that came from there, or nil.
func (s *edgeSet) find(from string) *edgeCert {
	if s == nil {
		return nil
	}
	for _, c := range s.certs {
		if c.from == from {
			return c
		}
	}
	return nil
}

// add adds what use returns, or the old one besides its error.
func (s *edgeSet) add(old *edgeCert, use func(old *edgeCert) (*edgeCert, error)) error {
	c, err := use(old)
	if err != nil {
		c = old
	}
	if c != nil {
		s.certs = append(s.certs, c)
	}
	return err
}

func (s *edgeSet) equal(last *edgeSet) bool {
	return last != nil && slices.Equal(s.certs, last.certs) && s.clients == last.clients
}

// index makes s ready for handshakes.
func (s *edgeSet) index(e *Edge, cfg *EdgeConfig) error {
	s.byName = map[string][]*edgeEntry{}
	for _, c := range s.certs {
		entry := &edgeEntry{edgeCert: c, config: &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: protocols(cfg.DisableHTTP2), Certificates: []tls.Certificate{c.cert},
			SessionTicketsDisabled: cfg.DisableTickets,
			// ClientCAs are told to clients, and are verified in verifyClient.
			ClientAuth: cfg.Clients.auth(), ClientCAs: s.clients.certPool(), VerifyConnection: e.verifyClient,
		}}
		s.resume(entry.config)
		for _, name := range c.names {
			s.byName[name] = append(s.byName[name], entry)
		}
		if cfg.Default == "" && len(s.certs) == 1 {
			s.others = []*edgeEntry{entry}
		}
	}
	if len(s.certs) == 0 {
		return errors.New("mtls: there is no certificate for the edge")
	}
	if cfg.Default != "" {
		if s.others = s.named(cfg.Default); s.others == nil {
			return fmt.Errorf("mtls: EdgeConfig.Default: no certificate is for %q", cfg.Default)
		}
	}
	return nil
}

// named returns the certificates for a name in lower case.
func (s *edgeSet) named(name string) []*edgeEntry {
	if all := s.byName[name]; all != nil {
		return all
	}
	if _, parent, ok := strings.Cut(name, "."); ok { // a wildcard stands for one label (RFC 6125 §6.4.3)
		return s.byName["*."+parent]
	}
	return nil
}

// choose returns the entry for a client, or nil.
func (s *edgeSet) choose(hello *tls.ClientHelloInfo, now time.Time) *edgeEntry {
	all := s.named(strings.ToLower(hello.ServerName))
	if all == nil {
		all = s.others
	}
	if len(all) == 0 {
		return nil
	}
	best, first := all[0], true
	if len(all) == 1 {
		return best
	}
	for _, entry := range all {
		if hello.SupportsCertificate(&entry.cert) != nil {
			continue
		}
		if entry.validAt(now) {
			return entry
		}
		if first { // supported at least
			best, first = entry, false
		}
	}
	return best
}

// withKeys returns the configuration with the ticket keys of the moment.
func (e *edgeEntry) withKeys(k *ticketKeys) *tls.Config {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.keys == nil || k.number > e.keys.number {
		e.keys = k
		e.config.SetSessionTicketKeys(k.of(e.names))
	}
	return e.config
}
