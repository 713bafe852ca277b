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

// FilesConfig configures [Files]. The zero FilesConfig is invalid: Cert, Key and
// Bundle are required. All of it can be changed with [Files.Update].
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
// Files owns a goroutine, which [Files.Close] ends. It is safe for concurrent
// use. The zero Files has no credentials, so whoever uses it is refused; make
// one with [NewFiles].
type Files struct {
	current atomic.Pointer[Credentials]
	tick    *time.Ticker // nil for the zero Files
	stop    chan struct{}
	done    chan struct{}

	// mu is held while files are read, so that what is stored is never older,
	// and never of another configuration, than what is replaced.
	mu     sync.Mutex
	cfg    FilesConfig
	loaded version // of current
	failed string  // the fault that was reported last
	closed bool
}

// version identifies the contents that credentials were made of, and what each
// of them is for.
type version struct{ all, bundles [sha256.Size]byte }

var (
	errFilesUnset  = errors.New("mtls: the Files was not made by NewFiles")
	errFilesClosed = errors.New("mtls: the Files is closed")
)

// NewFiles returns a Files with the credentials that the files hold now. It
// reports every fault at once.
func NewFiles(cfg FilesConfig) (*Files, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	f := &Files{cfg: cfg, stop: make(chan struct{}), done: make(chan struct{})}
	c, err := cfg.read()
	if err != nil {
		return nil, err
	}
	creds, err := f.credentials(&cfg, c, time.Now())
	if err != nil {
		return nil, err
	}
	f.current.Store(creds)
	f.loaded = c.version
	f.tick = time.NewTicker(cfg.Interval)
	go f.poll()
	return f, nil
}

// Update replaces the configuration, all of it at once: when it returns, the
// credentials are those that the files of cfg hold now. If cfg is invalid, its
// files cannot be used, or the Files is closed, it returns an error, and
// configuration and credentials stay as they were; it is for the caller to try
// again. Credentials that have not changed keep their pointer, and so do their
// Bundles.
//
// Peers on live connections are judged by the new bundles with their next call;
// the other side sees a new certificate with the next handshake.
func (f *Files) Update(cfg FilesConfig) error {
	if f.tick == nil {
		return errFilesUnset
	}
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	changed, err := f.change(cfg, time.Now())
	if changed {
		report(cfg.Observer, gatemesh.EventNotice, "certificate files loaded", nil)
	}
	return err
}

func (f *Files) change(cfg FilesConfig, now time.Time) (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false, errFilesClosed
	}
	c, err := cfg.read()
	if err != nil {
		return false, err
	}
	creds, err := f.credentials(&cfg, c, now) // also if they have not changed: time may have
	if err != nil {
		return false, err
	}
	if changed = c.version != f.loaded; changed {
		f.current.Store(creds)
		f.loaded = c.version
	}
	if cfg.Interval != f.cfg.Interval { // else one Update after the other would put off the next look
		f.tick.Reset(cfg.Interval)
	}
	f.cfg, f.failed = cfg, ""
	return changed, nil
}

// complete returns a copy of cfg with its defaults, or every fault of it.
func (cfg FilesConfig) complete() (FilesConfig, error) {
	cfg.Federated = maps.Clone(cfg.Federated)
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	return cfg, cfg.validate()
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

// Close stops looking at the files, and waits for the goroutine. The credentials
// stay. It may be called more than once.
func (f *Files) Close() error {
	if f.tick == nil {
		return nil
	}
	f.mu.Lock() // no Update is half done
	if !f.closed {
		f.closed = true
		close(f.stop)
	}
	f.mu.Unlock()
	<-f.done
	return nil
}

// Format prints the SPIFFE id, whatever the verb.
func (f *Files) Format(s fmt.State, _ rune) { fmt.Fprintf(s, "files with %v", f.current.Load()) }

func (f *Files) poll() {
	defer close(f.done)
	defer f.tick.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-f.tick.C:
			f.look(time.Now())
		}
	}
}

// look loads the files if they have changed, and tells the Observer.
func (f *Files) look(now time.Time) {
	f.mu.Lock()
	o := f.cfg.Observer
	loaded, err := f.reload(now)
	news := err != nil && err.Error() != f.failed // else it has been said
	if news {
		f.failed = err.Error()
	}
	f.mu.Unlock() // the Observer may call Update
	switch {
	case loaded:
		report(o, gatemesh.EventNotice, "certificate files loaded", nil)
	case news:
		report(o, gatemesh.EventFault, "certificate files not usable, the last good ones stay", err)
	}
}

func (f *Files) reload(now time.Time) (loaded bool, err error) {
	c, err := f.cfg.read()
	if err != nil {
		return false, err
	}
	if c.version == f.loaded {
		f.failed = ""
		return false, nil
	}
	// Files that are being replaced right now are left for the next time.
	if again, err := f.cfg.read(); err != nil || again.version != c.version {
		return false, nil
	}
	creds, err := f.credentials(&f.cfg, c, now)
	if err != nil {
		return false, err
	}
	f.current.Store(creds)
	f.loaded, f.failed = c.version, ""
	return true, nil
}

func report(o gatemesh.Observer, kind gatemesh.EventKind, message string, err error) {
	if o != nil {
		o.Observe(context.Background(), gatemesh.Event{Kind: kind, Layer: "mtls", Message: message, Err: err})
	}
}

// contents are all files as they were read together.
type contents struct {
	version
	cert, key, bundle []byte
	federated         map[string][]byte
}

func (cfg *FilesConfig) read() (*contents, error) {
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
	c := &contents{cert: get(cfg.Cert), key: get(cfg.Key), bundle: trust(cfg.Bundle), federated: map[string][]byte{}}
	for _, td := range slices.Sorted(maps.Keys(cfg.Federated)) {
		// A file that speaks for another domain than before is another one.
		name := sha256.Sum256([]byte(td))
		bundles.Write(name[:])
		c.federated[td] = trust(cfg.Federated[td])
	}
	all.Sum(c.all[:0])
	bundles.Sum(c.bundles[:0])
	return c, errors.Join(errs...)
}

// credentials returns those that c holds if they are good at now.
func (f *Files) credentials(cfg *FilesConfig, c *contents, now time.Time) (*Credentials, error) {
	chain, err := parsePEM(c.cert)
	if err != nil {
		return nil, fmt.Errorf("mtls: %s: %w", cfg.Cert, err)
	}
	pair, err := tls.X509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("mtls: %s, %s: %w", cfg.Cert, cfg.Key, err)
	}
	id, err := leafID(chain[0])
	if err != nil {
		return nil, fmt.Errorf("mtls: %s: %w", cfg.Cert, err)
	}
	if cfg.TrustDomain != "" && id.trustDomain != cfg.TrustDomain {
		return nil, fmt.Errorf("mtls: %s: %s is not of trust domain %s", cfg.Cert, id, cfg.TrustDomain)
	}
	if since, until := window(chain[:1]); now.Before(since) || now.After(until) {
		return nil, fmt.Errorf("mtls: %s: valid from %s to %s only", cfg.Cert, since.Format(time.RFC3339), until.Format(time.RFC3339))
	}
	bundles, err := f.bundles(cfg, c, id.trustDomain)
	if err != nil {
		return nil, err
	}
	return NewCredentials(pair, bundles)
}

// bundles returns the current Bundles if their files did not change, so that a
// new certificate alone does not make every peer be verified again.
func (f *Files) bundles(cfg *FilesConfig, c *contents, own string) (*Bundles, error) {
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
	parse(own, cfg.Bundle, c.bundle)
	for td, data := range c.federated {
		parse(td, cfg.Federated[td], data)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return NewBundles(authorities)
}
