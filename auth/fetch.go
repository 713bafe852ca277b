package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/gatemesh-go/gatemesh/breaker"
)

var errTooLong = errors.New("document is longer than MaxBody")

// statusError is an answer without a document.
type statusError struct {
	status int
	after  time.Duration // for which the endpoint asks to be left alone
}

func (e *statusError) Error() string { return fmt.Sprintf("status is %d", e.status) }

// document is what a fetch has found.
type document struct {
	keys *Keys
	bad  []error // why others of its keys cannot be used
	from string  // where a discovered key set is, without what may be secret
}

// httpClient returns c, or a client of our own that keeps so many connections,
// which does not follow redirects, and what to do when it is done for good.
func httpClient(c *http.Client, conns int) (client http.Client, idle func()) {
	idle = func() {}
	if c != nil {
		client = *c
	} else {
		t := &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: conns, MaxIdleConnsPerHost: conns,
			IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		}
		client.Transport, idle = t, t.CloseIdleConnections
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client, idle
}

// withoutURL returns the error of a client without the URL, whose query may be
// secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// httpGet fetches a document of at most limit bytes. Its errors do not tell
// the URL, whose query may be secret.
func httpGet(ctx context.Context, client *http.Client, from string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, errors.New("URL is invalid")
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer func() { _ = resp.Body.Close() }() // the document is read or given up
	if resp.StatusCode != http.StatusOK {
		return nil, &statusError{resp.StatusCode, breaker.RetryAfter(resp.Header.Get("Retry-After"), time.Now())}
	}
	return readAll(resp.Body, limit)
}

// loader returns how to fetch the keys of cfg, which is valid, and what to do
// when that is done for good.
func (cfg JWKSConfig) loader() (load func(context.Context) (document, error), idle func()) {
	var read func(context.Context) ([]byte, error)
	if cfg.File != "" {
		read, idle = func(context.Context) ([]byte, error) { return readFile(cfg.File, cfg.MaxBody) }, func() {}
	} else {
		var client http.Client
		client, idle = httpClient(cfg.Client, 2)
		if cfg.Discovery != "" {
			issuer, _ := absoluteURL(cfg.Discovery) // valid
			d := &discovery{cfg: cfg, issuer: issuer, client: &client}
			return d.load, idle
		}
		read = func(ctx context.Context) ([]byte, error) { return httpGet(ctx, &client, cfg.URL, cfg.MaxBody) }
	}
	return func(ctx context.Context) (doc document, err error) {
		data, err := read(ctx)
		if err != nil {
			return doc, err
		}
		doc.keys, doc.bad, err = parseJWKS(data, false)
		return doc, err
	}, idle
}

// readFile reads a document. The path is followed anew each time, through the
// symbolic links that Kubernetes swaps.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return readAll(f, limit)
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errTooLong
	}
	return data, err
}
