package devca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// WorkloadConfig configures a [Source]. One of ID and Workload is required.
type WorkloadConfig struct {
	// ID is the SPIFFE id. Default: that of Workload, in Istio's layout.
	ID string
	// Workload says who the workload is, if ID is not set.
	Workload gatemesh.Workload
	// Lifetime is how long each certificate holds, unless the root that signs
	// it ends before. Default: 1 hour. Must not be negative.
	Lifetime time.Duration
	// DisableRenewal leaves the certificate to [Source.Renew] alone.
	DisableRenewal bool
	// Observer receives a fault for a renewal that failed, once until one
	// succeeds. Default: nobody.
	Observer gatemesh.Observer
}

// Source is an [mtls.Source] of one workload. Make it with [CA.Source]. It is
// safe for concurrent use. Printing it shows its SPIFFE id and no key. The zero
// Source has no credentials.
//
// Certificate and key are replaced at two thirds of their life, and within a
// minute when the roots that signed them lost their trust. If that fails, the
// old ones stay, and it is tried again after a second, then after twice as long
// each time, up to a minute. A Source owns no goroutine but a timer; one that
// nobody uses any more is collected, closed or not.
type Source struct {
	ca       *CA
	id       string
	lifetime time.Duration
	observer gatemesh.Observer
	current  atomic.Pointer[mtls.Credentials]
	issue    func(id string, lifetime time.Duration) (tls.Certificate, error)

	mu      sync.Mutex // held while certificates are replaced
	due     time.Time  // of the next renewal
	backoff time.Duration
	checked *trust      // vouches for the certificate
	timer   *time.Timer // nil without renewal
	closed  bool
}

var errSourceUnset = errors.New("devca: the Source was not made by CA.Source")

// Source returns a source of credentials for a workload.
func (c *CA) Source(cfg WorkloadConfig) (*Source, error) {
	var errs []error
	if cfg.ID == "" {
		if err := cfg.Workload.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("devca: WorkloadConfig.ID or Workload is required: %w", err))
		}
		cfg.ID = cfg.Workload.SPIFFEID()
	}
	if cfg.Lifetime < 0 {
		errs = append(errs, errors.New("devca: WorkloadConfig.Lifetime must not be negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Lifetime == 0 {
		cfg.Lifetime = time.Hour
	}
	s := &Source{ca: c, id: cfg.ID, lifetime: cfg.Lifetime, observer: cfg.Observer, issue: c.Issue}
	if err := s.Renew(); err != nil {
		return nil, err
	}
	if !cfg.DisableRenewal {
		s.schedule()
	}
	return s, nil
}

// schedule sets the timer that renews. It does not keep s from being collected.
func (s *Source) schedule() {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := weak.Make(s)
	s.timer = time.AfterFunc(wait(time.Now(), s.due), func() {
		if s := w.Value(); s != nil {
			s.tick(time.Now())
		}
	})
}

// wait returns how long to wait for due, but never more than a minute: timers
// stand still while the machine sleeps, and the clock does not.
func wait(now, due time.Time) time.Duration {
	return max(0, min(time.Minute, due.Sub(now)))
}

// twoThirds returns when a certificate that is new now is to be replaced.
func twoThirds(now time.Time, leaf *x509.Certificate) time.Time {
	return now.Add(leaf.NotAfter.Sub(now) * 2 / 3)
}

const (
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// tick renews if that is due, and sets the timer anew.
func (s *Source) tick(now time.Time) {
	now = now.Round(0) // for the clock on the wall
	s.mu.Lock()
	var err error
	if !s.closed {
		if trust := s.ca.trusted(); !now.Before(s.due) || trust != s.checked && !vouched(s.current.Load().Certificate.Leaf, trust.certs) {
			err = s.renew(now)
		} else {
			s.checked = trust
		}
		s.timer.Reset(wait(now, s.due))
	}
	news := err != nil && s.backoff == firstBackoff
	s.mu.Unlock()
	if news && s.observer != nil {
		s.observer.Observe(context.Background(), gatemesh.Event{
			Kind: gatemesh.EventFault, Layer: "devca", Message: "certificate not renewed, the old one stays", Err: err,
		})
	}
}

// vouched reports whether one of the roots has signed the leaf. Unlike a
// verification it does not ask for the time.
func vouched(leaf *x509.Certificate, roots []*x509.Certificate) bool {
	for _, r := range roots {
		if leaf.CheckSignatureFrom(r) == nil {
			return true
		}
	}
	return false
}

// Renew replaces certificate and key by new ones, signed by the newest root
// that signs already. If it fails, the old ones stay. It works also after
// [Source.Close].
func (s *Source) Renew() error {
	if s.ca == nil {
		return errSourceUnset
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renew(time.Now().Round(0))
}

func (s *Source) renew(now time.Time) error {
	cert, err := s.issue(s.id, s.lifetime)
	var creds *mtls.Credentials
	if err == nil {
		creds, err = mtls.NewCredentials(cert, s.ca.trust.Load().bundles)
	}
	if err != nil {
		s.backoff = min(maxBackoff, max(firstBackoff, 2*s.backoff))
		s.due = now.Add(s.backoff)
		return err
	}
	s.current.Store(creds)
	s.checked = nil
	s.backoff, s.due = 0, twoThirds(now, creds.Certificate.Leaf)
	return nil
}

// Close ends the renewal. The credentials stay. It may be called more than once.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	return nil
}

// Credentials returns the certificate of the last renewal with the roots that
// the CA trusts now.
func (s *Source) Credentials() *mtls.Credentials {
	if s.ca == nil {
		return nil
	}
	for {
		creds, trust := s.current.Load(), s.ca.trust.Load()
		if creds.Bundles == trust.bundles {
			return creds
		}
		fresh := *creds
		fresh.Bundles = trust.bundles
		s.current.CompareAndSwap(creds, &fresh)
	}
}

// Format prints the SPIFFE id, whatever the verb.
func (s *Source) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "development workload %s", s.id) }

// WriteFiles writes tls.crt, tls.key and ca.crt into the directory, as
// [mtls.NewFiles] reads them. Each file is replaced as a whole.
func (s *Source) WriteFiles(dir string) error {
	if s.ca == nil {
		return errSourceUnset
	}
	certPEM, keyPEM, err := EncodePEM(s.Credentials().Certificate)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{"ca.crt", s.ca.BundlePEM()}, {"tls.key", keyPEM}, {"tls.crt", certPEM}} {
		if err := replaceFile(filepath.Join(dir, f.name), f.data); err != nil {
			return fmt.Errorf("devca: %w", err)
		}
	}
	return nil
}

// replaceFile makes path a file with data, for the owner's eyes only.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
