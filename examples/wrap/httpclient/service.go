// Package httpclient is the http.Client of a service, with a timeout, a
// redirect rule, a cookie jar and a Transport of its own, before and after.
package httpclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"time"
)

// settings are what the service has for its one client, with which it calls
// other services as well as third parties.
type settings struct {
	timeout time.Duration
	jar     http.CookieJar
	roots   *x509.CertPool
	hosts   map[string]string // addresses by name and port, in place of the DNS
}

// transport is the Transport as it was written.
func (s settings) transport() *http.Transport {
	d := &net.Dialer{Timeout: 2 * time.Second}
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 20, IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return d.DialContext(ctx, network, s.hosts[addr])
		},
	}
}

var errTooFar = errors.New("stopped after five redirects")

func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return errTooFar
	}
	return nil
}
