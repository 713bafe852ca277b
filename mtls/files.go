package mtls

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/follow"
)

// FilesConfig configures [Files]. The zero FilesConfig is invalid: Cert, Key and
// Bundle are required. All of it can be changed with [Files.Update].
//
// In a Secret of cert-manager the three are tls.crt, tls.key and ca.crt. The
// SPIFFE helper writes what its configuration says, svid.pem, svid_key.pem and
// svid_bundle.pem in its documentation.
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
// leave the last good set in use and are read again at the next interval. Each
// must be a regular file of at most 4 MiB, or a symbolic link to one.
//
// Files owns a goroutine, which [Files.Close] ends. It is safe for concurrent
// use. The zero Files has no credentials, so whoever uses it is refused; make
// one with [NewFiles].
type Files struct{ follower *follow.Follower[loaded] } // nil for the zero Files

// loaded are Credentials, and what their Bundles were made of.
type loaded struct {
	*Credentials
	bundles follow.Version
}

// maxFile bounds a certificate file, key file or bundle in bytes.
const maxFile = 4 << 20

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
	f, err := follow.New(cfg.follow())
	if err != nil {
		return nil, err
	}
	return &Files{f}, nil
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
	if f.follower == nil {
		return errFilesUnset
	}
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	if err = f.follower.Update(cfg.follow()); errors.Is(err, follow.ErrClosed) {
		return errFilesClosed
	}
	return err
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
func (f *Files) Credentials() *Credentials {
	if f.follower == nil {
		return nil
	}
	return f.follower.Current().Credentials
}

// Close stops looking at the files, and waits for the goroutine. The credentials
// stay. It may be called more than once.
func (f *Files) Close() error {
	if f.follower != nil {
		f.follower.Close()
	}
	return nil
}

// Format prints the SPIFFE id, whatever the verb.
func (f *Files) Format(s fmt.State, _ rune) { fmt.Fprintf(s, "files with %v", f.Credentials()) }

// follow says how the files are read, and what is told about them.
func (cfg FilesConfig) follow() follow.Config[loaded] {
	return follow.Config[loaded]{Interval: cfg.Interval, Read: cfg.read, Tell: follow.Teller{
		Observer: cfg.Observer, Layer: "mtls", Loaded: "certificate files loaded", Faulty: "certificate files not usable, the last good ones stay",
	}.Tell}
}

// contents are all files as they were read together.
type contents struct {
	cert, key, bundle []byte
	federated         map[string][]byte
	bundles           follow.Version // of the bundles, and whom they speak for
}

func (cfg *FilesConfig) read() (out follow.Contents[loaded], err error) {
	var errs []error
	all, bundles := sha256.New(), sha256.New()
	get := func(path string) []byte {
		data, err := follow.ReadFile(path, maxFile)
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
	bundles.Sum(c.bundles[:0])
	all.Write(c.bundles[:])
	all.Sum(out.Version[:0])
	out.Make = func(last *loaded, now time.Time) (*loaded, error) { return cfg.credentials(c, last, now) }
	return out, errors.Join(errs...)
}

// credentials returns those that c holds if they are good at now.
func (cfg *FilesConfig) credentials(c *contents, last *loaded, now time.Time) (*loaded, error) {
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
	bundles, err := cfg.bundles(c, last, id.trustDomain)
	if err != nil {
		return nil, err
	}
	creds, err := NewCredentials(pair, bundles)
	if err != nil {
		return nil, err
	}
	return &loaded{creds, c.bundles}, nil
}

// bundles returns the current Bundles if their files did not change, so that a
// new certificate alone does not make every peer be verified again.
func (cfg *FilesConfig) bundles(c *contents, last *loaded, own string) (*Bundles, error) {
	if last != nil && last.ID.trustDomain == own && last.bundles == c.bundles {
		return last.Bundles, nil
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
