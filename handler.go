package gatemesh

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Handler returns next behind the chain. Refused requests are answered by
// [WriteDenial]. next receives a shallow copy of the request with the Call in
// its context, canonical URL and Host, and without the header fields that the
// caller may not send and without trailers, which nobody has judged.
//
// A handler that panics before it has written anything is answered with 500;
// later, the connection is aborted. Both are reported to the Observer.
func (c *Chain) Handler(next http.Handler) http.Handler {
	last := len(c.gates)
	for i := len(c.layers) - 1; i >= 0; i-- {
		if l := c.layers[i]; l.Handler != nil {
			next = l.Handler(next)
			continue
		}
		// Neighbouring gates share one adapter.
		first := last - 1
		for i > 0 && c.layers[i-1].Gate != nil {
			i, first = i-1, first-1
		}
		next = &gateHandler{chain: c, upto: last, next: next}
		last = first
	}
	return &entryHandler{chain: c, next: next}
}

// Handler returns next behind the Entry alone, for use without a [Chain].
func (e *Entry) Handler(next http.Handler) http.Handler {
	return &entryHandler{chain: &Chain{entry: e}, next: next}
}

type entryHandler struct {
	chain *Chain
	next  http.Handler
}

func (h *entryHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x, s := h.chain.entry.begin(r.Context(), h.chain.gates)
	err := x.acceptRequest(s, r)

	r2 := r.WithContext((*callContext)(x))
	r2.Header = x.call.header.fields
	r2.Trailer = nil // nobody judges trailers of requests, so nobody gets them
	x.w = ResponseWriter{ResponseWriter: w, x: x, r: r2}
	defer h.end(x, r2)
	if err != nil {
		WriteDenial(&x.w, r2, x.Deny(x.ctx, "entry", err))
		return
	}
	canonicalURL(r2, &x.call)
	serveCopy(h.next, &x.w, r2, r)
}

// serveCopy has next serve r, which stands for of. Of the latter, net/http removes
// the files that a handler has made of a form.
func serveCopy(next http.Handler, w http.ResponseWriter, r, of *http.Request) {
	defer func() { of.MultipartForm = r.MultipartForm }()
	next.ServeHTTP(w, r)
}

// end runs when the handler has returned or panicked.
func (h *entryHandler) end(x *Exchange, r *http.Request) {
	w := &x.w
	o := Outcome{}
	v := recover()
	if v == nil && w.status == 0 && w.hijacked == nil {
		v = guarded(func() {
			if x.Context().Err() == context.DeadlineExceeded { // else a handler that gave up would seem to have succeeded
				WriteDenial(w, r, x.Deny(x.Context(), "entry", errDeadline))
				return
			}
			w.WriteHeader(http.StatusOK) // net/http would, without our hooks
		})
	}
	switch {
	case v == http.ErrAbortHandler:
		o.Truncated = true
	case v != nil:
		o.Panicked = true
		d := x.Panicked(x.Context(), v)
		o.Truncated = w.status != 0 || guarded(func() {
			clear(w.Header())
			WriteDenial(w, r, d)
		}) != nil
	}
	if w.hijacked != nil && v != nil {
		_ = w.hijacked.Conn.Close() // net/http does not, and the handler is gone
	}
	if w.hijacked == nil || v != nil {
		o.Status, o.Bytes, o.Code = w.status, w.bytes, w.code()
		o.Truncated = o.Truncated || w.failed
		o.Canceled = x.ctx.Err() == context.Canceled
		d := x.refusal()
		switch {
		case o.Canceled:
			o.Code = Canceled
		case d != nil:
			o.Code = d.grpcCode()
		case o.Truncated && o.Code == OK:
			o.Code = Unknown
		}
		x.Finish(o)
	}
	if o.Truncated {
		// Not panic(v): net/http would log the value a second time, unescaped.
		panic(http.ErrAbortHandler)
	}
}

// guarded returns what f panicked with: hooks of the response writer are
// foreign code, and gates must learn of the end all the same.
func guarded(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

// acceptRequest is accept of r. Its Inbound is off the stack before the handler
// runs: servers begin a small stack for each HTTP/2 request, and to have it
// grow costs as much as all gates.
//
//go:noinline
func (x *Exchange) acceptRequest(s *entryState, r *http.Request) error {
	var in Inbound
	in.read(r)
	return x.accept(s, &in)
}

// read fills in from r, which may come from a server or from a middleware that
// changed its URL.
func (in *Inbound) read(r *http.Request) {
	in.Protocol, in.Method, in.Authority, in.Header, in.TLS = HTTP, r.Method, r.Host, r.Header, r.TLS
	if u := r.URL; u != nil {
		in.Path, in.RawQuery = escapedPath(u), u.RawQuery
		// A scheme alone is one too: "x:/admin" has the path /admin.
		in.absoluteForm = u.Host != "" || u.Scheme != ""
	}
	if speaksGRPC(r) {
		in.Protocol = GRPC
	}
	in.RemoteAddr, _ = netip.ParseAddrPort(r.RemoteAddr)
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		in.LocalAddr = a.AddrPort()
	}
}

// escapedPath returns the path as it was received, with bytes that ought to
// have been escaped still raw, so that the canonicaliser sees them.
func escapedPath(u *url.URL) string {
	if u.RawPath != "" {
		if p, err := url.PathUnescape(u.RawPath); err == nil && p == u.Path {
			return u.RawPath
		}
	}
	return u.EscapedPath()
}

// canonicalURL gives r, our copy, the URL and Host that were judged.
func canonicalURL(r *http.Request, c *Call) {
	r.Host = authority(r.Host, c)
	if c.path == "*" || r.URL.Host == "" && r.URL.Scheme == "" && escapedPath(r.URL) == c.path {
		return
	}
	u := *r.URL
	u.Scheme, u.Host, u.User, u.RawPath = "", "", nil, ""
	u.Path, _ = url.PathUnescape(c.path) // canonical paths unescape
	if u.EscapedPath() != c.path {
		u.RawPath = c.path
	}
	r.URL = &u
	r.RequestURI = u.RequestURI()
}

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// authority returns the host that was judged, with its port unless that is the
// default one of the scheme.
func authority(raw string, c *Call) string {
	name, port := c.host, c.port
	if port == defaultPort(c.scheme) {
		port = ""
	}
	if strings.IndexByte(name, ':') >= 0 {
		name = "[" + name + "]"
	}
	switch {
	case port == "":
		return name
	case len(raw) == len(name)+1+len(port) && strings.HasPrefix(raw, name):
		return raw // canonical already
	}
	return name + ":" + port
}

// gateHandler runs the gates of a chain up to one that is followed by
// middleware or by the handler.
type gateHandler struct {
	chain *Chain
	upto  int
	next  http.Handler
}

func (h *gateHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchangeFrom(r.Context())
	if x == nil || len(x.gates) != len(h.chain.gates) || &x.gates[0] != &h.chain.gates[0] || x.over() {
		// A middleware replaced the request's context, maybe by that of
		// another call, whose consents are not for this one.
		noCall(w, r, h.chain.entry.state.Latest().Observer, h.chain.gates[h.upto-1].Name)
		return
	}
	ctx, d := x.admit(r.Context(), h.upto)
	if d != nil {
		WriteDenial(w, r, d)
		return
	}
	serveCopy(h.next, w, judged(ctx, x, r), r)
}

// noCall refuses a request that came to a gate past its Entry. On its own, it
// leaves the stack of other requests alone.
//
//go:noinline
func noCall(w http.ResponseWriter, r *http.Request, o Observer, layer string) {
	observe(r.Context(), o, Event{Kind: EventFault, Layer: layer, Message: "no call in the request's context"})
	WriteDenial(w, r, errNoCall)
}

// judged returns r with ctx, which is that of r unless a gate replaced it, and
// with a body that is read for as long as consents hold.
func judged(ctx context.Context, x *Exchange, r *http.Request) *http.Request {
	ours := r == x.w.r // the copy that Entry made for this call
	if ctx != r.Context() {
		r, ours = r.WithContext(ctx), true
	}
	if !x.Bounded() || r.Body == nil || r.Body == http.NoBody {
		return r
	}
	if _, already := r.Body.(*judgedBody); already {
		return r
	}
	if !ours {
		r = r.WithContext(ctx)
	}
	r.Body = &judgedBody{r.Body, x, ctx}
	return r
}

// judgedBody ends an upload when a consent has ended and cannot be renewed.
type judgedBody struct {
	io.ReadCloser
	x   *Exchange
	ctx context.Context
}

func (b *judgedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if now := time.Now(); n > 0 && b.x.Expired(now) {
		if d := b.x.Revalidate(b.ctx, now); d != nil {
			return 0, d
		}
	}
	return n, err
}

// GateHandler returns HTTP middleware that runs the gate of l without a
// [Chain], behind [Entry.Handler]. A request without a Call is answered with
// 500 and reported to o, which may be nil. The packages of this module return
// it from their Handler methods. It panics if l has no Gate.
func GateHandler(l Layer, o Observer) func(http.Handler) http.Handler {
	if l.Gate == nil {
		panic("gatemesh: GateHandler: layer " + l.Name + " has no Gate")
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			x := exchangeFrom(r.Context())
			if x == nil || x.call.outbound || x.over() {
				noCall(w, r, o, l.Name)
				return
			}
			ctx, d := x.run(r.Context(), &l)
			if d != nil {
				WriteDenial(w, r, d)
				return
			}
			serveCopy(next, w, judged(ctx, x, r), r)
		})
	}
}
