package routing

import (
	"bytes"
	"context"
	"errors"
	"log"
	"net/http"
	"net/http/httputil"
	"os"
	"sync"

	"github.com/gatemesh-go/gatemesh"
)

var (
	denyNoCall     = gatemesh.Deny(gatemesh.Internal, "no_call", "The request could not be processed.")
	denyNoChoice   = gatemesh.Deny(gatemesh.Internal, "no_destination", "The request could not be processed.")
	denyChanged    = gatemesh.Deny(gatemesh.Internal, "request_changed", "The request could not be processed.")
	denyNoUpstream = gatemesh.Deny(gatemesh.Unavailable, "no_upstream", "The service is not available.")
	denyNoHost     = gatemesh.Deny(gatemesh.InvalidArgument, "host_required", "The request must name a host.")
	denyMethod     = gatemesh.Deny(gatemesh.Unimplemented, "method_not_forwarded", "The method is not forwarded.")
	denyUnserved   = refusal{
		gatemesh.Deny(gatemesh.Internal, "backend_invalid", "The request could not be processed."),
		gatemesh.Deny(gatemesh.Unavailable, "backend_invalid", "The service is not available."),
	}
	denyUnreachable = &gatemesh.Denial{
		Code: gatemesh.Unavailable, Status: http.StatusBadGateway,
		Reason: "upstream_unreachable", Detail: "The service could not be reached.",
	}
	denySocket   = gatemesh.Deny(gatemesh.Unimplemented, "websocket_not_forwarded", "The service does not speak WebSocket.")
	denyBody     = gatemesh.Deny(gatemesh.InvalidArgument, "body_malformed", "The request body is malformed.")
	denySlowBody = &gatemesh.Denial{
		Code: gatemesh.DeadlineExceeded, Status: http.StatusRequestTimeout,
		Reason: "body_timeout", Detail: "The request body did not come in time.",
	}
	denyTooLarge = &gatemesh.Denial{
		Code: gatemesh.ResourceExhausted, Status: http.StatusRequestEntityTooLarge,
		Reason: "body_too_large", Detail: "The request body is too large.",
	}
)

// Proxy returns the handler that takes calls to the upstreams of their
// destination. It belongs behind the chain that the Router's layer stands in.
//
// The upstream gets the method, host, path and query of the Call, byte for
// byte. X-Forwarded-For, -Host and -Proto are made anew; what a trusted caller
// said in them and in Forwarded is kept and added to, but a Forwarded that RFC
// 7239 does not allow is dropped. X-Forwarded-Port is not made: the port stands
// in X-Forwarded-Host. Of upgrades only websocket is passed on (RFC 6455), and
// refused with 501 if the upstream's URL is h2c, as net/http cannot do RFC 8441.
// Bodies pass both ways at once. Responses of unknown length are flushed as they
// come, 1xx and trailers are passed on, and a response that the upstream cut
// short is cut short. Trailers of requests are not passed on, not even to gRPC,
// which has none there: they come when everything has been judged.
//
// It answers 400 if the request's body is malformed, 408 if it does not come
// within the server's time, 502 if the upstream cannot be reached, 503 if nobody serves the
// destination, 504 at the deadline, and 500 if no destination was chosen, as
// when a route has several backends and no layer picks one, if the backend that
// was chosen is one with [Backend.Unserved], or if a middleware
// has changed method, host, path or query after they were judged. CONNECT and
// TRACE are refused: the answer to TRACE would show the caller the identity
// that we sent. Denials of outbound gates are passed on.
func (r *Router) Proxy() http.Handler { return r.proxy }

type proxy struct {
	router  *Router
	reverse *httputil.ReverseProxy
}

func newProxy(r *Router) *proxy {
	p := &proxy{router: r}
	p.reverse = &httputil.ReverseProxy{
		Rewrite:   rewrite,
		Transport: roundTripper(send),
		// FlushInterval stays 0: ReverseProxy flushes at once whatever has no
		// Content-Length, and buffering helps the rest.
		ErrorLog:       log.New(logWriter{gatemesh.ObserverFunc(r.observe)}, "", 0),
		BufferPool:     new(buffers),
		ErrorHandler:   p.fail,
		ModifyResponse: changeResponse,
	}
	return p
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := &dispatch{Context: r.Context(), call: gatemesh.FromContext(r.Context())}
	denial := p.plan(d, r)
	if d.stages.n > 0 && p.late(w, r, d) {
		return
	}
	if denial != nil {
		p.report(d.Context, d.call, denial)
		gatemesh.WriteDenial(w, r, denial)
		return
	}
	if d.stages.answer() {
		p.answer(w, r, d)
		return
	}
	websocket := isWebsocket(r)
	if websocket && d.upstream.h2c { // net/http cannot do RFC 8441
		p.report(d.Context, d.call, denySocket)
		gatemesh.WriteDenial(w, r, denySocket)
		return
	}
	out := r.WithContext(d)
	if r.Body != nil && r.Body != http.NoBody {
		d.ReadCloser, out.Body = r.Body, d
		if r.ProtoMajor == 1 {
			// Else the server would throw away what it reads of the body when the
			// answer begins, though the upstream still waits for it. A writer that
			// cannot do it is none of net/http's HTTP/1 server, which alone does that.
			_ = http.NewResponseController(w).EnableFullDuplex()
		}
	}
	if !websocket {
		out.Header = withoutUpgrade(r.Header)
	}
	if r.Header.Get("Expect") != "" {
		w = oneContinue{w}
	}
	returned := false
	defer func() {
		if !returned && d.answer != nil { // those who wait for its end are not to wait for ever
			_ = d.answer.Close()
		}
	}()
	p.reverse.ServeHTTP(w, out)
	returned = true
}

// oneContinue keeps the upstream's 100 (Continue) from the client: the server
// sends one by itself when the body is read for the upstream, which waits for its
// own. ReverseProxy would pass the other one on as well, before it or behind it.
type oneContinue struct{ http.ResponseWriter }

func (w oneContinue) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w oneContinue) WriteHeader(status int) {
	if status != http.StatusContinue {
		w.ResponseWriter.WriteHeader(status)
	}
}

// plan fills d with where r goes, or says why it goes nowhere.
func (p *proxy) plan(d *dispatch, r *http.Request) *gatemesh.Denial {
	c := d.call
	switch {
	case c == nil || c.Outbound():
		return denyNoCall
	case c.Host() == "": // the upstream would see its own address instead
		return denyNoHost
	case c.Method() == http.MethodConnect || c.Method() == http.MethodTrace:
		return denyMethod
	case !unchanged(r, c):
		return denyChanged.WithCause(errChanged)
	}
	d.table, d.destination = p.router.table.For(c), c.Destination()
	if c.Route() != nil {
		if rule, ok := c.Route().Rule.(*rule); ok && rule.table.router == p.router {
			d.table = rule.table
		}
	}
	d.stages = stagesOf(c)
	if unserved(c.Backend()) || unserved(c.ServiceBackend()) {
		return denyUnserved.of(c)
	}
	if denial := p.filter(d); denial != nil || d.stages.answer() {
		return denial
	}
	if d.destination == (gatemesh.Destination{}) {
		return denyNoChoice.WithCause(errNoChoice)
	}
	upstreams := d.table.places.find(d.destination)
	if upstreams == nil {
		return denyNoUpstream.WithCause(errors.New("routing: no upstream serves " + d.destination.String()))
	}
	d.upstream = upstreams.next()
	return nil
}

var (
	errChanged  = errors.New("routing: method, host, path or query changed after they were judged")
	errNoChoice = errors.New("routing: no layer before the proxy has chosen a destination")
)

// unchanged reports whether r still asks for what was judged.
func unchanged(r *http.Request, c *gatemesh.Call) bool {
	host, _, err := gatemesh.CanonicalHost(r.Host)
	return err == nil && host == c.Host() && r.Method == c.Method() &&
		r.URL.EscapedPath() == c.Path() && r.URL.RawQuery == c.RawQuery()
}

// fail answers a request that got no response from the upstream.
func (p *proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	denial, reported := denialOf(dispatchFrom(r.Context()), err)
	if !reported {
		p.report(r.Context(), gatemesh.FromContext(r.Context()), denial)
	}
	gatemesh.WriteDenial(w, r, denial)
}

// denialOf maps an error of a round trip. Denials come from outbound gates,
// which have been reported.
func denialOf(ctx *dispatch, err error) (d *gatemesh.Denial, reported bool) {
	if errors.As(err, &d) {
		return d, true
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) { // by a middleware that limits request bodies
		return denyTooLarge.WithCause(err), false
	}
	cause := ctx.unreadable.Load()
	if cause != nil && errors.Is(*cause, os.ErrDeadlineExceeded) {
		// Of the server that reads it, which then ends the context as if the client
		// had gone.
		return denySlowBody.WithCause(*cause), false
	}
	if ctx.limited && timedOut(ctx, err) {
		return denyTimeout.WithCause(err), false
	}
	if d = gatemesh.AsDenial(ctx, err); d.Code != gatemesh.Internal {
		return d, false
	}
	if cause != nil {
		return denyBody.WithCause(*cause), false
	}
	return denyUnreachable.WithCause(err), false
}

func (p *proxy) report(ctx context.Context, c *gatemesh.Call, d *gatemesh.Denial) {
	p.router.observe(ctx, gatemesh.Event{Kind: gatemesh.EventDenied, Layer: "proxy", Call: c, Denial: d})
}

// logWriter turns the lines of ReverseProxy, about what went wrong when the
// response had begun, into events.
type logWriter struct{ to gatemesh.Observer }

func (l logWriter) Write(line []byte) (int, error) {
	l.to.Observe(context.Background(), gatemesh.Event{
		Kind: gatemesh.EventFault, Layer: "proxy", Message: "a response was not completed",
		Err: errors.New(string(bytes.TrimSpace(line))),
	})
	return len(line), nil
}

// buffers is an httputil.BufferPool.
type buffers struct{ pool sync.Pool }

type buffer [32 << 10]byte

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*buffer); ok {
		return buf[:]
	}
	return new(buffer)[:]
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*buffer)(buf)) }
