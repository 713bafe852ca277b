package devca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"time"

	"github.com/gatemesh-go/gatemesh/mtls"
)

// Rotate makes a new root that signs from now on. Older roots stay trusted
// until they end or [CA.Retire]. Every [Source] of the CA trusts the new root at
// once and keeps its certificate until it is renewed; a [Client] of a [Server]
// trusts it as soon as it has heard of it. Nobody needs to call Rotate: the CA
// replaces its root in time.
func (c *CA) Rotate() error {
	now := time.Now()
	next, err := c.newRoot(now)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rely(append(alive(c.roots, now), next))
}

// Retire ends the trust in all roots but the newest, which signs from now on.
// Certificates that older roots signed are worth nothing any more. Sources of
// the CA renew theirs within a minute, clients of a [Server] at once.
func (c *CA) Retire() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.roots) == 0 {
		return errUnset
	}
	return c.rely(c.roots[len(c.roots)-1:])
}

// newRoot returns a root that signs at once.
func (c *CA) newRoot(now time.Time) (root, error) {
	if c.trustDomain == "" {
		return root{}, errUnset
	}
	key, err := newKey()
	if err != nil {
		return root{}, err
	}
	cert, err := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "gatemesh development CA of " + c.trustDomain},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: c.trustDomain}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(c.lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}, root{key: key}, key.Public())
	if err != nil {
		return root{}, err
	}
	return root{cert, key, now}, nil
}

// upkeep replaces the newest root in time and forgets those that have ended.
// The caller holds c.mu.
func (c *CA) upkeep(now time.Time) error {
	if len(c.roots) == 0 {
		return errUnset
	}
	roots := alive(c.roots, now)
	ended := len(roots) < len(c.roots)
	newest := c.roots[len(c.roots)-1]
	if end := newest.cert.NotAfter; now.Before(end.Add(-c.lifetime / 3)) {
		if ended {
			return c.rely(roots)
		}
		return nil
	}
	next, err := c.newRoot(now)
	if err != nil {
		return err
	}
	next.since = newest.cert.NotAfter.Add(-c.lifetime / 6)
	return c.rely(append(roots, next))
}

func alive(roots []root, now time.Time) (alive []root) {
	for _, r := range roots {
		if !now.After(r.cert.NotAfter) {
			alive = append(alive, r)
		}
	}
	return alive
}

// signer returns the newest root that signs already, or else the oldest.
func (c *CA) signer(now time.Time) (root, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.upkeep(now); err != nil {
		return root{}, err
	}
	for i := len(c.roots) - 1; i > 0; i-- {
		if !now.Before(c.roots[i].since) {
			return c.roots[i], nil
		}
	}
	return c.roots[0], nil
}

// trusted returns the trust of now. Where a new root cannot be made, the old
// ones stay.
func (c *CA) trusted() *trust {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.upkeep(time.Now()) // whoever asks for a certificate is told
	if t := c.trust.Load(); t != nil {
		return t
	}
	return &trust{} // of the zero CA
}

// rely makes roots those that are trusted. The caller holds c.mu or is the only
// one to know c.
func (c *CA) rely(roots []root) error {
	t := &trust{changed: make(chan struct{})}
	for _, r := range roots {
		t.certs = append(t.certs, r.cert)
	}
	var err error
	if t.bundles, err = mtls.NewBundles(map[string][]*x509.Certificate{c.trustDomain: t.certs}); err != nil {
		return err
	}
	c.roots = append([]root(nil), roots...)
	if old := c.trust.Swap(t); old != nil {
		close(old.changed)
	}
	return nil
}
