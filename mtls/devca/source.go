package devca

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// WorkloadConfig configures a [Source]. One of ID and Workload is required.
type WorkloadConfig struct {
	// ID is the SPIFFE id. Default: that of Workload, in Istio's layout.
	ID string
	// Workload says who the workload is, if ID is not set.
	Workload gatemesh.Workload
	// Lifetime is how long each certificate holds. Nothing renews it but
	// [Source.Renew]. Default: 1 hour. Must not be negative.
	Lifetime time.Duration
}

// Source is an [mtls.Source] of one workload. Make it with [CA.Source]. It is
// safe for concurrent use. Printing it shows its SPIFFE id and no key.
type Source struct {
	ca       *CA
	id       string
	lifetime time.Duration
	current  atomic.Pointer[mtls.Credentials]
}

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
	s := &Source{ca: c, id: cfg.ID, lifetime: cfg.Lifetime}
	if err := s.Renew(); err != nil {
		return nil, err
	}
	return s, nil
}

// Renew replaces certificate and key by new ones, signed by the newest root.
// If it fails, the old ones stay.
func (s *Source) Renew() error {
	cert, err := s.ca.Issue(s.id, s.lifetime)
	if err != nil {
		return err
	}
	creds, err := mtls.NewCredentials(cert, s.ca.trust.Load().bundles)
	if err != nil {
		return err
	}
	s.current.Store(creds)
	return nil
}

// Credentials returns the certificate of the last renewal with the roots that
// the CA trusts now.
func (s *Source) Credentials() *mtls.Credentials {
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
