package mtls

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// FilesConfig configures [Files]. Cert, Key and Bundle are required.
type FilesConfig struct {
	// Cert is the path of our certificate in PEM form, followed by its
	// intermediates. Required.
	Cert string
	// Key is the path of its private key in PEM form. Required.
	Key string
	// Bundle is the path of the authorities of our own trust domain in PEM
	// form. Required.
	Bundle string
	// TrustDomain is our own trust domain; a certificate of another one is
	// refused. Default: that of the certificate.
	TrustDomain string
	// Federated are the paths of the bundles of other trust domains we trust,
	// by trust domain. Default: none.
	Federated map[string]string
	// Interval is how often the files are looked at. Default: 10 s. Must not
	// be negative.
	Interval time.Duration
	// Observer receives a notice for every change, and a fault for files that
	// cannot be used. Default: nobody.
	Observer gatemesh.Observer
}

// Files is a [Source] that follows PEM files as Kubernetes, cert-manager and
// the SPIFFE helper write them. It compares contents, so that the swap of a
// ..data link is seen like any other change. Files that are missing, broken,
// expired or do not belong together, as while they are replaced one by one,
// leave the last good set in use and are read again at the next interval.
//
// Files owns a goroutine, which [Files.Close] ends.
type Files struct {
	cfg     FilesConfig
	current atomic.Pointer[Credentials]
	loaded  version // of current; for the polling goroutine
	failed  string  // the fault that was reported last

	once sync.Once
	stop chan struct{}
	done chan struct{}
}

// version identifies the contents that credentials were made of.
type version struct{ all, bundles [sha256.Size]byte }

// NewFiles returns a Files with the credentials that the files hold now. It
// reports every fault at once.
func NewFiles(cfg FilesConfig) (*Files, error) {
	cfg.Federated = maps.Clone(cfg.Federated)
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	f := &Files{cfg: cfg, stop: make(chan struct{}), done: make(chan struct{})}
	c, err := f.read()
	if err != nil {
		return nil, err
	}
	if err := f.load(c, time.Now()); err != nil {
		return nil, err
	}
	go f.poll()
	return f, nil
}

func (cfg *FilesConfig) validate() error {
	var errs []error
	for _, p := range []struct{ name, path string }{{"Cert", cfg.Cert}, {"Key", cfg.Key}, {"Bundle", cfg.Bundle}} {
		if p.path == "" {
			errs = append(errs, fmt.Errorf("mtls: FilesConfig.%s is required", p.name))
		}
	}
	if cfg.TrustDomain != "" {
		if err := checkTrustDomain(cfg.TrustDomain); err != nil {
			errs = append(errs, fmt.Errorf("mtls: FilesConfig.TrustDomain: %w", err))
		}
	}
	for td, path := range cfg.Federated {
		if err := checkTrustDomain(td); err != nil {
			errs = append(errs, fmt.Errorf("mtls: FilesConfig.Federated: %w", err))
		}
		if path == "" || td == cfg.TrustDomain {
			errs = append(errs, fmt.Errorf("mtls: FilesConfig.Federated[%q] needs a path and must not be our own trust domain", td))
		}
	}
	if cfg.Interval < 0 {
		errs = append(errs, errors.New("mtls: FilesConfig.Interval must not be negative"))
	}
	return errors.Join(errs...)
}

// Credentials returns what the files held when they were last good.
func (f *Files) Credentials() *Credentials { return f.current.Load() }

// Close stops looking at the files. The credentials stay. It may be called
// more than once.
func (f *Files) Close() error {
	f.once.Do(func() { close(f.stop) })
	<-f.done
	return nil
}

// Format prints the SPIFFE id, whatever the verb.
func (f *Files) Format(s fmt.State, _ rune) { fmt.Fprintf(s, "files with %v", f.current.Load()) }

func (f *Files) poll() {
	defer close(f.done)
	tick := time.NewTicker(f.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-tick.C:
			f.look(time.Now())
		}
	}
}

// look loads the files if they have changed.
func (f *Files) look(now time.Time) {
	c, err := f.read()
	if err == nil {
		if c.version == f.loaded {
			f.failed = ""
			return
		}
		// Files that are being replaced right now are left for the next time.
		if again, err := f.read(); err != nil || again.version != c.version {
			return
		}
		err = f.load(c, now)
	}
	switch {
	case err == nil:
		f.failed = ""
		f.report(gatemesh.EventNotice, "certificate files loaded", nil)
	case err.Error() != f.failed: // else it has been said
		f.failed = err.Error()
		f.report(gatemesh.EventFault, "certificate files not usable, the last good ones stay", err)
	}
}

func (f *Files) report(kind gatemesh.EventKind, message string, err error) {
	if f.cfg.Observer != nil {
		f.cfg.Observer.Observe(context.Background(), gatemesh.Event{Kind: kind, Layer: "mtls", Message: message, Err: err})
	}
}

// contents are all files as they were read together.
type contents struct {
	version
	cert, key, bundle []byte
	federated         map[string][]byte
}

func (f *Files) read() (*contents, error) {
	var errs []error
	all, bundles := sha256.New(), sha256.New()
	get := func(path string) []byte {
		data, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("mtls: %w", err))
		}
		sum := sha256.Sum256(data)
		all.Write(sum[:])
		return data
	}
	trust := func(path string) []byte {
		data := get(path)
		sum := sha256.Sum256(data)
		bundles.Write(sum[:])
		return data
	}
	c := &contents{cert: get(f.cfg.Cert), key: get(f.cfg.Key), bundle: trust(f.cfg.Bundle), federated: map[string][]byte{}}
	for _, td := range slices.Sorted(maps.Keys(f.cfg.Federated)) {
		c.federated[td] = trust(f.cfg.Federated[td])
	}
	all.Sum(c.all[:0])
	bundles.Sum(c.bundles[:0])
	return c, errors.Join(errs...)
}

// load makes credentials of c current if they are good at now.
func (f *Files) load(c *contents, now time.Time) error {
	chain, err := parsePEM(c.cert)
	if err != nil {
		return fmt.Errorf("mtls: %s: %w", f.cfg.Cert, err)
	}
	pair, err := tls.X509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("mtls: %s, %s: %w", f.cfg.Cert, f.cfg.Key, err)
	}
	id, err := leafID(chain[0])
	if err != nil {
		return fmt.Errorf("mtls: %s: %w", f.cfg.Cert, err)
	}
	if f.cfg.TrustDomain != "" && id.trustDomain != f.cfg.TrustDomain {
		return fmt.Errorf("mtls: %s: %s is not of trust domain %s", f.cfg.Cert, id, f.cfg.TrustDomain)
	}
	if since, until := window(chain[:1]); now.Before(since) || now.After(until) {
		return fmt.Errorf("mtls: %s: valid from %s to %s only", f.cfg.Cert, since.Format(time.RFC3339), until.Format(time.RFC3339))
	}
	bundles, err := f.bundles(c, id.trustDomain)
	if err != nil {
		return err
	}
	creds, err := NewCredentials(pair, bundles)
	if err != nil {
		return err
	}
	f.current.Store(creds)
	f.loaded = c.version
	return nil
}

// bundles returns the current Bundles if their files did not change, so that a
// new certificate alone does not make every peer be verified again.
func (f *Files) bundles(c *contents, own string) (*Bundles, error) {
	if old := f.current.Load(); old != nil && old.ID.trustDomain == own && f.loaded.bundles == c.version.bundles {
		return old.Bundles, nil
	}
	if _, ok := c.federated[own]; ok {
		return nil, fmt.Errorf("mtls: FilesConfig.Federated holds our own trust domain %s", own)
	}
	authorities := map[string][]*x509.Certificate{}
	var errs []error
	parse := func(td, path string, data []byte) {
		certs, err := parsePEM(data)
		if err != nil {
			errs = append(errs, fmt.Errorf("mtls: %s: %w", path, err))
		}
		authorities[td] = certs
	}
	parse(own, f.cfg.Bundle, c.bundle)
	for td, data := range c.federated {
		parse(td, f.cfg.Federated[td], data)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return NewBundles(authorities)
}
