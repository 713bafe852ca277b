package pool

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Transport returns base with each request sent to an endpoint of p: each
// attempt, if it stands behind what tries again. Before the first lookup has
// ended, requests wait for it. Where there is no endpoint, the error is a
// [*gatemesh.Denial] with Unavailable and the reason "no_endpoint". A nil base
// is [http.DefaultTransport].
//
// Only the host of the URL becomes the endpoint's address. The Host field stays
// that of the request, and so does Response.Request, by which net/http and
// layers around follow redirects. base opens and keeps connections by address,
// and so does TLS: for https, base has to say by itself what it verifies, as
// the transport of package mtls does, or a tls.Config with a ServerName. It
// must not send through a proxy that resolves names.
//
// An attempt is in flight until the end or Close of the response's body, or of
// an upgraded connection. Its latency is the time to the response's header, from
// when it has a connection, if base tells of that by [httptrace].
// Statuses 502, 503 and 504, and a gRPC answer without a message that says
// UNAVAILABLE, are a [Failure], with [Ejection.Server5xx] the others from 500 on
// as well, and so is a connection that breaks before the
// answer; other answers are a [Success]. If no connection could be made, that
// is [Unreachable]: it is [httptrace] that says so, which base has to support.
// The end of the caller's context, a request body that cannot be read, a
// request that base refuses and a Denial of a layer below are [Neutral], a
// deadline is [TimedOut].
func (p *Pool) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{pool: p, base: base}
}

type transport struct {
	pool *Pool
	base http.RoundTripper // nil if there is own
	own  *Transport        // whose connections are used
}

// ErrNoEndpoint is the [*gatemesh.Denial] of calls to a pool that has no
// endpoint, for adapters of other transports. It is not to be changed.
var ErrNoEndpoint = gatemesh.Deny(gatemesh.Unavailable, "no_endpoint", "The service is not available.")

var errNoURL = errors.New("pool: the request has no URL")

// flight is an attempt of a request on its way, in one allocation.
type flight struct {
	Attempt
	io.ReadCloser             // the caller's body
	unreadable    atomic.Bool // the caller's body, not the endpoint, has failed
	asked, got    atomic.Bool // a connection, according to base
	trace         httptrace.ClientTrace
	url           url.URL
	answer        followed
	at            time.Time // of the answer
	conns         *conns    // which it came over, or nil
}

func (f *flight) getConn(string) {
	f.got.Store(false)
	f.asked.Store(true)
}

// gotConn has the latency count from here. An endpoint that has not been asked
// for a while has no connection left: if making one counted, it would seem slow,
// be asked even less, and one pod would get what little there is to do.
func (f *flight) gotConn(httptrace.GotConnInfo) {
	f.sent.Store(f.endpoint.pool.now())
	f.got.Store(true)
}

func (f *flight) Read(b []byte) (int, error) {
	n, err := f.ReadCloser.Read(b)
	if err != nil && err != io.EOF {
		f.unreadable.Store(true)
	}
	return n, err
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	e, err := t.pool.pick(r)
	var over *conns
	if err == nil && t.own != nil {
		over, err = t.own.to(e.addr)
	}
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // the contract of RoundTripper; its error changes nothing
		}
		return nil, err
	}
	f := &flight{conns: over}
	e.begin(r.Context(), time.Now(), &f.Attempt)
	returned := false
	defer func() {
		if !returned { // base panicked
			f.Done(time.Now(), Neutral)
		}
	}()
	resp, err := t.send(f, f.request(r, e.addr))
	returned = true
	now := time.Now()
	if err != nil || resp == nil { // net/http makes an error of the latter
		result := f.resultOf(r.Context(), err, now)
		f.Done(now, result)
		if result == Failure {
			t.pool.Refresh()
		}
		return nil, err
	}
	f.at = now
	f.Answered(now, answered(resp, e.pool.state.Load().version.Ejection.Server5xx))
	resp.Request = r
	if resp.Body == nil || resp.Body == http.NoBody {
		f.Done(now, Neutral)
	} else {
		resp.Body = f.follow(resp.Body)
	}
	return resp, nil
}

func (t *transport) send(f *flight, r *http.Request) (*http.Response, error) {
	if t.own != nil {
		return t.own.send(f.conns, r)
	}
	return t.base.RoundTrip(r)
}

// CloseIdleConnections closes those of base, for [http.Client].
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (p *Pool) pick(r *http.Request) (*Endpoint, error) {
	ctx := r.Context()
	switch {
	case r.URL == nil:
		return nil, errNoURL
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case p.state.Load() == nil:
		return nil, ErrNoEndpoint.WithCause(errUnset)
	}
	if !p.looked() {
		select {
		case <-p.first:
		case <-p.ctx.Done():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if e := p.state.Load().chooser.Choose(ctx, Request{r.Header, r.URL.RawQuery}); e != nil {
		return e, nil
	}
	err := p.fault()
	if err == nil {
		err = errClosed // before the first lookup had ended
	}
	return nil, ErrNoEndpoint.WithCause(err)
}

// request returns the copy of r that goes to addr.
func (f *flight) request(r *http.Request, addr string) *http.Request {
	f.trace.GetConn, f.trace.GotConn = f.getConn, f.gotConn
	out := r.WithContext(httptrace.WithClientTrace(r.Context(), &f.trace))
	f.url = *r.URL
	f.url.Host = addr
	out.URL = &f.url
	if out.Host == "" {
		out.Host = r.URL.Host
	}
	if r.Body != nil && r.Body != http.NoBody {
		f.ReadCloser = r.Body
		out.Body = f
	}
	return out
}

// resultOf says what err of base means for the endpoint.
func (f *flight) resultOf(ctx context.Context, err error, now time.Time) Result {
	var denial *gatemesh.Denial
	// A dialer may notice the deadline before the context does.
	deadline, ok := ctx.Deadline()
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return Neutral
	case ctx.Err() != nil, ok && !now.Before(deadline):
		return TimedOut
	case errors.As(err, &denial), f.unreadable.Load():
		return Neutral
	case f.asked.Load() && f.got.Load():
		return Failure
	case f.asked.Load(), isDial(err):
		return Unreachable
	}
	return Neutral
}

// isDial recognises the error of a base that does not support httptrace.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func answered(resp *http.Response, server5xx bool) Result {
	switch s := resp.StatusCode; {
	case s == http.StatusBadGateway, s == http.StatusServiceUnavailable, s == http.StatusGatewayTimeout, server5xx && s >= 500:
		return Failure
	}
	if s := resp.Header["Grpc-Status"]; len(s) == 1 && s[0] == "14" {
		return Failure
	}
	return Success
}

// halfCloser is what a TCP or TLS connection can do besides.
type halfCloser interface{ CloseWrite() error }

// follow returns body, whose end is that of the attempt. An upgraded connection
// stays one.
func (f *flight) follow(body io.ReadCloser) io.ReadCloser {
	f.answer = followed{body, f}
	w, ok := body.(io.Writer)
	if !ok {
		return &f.answer
	}
	conn := followedConn{f.answer, w}
	if half, ok := body.(halfCloser); ok {
		return &followedHalf{conn, half}
	}
	return &conn
}

type followed struct {
	io.ReadCloser
	flight *flight
}

func (b *followed) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.flight.ended(time.Now())
	}
	return n, err
}

func (b *followed) Close() error {
	err := b.ReadCloser.Close()
	b.flight.Done(time.Now(), Neutral)
	return err
}

// ended is called at the end of a body. The server may have taken the connection
// for idle since it has written the answer, and we do since now: if that is much
// later, it is not used again.
func (f *flight) ended(now time.Time) {
	f.Done(now, Neutral)
	if f.conns != nil {
		f.conns.read(now.Sub(f.at))
	}
}

type followedConn struct {
	followed
	io.Writer
}

type followedHalf struct {
	followedConn
	halfCloser
}
