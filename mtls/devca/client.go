package devca

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// ClientConfig configures a [Client]. One of ID and Workload is required.
type ClientConfig struct {
	// Socket is the path of the server's unix socket. Default: [DefaultSocket].
	Socket string
	// ID is the SPIFFE id to ask for. Default: that of Workload, in Istio's
	// layout.
	ID string
	// Workload says who we are, if ID is not set.
	Workload gatemesh.Workload
	// Timeout is how long [NewClient] waits for a server to appear. Default: 10 s.
	// Must not be negative.
	Timeout time.Duration
	// Observer receives a notice for every new certificate and for other roots,
	// and a fault when the server cannot be used, once until it can. Default:
	// nobody.
	Observer gatemesh.Observer
}

// Client is an [mtls.Source] that has its certificates from a [Server] on the
// same machine. It makes a new key for each, which never leaves the process. It
// is safe for concurrent use. Printing it shows its SPIFFE id and no key. The zero
// Client has no credentials.
//
// A certificate is replaced at two thirds of its life, and at once when the
// server no longer trusts the root that signed it; other roots are trusted, or
// not any more, as soon as the server knows them. While the server is away the
// last certificate stays, whether or not it has expired: handshakes judge that.
// The client tries again after a tenth of a second, then after twice as long
// each time, up to 5 s. A server that has been started anew has a new root, so
// connections between clients of which only one has come back fail that long.
//
// A Client owns a goroutine, which [Client.Close] ends.
type Client struct {
	id       mtls.ID
	observer gatemesh.Observer
	http     *http.Client
	current  atomic.Pointer[mtls.Credentials]
	stop     context.CancelFunc
	done     chan struct{}

	// of the goroutine alone
	known  []*x509.Certificate // the roots
	good   bool                // they vouch for the certificate
	due    time.Time           // of the next renewal
	failed bool                // and said so
}

const (
	firstRetry = 100 * time.Millisecond
	maxRetry   = 5 * time.Second
)

// NewClient returns a Client with a certificate. It waits for the server until
// ClientConfig.Timeout, or until ctx ends, which later does not matter any more;
// it does not wait if the server refuses the id. It reports every invalid field
// at once.
func NewClient(ctx context.Context, cfg ClientConfig) (*Client, error) {
	if cfg.Socket == "" {
		cfg.Socket = DefaultSocket()
	}
	return newClient(ctx, cfg, func(ctx context.Context) (net.Conn, error) { return dial(ctx, cfg.Socket) })
}

func newClient(ctx context.Context, cfg ClientConfig, dial func(context.Context) (net.Conn, error)) (*Client, error) {
	var errs []error
	if cfg.ID == "" {
		if err := cfg.Workload.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("devca: ClientConfig.ID or Workload is required: %w", err))
		}
		cfg.ID = cfg.Workload.SPIFFEID()
	}
	id, err := mtls.ParseID(cfg.ID)
	if err != nil && errs == nil {
		errs = append(errs, fmt.Errorf("devca: ClientConfig.ID: %w", err))
	}
	if err := checkSocket(cfg.Socket); err != nil {
		errs = append(errs, fmt.Errorf("devca: ClientConfig.Socket: %w", err))
	}
	if cfg.Timeout < 0 {
		errs = append(errs, errors.New("devca: ClientConfig.Timeout must not be negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	c := &Client{id: id, observer: cfg.Observer, done: make(chan struct{})}
	c.http = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression: true, MaxResponseHeaderBytes: maxRequest,
	}}
	if err := c.first(ctx, cfg.Timeout); err != nil {
		c.http.CloseIdleConnections()
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.run(run)
	return c, nil
}

// first gets the first certificate.
func (c *Client) first(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error
	for retry := firstRetry; ; retry = min(2*retry, maxRetry) {
		err := c.renew(ctx)
		var refused *refusal
		if err == nil || errors.As(err, &refused) {
			return err
		}
		if last == nil || ctx.Err() == nil { // else it says only that time is up
			last = err
		}
		if !sleep(ctx, retry) {
			return fmt.Errorf("devca: no certificate from the server: %w", last)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// run follows the server's roots; waiting for others is also how it waits for
// the next renewal.
func (c *Client) run(ctx context.Context) {
	defer close(c.done)
	defer c.http.CloseIdleConnections()
	retry := firstRetry
	for ctx.Err() == nil {
		err := c.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			c.failed, retry = false, firstRetry
			continue
		case !c.failed:
			c.failed = true
			observe(c.observer, gatemesh.EventFault, "the authority cannot be used, the last certificate stays", err)
		}
		sleep(ctx, retry)
		retry = min(2*retry, maxRetry)
	}
}

// follow waits for other roots or the time to renew, whichever is first, and
// acts on it.
func (c *Client) follow(ctx context.Context) error {
	if !c.stale() {
		roots, err := c.await(ctx)
		if err != nil {
			return err
		}
		if version(roots) != version(c.known) {
			if err := c.trust(roots); err != nil {
				return err
			}
		} else if !c.stale() {
			sleep(ctx, firstRetry) // a server that does not hold its answers is not asked all the time
		}
	}
	if !c.stale() {
		return nil
	}
	return c.renew(ctx)
}

// stale reports whether it is time for another certificate.
func (c *Client) stale() bool {
	return !c.good || !time.Now().Round(0).Before(c.due)
}

// await returns the roots of the server when they change, when it is time to
// renew, or when the server has held the answer long enough.
func (c *Client) await(ctx context.Context) ([]*x509.Certificate, error) {
	wait := time.Until(c.due)
	if wait > hold {
		wait = hold + patience
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	a, err := c.ask(ctx, http.MethodGet, "/v1/roots?known="+version(c.known), nil)
	if err != nil {
		if ctx.Err() == context.DeadlineExceeded && !time.Now().Round(0).Before(c.due) {
			return c.known, nil // it is time to renew
		}
		return nil, err
	}
	return a.roots()
}

// trust relies on other roots, with the certificate of now.
func (c *Client) trust(roots []*x509.Certificate) error {
	bundles, err := mtls.NewBundles(map[string][]*x509.Certificate{c.id.TrustDomain(): roots})
	if err != nil {
		return err
	}
	creds := *c.current.Load()
	creds.Bundles = bundles
	c.current.Store(&creds)
	c.known, c.good = roots, vouched(creds.Certificate.Leaf, roots)
	observe(c.observer, gatemesh.EventNotice, "the authority has other roots", nil)
	return nil
}

// renew gets a certificate for a new key.
func (c *Client) renew(ctx context.Context) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{{Scheme: "spiffe", Host: c.id.TrustDomain(), Path: c.id.Path()}},
	}, key)
	if err != nil {
		return fmt.Errorf("devca: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	a, err := c.ask(ctx, http.MethodPost, "/v1/certificate", csr)
	if err != nil {
		return err
	}
	roots, err := a.roots()
	if err != nil {
		return err
	}
	now := time.Now().Round(0)
	creds, err := c.credentials(tls.Certificate{Certificate: [][]byte{a.Certificate}, PrivateKey: key}, roots, now)
	if err != nil {
		return err
	}
	c.current.Store(creds)
	c.known, c.good, c.due = roots, true, twoThirds(now, creds.Certificate.Leaf)
	observe(c.observer, gatemesh.EventNotice, "new certificate", nil)
	return nil
}

// credentials returns what the server sent if it is what was asked for.
func (c *Client) credentials(cert tls.Certificate, roots []*x509.Certificate, now time.Time) (*mtls.Credentials, error) {
	var bundles *mtls.Bundles
	if old := c.current.Load(); old != nil && version(roots) == version(c.known) {
		bundles = old.Bundles // peers need not be verified anew
	} else {
		var err error
		if bundles, err = mtls.NewBundles(map[string][]*x509.Certificate{c.id.TrustDomain(): roots}); err != nil {
			return nil, err
		}
	}
	creds, err := mtls.NewCredentials(cert, bundles)
	if err != nil {
		return nil, err
	}
	if creds.ID != c.id {
		return nil, fmt.Errorf("devca: the server sent a certificate of %s", creds.ID)
	}
	if _, err := creds.Certificate.Leaf.Verify(x509.VerifyOptions{Roots: poolOf(roots), CurrentTime: now}); err != nil {
		return nil, fmt.Errorf("devca: the server sent a certificate that its roots do not vouch for: %w", err)
	}
	return creds, nil
}

// refusal is an answer of the server that will not be another one if asked again
// at once.
type refusal struct{ text string }

func (r *refusal) Error() string { return "devca: the server refuses: " + r.text }

func (c *Client) ask(ctx context.Context, method, path string, body []byte) (*answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://devca"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("devca: %w", err)
	}
	switch {
	case len(data) > maxResponse:
		return nil, errors.New("devca: the server's answer is too long")
	case resp.StatusCode == http.StatusForbidden:
		return nil, &refusal{strings.TrimSpace(string(data))}
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("devca: the server answered with status %d", resp.StatusCode)
	}
	a := &answer{}
	if err := json.Unmarshal(data, a); err != nil {
		return nil, fmt.Errorf("devca: the server's answer: %w", err)
	}
	return a, nil
}

// Credentials returns the last certificate with the roots that the server
// trusted when it was last heard.
func (c *Client) Credentials() *mtls.Credentials { return c.current.Load() }

// Close ends the goroutine and waits for it. The credentials stay. It may be
// called more than once.
func (c *Client) Close() error {
	if c.stop == nil { // the zero Client
		return nil
	}
	c.stop()
	<-c.done
	return nil
}

// Format prints the SPIFFE id, whatever the verb.
func (c *Client) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "development workload %s", c.id) }
