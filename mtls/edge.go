package mtls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
)

// EdgeConfig configures a public listener. One of Certificates and
// GetCertificate is required.
type EdgeConfig struct {
	// Certificates are chosen from by server name; the first one is for
	// clients that send none.
	Certificates []tls.Certificate
	// GetCertificate chooses the certificate for each handshake, for those
	// that are renewed while the server runs. See [tls.Config].
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Edge returns the configuration of a public listener: TLS 1.2 and up, HTTP/2
// and HTTP/1.1, resumable sessions, and no client certificates, as callers from
// outside are known by their credentials. It reports every fault at once.
func Edge(cfg EdgeConfig) (*tls.Config, error) {
	var errs []error
	if (len(cfg.Certificates) == 0) == (cfg.GetCertificate == nil) {
		errs = append(errs, errors.New("mtls: one of EdgeConfig.Certificates and EdgeConfig.GetCertificate is required"))
	}
	for i, c := range cfg.Certificates {
		if len(c.Certificate) == 0 || c.PrivateKey == nil {
			errs = append(errs, fmt.Errorf("mtls: EdgeConfig.Certificates[%d] has no certificate or no key", i))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		Certificates:   slices.Clone(cfg.Certificates),
		GetCertificate: cfg.GetCertificate,
	}, nil
}

// LoadEdge returns the configuration of a public listener, as [Edge] does, with
// the certificate in two PEM files. They are read once.
func LoadEdge(certFile, keyFile string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("mtls: edge: %w", err)
	}
	return Edge(EdgeConfig{Certificates: []tls.Certificate{cert}})
}
