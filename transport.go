package gatemesh

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// denyRedirect is for redirects into the mesh. Who answers one of our calls
// must not be able to send our certificate and the user's identity on to a
// third service, which allows us what it would refuse them.
var denyRedirect = Deny(PermissionDenied, "redirect_into_mesh", "A redirect to another service of the mesh is not followed.")

// redirected reports whether net/http made r to follow a redirect of another
// host. A callee may still redirect to itself.
func redirected(r *http.Request) bool {
	return r.Response != nil && (r.Response.Request == nil || r.Response.Request.URL.Host != r.URL.Host || r.Response.Request.URL.Scheme != r.URL.Scheme)
}

// Transport returns base behind o. A nil base is [http.DefaultTransport]. A
// refused call returns the [*Denial] as its error. Requests are not modified.
//
// With a [Retrier], a request is sent again only if its body can be had again
// from GetBody, or there is none. Answers that are given up are closed; the
// last one is the caller's, whatever its status.
func (o *Outbound) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{out: o, base: base}
}

type transport struct {
	out  *Outbound
	base http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	x, d := t.out.Start(r.Context(), outboundRequest(r))
	if x == nil {
		if h, changed := ForeignHeader(r.Context(), r.Header); changed {
			r = r.WithContext(r.Context())
			r.Header = h
		}
		return t.base.RoundTrip(r)
	}
	a := x
	if d == nil {
		a, d = x.Attempt()
	}
	if d != nil {
		closeBody(r)
		o := Outcome{Code: d.grpcCode()}
		a.Finish(o)
		x.Finish(o)
		return nil, d
	}
	settled := false
	defer func() {
		if !settled { // base panicked
			a.Finish(Outcome{Code: Internal, Panicked: true})
			x.Finish(Outcome{Code: Internal, Panicked: true})
		}
	}()
	first := roundTrip{r: r, body: r.Body}
	for {
		won, at, rt, _ := Race[roundTrip](t, x, a, first) // of the first attempt, Prepare cannot fail
		a = won
		var again *replay
		if t.out.retry != nil && hasBody(r) {
			again = &replay{r: r}
			at.Replay = again.get
		}
		next := x.Again(a, at)
		if next == nil {
			settled = true
			again.close() // nobody wants it any more
			return settle(x, a, at, r, rt.resp, rt.err)
		}
		discard(rt.resp)
		a = next
		if again != nil {
			first.body = again.body
		}
	}
}

// replay is the body of a request for another attempt.
type replay struct {
	r    *http.Request
	body io.ReadCloser
}

// get has the body, which Replayable says can be had. Panics are seen to by
// Again.
func (b *replay) get() (err error) {
	b.body, err = b.r.GetBody()
	return err
}

func (b *replay) close() {
	if b != nil && b.body != nil {
		_ = b.body.Close()
	}
}

// roundTrip is an attempt and what came of it.
type roundTrip struct {
	r      *http.Request // of the caller
	header http.Header   // that is sent
	body   io.ReadCloser
	sent   *sentBody
	resp   *http.Response
	err    error
}

// Prepare makes the header, and has the body again for a second attempt.
func (t *transport) Prepare(a *Exchange, lane RaceLane, rt roundTrip) (roundTrip, error) {
	if lane == Second && hasBody(rt.r) {
		var err error
		if rt.body, err = getBody(rt.r); err != nil {
			return rt, err
		}
	}
	rt.header = a.OutgoingHeader()
	return rt, nil
}

// Send makes an attempt.
func (t *transport) Send(ctx context.Context, rt roundTrip) roundTrip {
	out := rt.r.WithContext(ctx)
	out.Header, out.Body = rt.header, rt.body
	rt.sent = sending(out)
	rt.resp, rt.err = t.base.RoundTrip(out)
	if rt.err == nil && rt.resp == nil { // net/http makes an error of it, too
		rt.err = errors.New("gatemesh: the transport returned neither a response nor an error")
	}
	return rt
}

// Judge describes an attempt.
func (t *transport) Judge(a *Exchange, rt roundTrip) Attempt {
	at := attemptOf(a, rt.r, rt.resp, rt.err)
	rt.sent.judge(&at.Outcome, rt.err)
	if rt.err != nil && !sendable(rt.header) {
		at.Canceled, at.Code = true, Canceled // it never left, which is not the callee's fault
	}
	return at
}

// Drop lets go of an answer.
func (t *transport) Drop(rt roundTrip) { discard(rt.resp) }

// getBody is r.GetBody, whose panic is an error: it is foreign code.
func getBody(r *http.Request) (body io.ReadCloser, err error) {
	defer recoverTo(&err)
	return r.GetBody()
}

func outboundRequest(r *http.Request) OutboundRequest {
	in := OutboundRequest{
		Protocol: HTTP, Scheme: r.URL.Scheme, Method: r.Method, Authority: r.URL.Host,
		Path: r.URL.EscapedPath(), RawQuery: r.URL.RawQuery, Header: r.Header, Redirected: redirected(r),
		Once: !replayable(r),
	}
	if in.Method == "" {
		in.Method = http.MethodGet
	}
	if in.Path == "" {
		in.Path = "/"
	}
	if in.Method == http.MethodPost && isGRPC(r.Header.Get("Content-Type")) { // a client's request has no version yet
		in.Protocol = GRPC
	}
	return in
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close() // the contract of RoundTripper; its error changes nothing
	}
}

// attemptOf describes an attempt whose body nobody has read yet.
func attemptOf(a *Exchange, r *http.Request, resp *http.Response, err error) Attempt {
	at := Attempt{Err: err, Replayable: replayable(r)}
	if err != nil {
		at.Outcome = a.Failed(err)
		return at
	}
	at.Header = resp.Header
	at.Outcome = Outcome{Code: codeOf(resp.StatusCode, resp.Header), Status: resp.StatusCode, Reached: true}
	if a.call.protocol == GRPC && resp.Body == nil && !hasStatus(resp.Header) {
		at.Code = lacksStatus(at.Code)
	}
	a.Answered(at)
	return at
}

// codeOf returns the code of an answer. That of gRPC stands in its trailers,
// which are its header if there is no message.
func codeOf(status int, fields http.Header) Code {
	if s := fields.Get("Grpc-Status"); s != "" && status == http.StatusOK {
		n, err := strconv.ParseUint(s, 10, 8)
		if err != nil {
			return Unknown
		}
		return Code(n)
	}
	return CodeOf(status)
}

func hasStatus(fields http.Header) bool { return fields.Get("Grpc-Status") != "" }

// lacksStatus returns the code of an answer to a gRPC call that has ended
// without one. What its HTTP status is mapped to counts; an HTTP status alone
// makes no success, as it may be no server of gRPC that answered.
func lacksStatus(c Code) Code {
	if c == OK {
		return Unknown
	}
	return c
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// replayable reports whether r can be sent again as it was.
func replayable(r *http.Request) bool { return !hasBody(r) || r.GetBody != nil }

// discard gives up an answer. A short body is read, so that an HTTP/1
// connection can be used again, but not waited for.
func discard(resp *http.Response) {
	if resp == nil || resp.Body == nil {
		return
	}
	if n := resp.ContentLength; 0 < n && n <= 2<<10 {
		stop := time.AfterFunc(50*time.Millisecond, func() { _ = resp.Body.Close() })
		_, _ = io.CopyN(io.Discard, resp.Body, n+1) // what comes of it does not matter
		stop.Stop()
	}
	_ = resp.Body.Close() // nor does this
}

// settle hands the last answer to the request r to its caller.
func settle(x, a *Exchange, at Attempt, r *http.Request, resp *http.Response, err error) (*http.Response, error) {
	if err != nil {
		o := at.Outcome
		if !o.Canceled {
			o = x.Failed(err) // the caller may have left since
		}
		a.Finish(o)
		x.Finish(o)
		return nil, err
	}
	resp.Request = r // and not ours, which carries an identity
	x.Answered(at)
	switch {
	case resp.Body == nil:
		o := at.Outcome
		a.Finish(o)
		x.Finish(o)
	case a.Pending() || x.Pending() || x.observer != nil:
		resp.Body = watch(x, a, resp)
	}
	return resp, nil
}

// watchedBody tells the gates of an outbound call when its response ends.
type watchedBody struct {
	io.ReadCloser
	x, a  *Exchange // the call and its last attempt
	resp  *http.Response
	mu    sync.Mutex // Close may come from another goroutine than Read
	bytes int64
	done  bool
}

func watch(x, a *Exchange, resp *http.Response) io.ReadCloser {
	b := &watchedBody{ReadCloser: resp.Body, x: x, a: a, resp: resp}
	w, ok := resp.Body.(io.Writer)
	if !ok {
		return b
	}
	conn := watchedConn{b, w} // an upgraded connection
	if half, ok := resp.Body.(halfCloser); ok {
		return &watchedHalf{conn, half}
	}
	return &conn
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	b.bytes += int64(n)
	b.mu.Unlock()
	if err != nil {
		b.end(err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil)
	return err
}

// end finishes the call: err is io.EOF at the end of the body, nil if the
// caller closed it before, and otherwise what broke it.
func (b *watchedBody) end(err error) {
	b.mu.Lock()
	done, n := b.done, b.bytes
	b.done = true
	b.mu.Unlock()
	if done {
		return
	}
	o := Outcome{Code: codeOf(b.resp.StatusCode, b.resp.Header), Status: b.resp.StatusCode, Bytes: n}
	eof := errors.Is(err, io.EOF)
	switch {
	case b.x.call.protocol == GRPC && !hasStatus(b.resp.Header) && (eof || err == nil):
		switch {
		case hasStatus(b.resp.Trailer):
			o.Code = codeOf(b.resp.StatusCode, b.resp.Trailer)
		case eof:
			o.Code = lacksStatus(o.Code)
		case o.Code == OK: // closed before the status came
			o.Canceled, o.Code = true, Canceled
		}
	case err != nil && !eof:
		o.Truncated, o.Code = true, Unavailable
		if ctx := b.a.Context(); ctx.Err() != nil { // whoever reads slowly is not to be the callee's fault
			o.Code, o.Expired = DeadlineExceeded, true
		}
	}
	if !eof {
		b.x.judgeCaller(&o)
	}
	b.a.Finish(o)
	b.x.Finish(o)
}

type watchedConn struct {
	*watchedBody
	io.Writer
}

type watchedHalf struct {
	watchedConn
	halfCloser
}
