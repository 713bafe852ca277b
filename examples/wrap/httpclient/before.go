package httpclient

import (
	"net/http"
)

// Before is the client as it was.
func (s settings) Before() *http.Client {
	client := &http.Client{
		Timeout: s.timeout, CheckRedirect: checkRedirect, Jar: s.jar, Transport: s.transport(),
	}
	return client
}
