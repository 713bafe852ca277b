// Package httpclient is the http.Client of a service, with a timeout, a
// redirect rule, a cookie jar and a Transport of its own, before and after.
package httpclient

import (
	"errors"
	"net"
	"net/http"
	"time"
)

// settings are what the service has for its one client. It calls other services
// of the mesh with it as well as third parties.
type settings struct {
	dial func(addr string) string // a test's way to have names
	jar  http.CookieJar
}

// transport is the Transport as it was written.
func (s settings) transport() *http.Transport {
	d := &net.Dialer{Timeout: 2 * time.Second}
	t := &http.Transport{MaxIdleConnsPerHost: 20, IdleConnTimeout: time.Minute}
	t.DialContext = dialer(d, s.dial)
	return t
}

// errTooFar is what the service says to more than five redirects.
var errTooFar = errors.New("stopped after five redirects")

func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return errTooFar
	}
	return nil
}
