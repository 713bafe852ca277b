package spire

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

const (
	firstRetry = 100 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// watch follows the agent until ctx ends.
func (s *Source) watch(ctx context.Context, client *workloadapi.Client) {
	for ctx.Err() == nil {
		// It tries again by itself, but gives up after two errors that an agent
		// may well recover from: InvalidArgument and Canceled.
		_ = client.WatchX509Context(ctx, watcher{ctx, s}) // the watcher has heard it
		select {
		case <-ctx.Done():
		case <-time.After(maxRetry):
		}
	}
}

// watcher hears what the agent says.
type watcher struct {
	ctx context.Context // of the Source
	s   *Source
}

// OnX509ContextUpdate uses what the agent has sent if it is good.
func (w watcher) OnX509ContextUpdate(c *workloadapi.X509Context) {
	if changed, err := w.s.update(c, time.Now()); err != nil {
		w.OnX509ContextWatchError(err)
	} else if w.s.news(nil); changed {
		w.s.report(gatemesh.EventNotice, "certificates received from the agent", nil)
	}
}

// OnX509ContextWatchError reports a fault, unless that was the last thing it
// did.
func (w watcher) OnX509ContextWatchError(err error) {
	if err != nil && w.ctx.Err() == nil && w.s.news(err) {
		w.s.report(gatemesh.EventFault, "the agent cannot be used, the last good credentials stay", fmt.Errorf("spire: %w", err))
	}
}

// news remembers the fault, and reports whether it is another one.
func (s *Source) news(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.failed
	s.failed = err
	return err != nil && (old == nil || old.Error() != err.Error())
}

func (s *Source) report(kind gatemesh.EventKind, message string, err error) {
	if s.cfg.Observer != nil {
		s.cfg.Observer.Observe(context.Background(), gatemesh.Event{Kind: kind, Layer: "spire", Message: message, Err: err})
	}
}

// update uses what the agent has sent.
func (s *Source) update(c *workloadapi.X509Context, now time.Time) (changed bool, err error) {
	svid, err := s.cfg.pick(c.SVIDs)
	if err != nil {
		return false, err
	}
	cert := tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, x := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	leaf := svid.Certificates[0]
	if td := svid.ID.TrustDomain().Name(); s.cfg.TrustDomain != "" && td != s.cfg.TrustDomain {
		return false, fmt.Errorf("%s is not of trust domain %s", svid.ID, s.cfg.TrustDomain)
	}
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return false, fmt.Errorf("%s: valid from %s to %s only", svid.ID, leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	old := s.current.Load()
	bundles, print, err := s.trust(c, old)
	if err != nil {
		return false, err
	}
	if old != nil && old.Bundles == bundles && slices.EqualFunc(old.Certificate.Certificate, cert.Certificate, slices.Equal) {
		return false, nil
	}
	creds, err := mtls.NewCredentials(cert, bundles)
	if err != nil {
		return false, err
	}
	s.current.Store(creds)
	s.bundles = print
	if old == nil {
		close(s.ready)
	}
	return true, nil
}

// trust returns the bundles with their fingerprint, and those of old if they are
// the same, so that peers need not be verified anew.
func (s *Source) trust(c *workloadapi.X509Context, old *mtls.Credentials) (*mtls.Bundles, [32]byte, error) {
	authorities := map[string][]*x509.Certificate{}
	for _, b := range c.Bundles.Bundles() {
		authorities[b.TrustDomain().Name()] = b.X509Authorities()
	}
	h := sha256.New()
	for _, td := range slices.Sorted(maps.Keys(authorities)) {
		fmt.Fprintf(h, "%q %d", td, len(authorities[td]))
		for _, a := range authorities[td] {
			sum := sha256.Sum256(a.Raw)
			h.Write(sum[:])
		}
	}
	var print [32]byte
	h.Sum(print[:0])
	if old != nil && print == s.bundles {
		return old.Bundles, print, nil
	}
	bundles, err := mtls.NewBundles(authorities)
	return bundles, print, err
}

// pick returns the identity that the configuration asks for. There is at least
// one.
func (cfg *Config) pick(svids []*x509svid.SVID) (*x509svid.SVID, error) {
	if cfg.ID == "" && cfg.Hint == "" {
		return svids[0], nil
	}
	var ids []string
	for _, svid := range svids {
		if cfg.Hint != "" && svid.Hint == cfg.Hint {
			return svid, nil
		}
		if id, err := mtls.ParseID(svid.ID.String()); cfg.ID != "" && err == nil && id == cfg.want() {
			return svid, nil
		}
		ids = append(ids, svid.ID.String())
	}
	return nil, fmt.Errorf("the agent has no identity %q with hint %q for us, but %q", cfg.ID, cfg.Hint, ids)
}

// want returns the id of a valid configuration.
func (cfg *Config) want() mtls.ID {
	id, _ := mtls.ParseID(cfg.ID) // checked before
	return id
}

// strategy waits twice as long after each failure.
type strategy struct{}

// NewBackoff is for the client of go-spiffe.
func (strategy) NewBackoff() workloadapi.Backoff { return &doubling{} }

type doubling struct{ last time.Duration }

// Next returns how long to wait.
func (d *doubling) Next() time.Duration {
	d.last = min(maxRetry, max(firstRetry, 2*d.last))
	return d.last
}

// Reset is called when the agent has answered.
func (d *doubling) Reset() { d.last = 0 }
