package mtls

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Transport is an [http.RoundTripper] over mutual TLS to one callee, with
// HTTP/2 and HTTP/1.1. Make it with [TLS.Transport]. It is safe for concurrent
// use. The zero Transport refuses every request.
//
// Its connections are its own: a pool finds connections by address, so that a
// pool shared by two callees would hand the connection that was verified for
// one of them to a request for the other.
//
// When the credentials change, new requests use new connections, which present
// the new certificate and are verified against the new bundles. Requests under
// way end undisturbed on the old ones.
type Transport struct {
	tls    *TLS
	config *tls.Config

	pool atomic.Pointer[pool]

	mu  sync.Mutex // serialises the change of pools, and guards what follows
	old []*http.Transport
}

// maxOld bounds the pools of old credentials that are remembered. What is still
// open of those before closes by IdleConnTimeout.
const maxOld = 16

// pool is the connections made with one version of the credentials.
type pool struct {
	creds *Credentials
	http  *http.Transport
}

var errTransportUnset = errors.New("mtls: the Transport was not made by TLS.Transport")

var errPlainText = errors.New("mtls: the scheme of the URL must be https")

// Transport returns a transport to the callee and to nobody else. It takes no
// proxy from the environment and does not ask for compression. It returns an
// error if callee is nil.
func (t *TLS) Transport(callee Authorizer) (*Transport, error) {
	cfg, err := t.ClientConfig(callee)
	if err != nil {
		return nil, err
	}
	return &Transport{tls: t, config: cfg}, nil
}

// RoundTrip implements [http.RoundTripper]. Requests to URLs that are not
// https are refused, as they would go out in plain text to anybody.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	p, err := t.current()
	if err == nil && (r.URL == nil || r.URL.Scheme != "https") {
		err = errPlainText
	}
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // the contract of RoundTripper; its error changes nothing
		}
		return nil, err
	}
	return p.http.RoundTrip(r)
}

// CloseIdleConnections closes the connections that are not in use, those made
// with old credentials included. Nothing else needs closing.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeOld()
	if p := t.pool.Load(); p != nil {
		p.http.CloseIdleConnections()
	}
}

// closeOld closes the connections with old credentials that have become idle.
// The caller holds mu.
func (t *Transport) closeOld() {
	for _, o := range t.old {
		o.CloseIdleConnections()
	}
}

func (t *Transport) current() (*pool, error) {
	if t.tls == nil {
		return nil, errTransportUnset
	}
	creds := t.tls.latest().Source.Credentials()
	if creds == nil {
		return nil, errNoCredentials
	}
	if p := t.pool.Load(); p != nil && p.creds == creds {
		return p, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// Somebody else may have changed the pool, and the credentials again.
	creds = t.tls.latest().Source.Credentials()
	old := t.pool.Load()
	switch {
	case creds == nil:
		return nil, errNoCredentials
	case old != nil && old.creds == creds:
		return old, nil
	}
	p := &pool{creds, newHTTPTransport(t.config.Clone())}
	t.pool.Store(p)
	if old != nil {
		t.old = append(t.old, old.http)
		t.old = t.old[max(0, len(t.old)-maxOld):]
	}
	t.closeOld() // the busy ones end by IdleConnTimeout
	return p, nil
}

func newHTTPTransport(cfg *tls.Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        cfg,
		TLSHandshakeTimeout:    5 * time.Second,
		Protocols:              protocols,
		DisableCompression:     true, // what the callee sent is what the caller gets
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        60 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 1 << 20,
		// A callee whose node is gone does not say goodbye.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}
}
