package routing

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// send carries out the request through the outbound gates. It keeps our own
// response fields ours: an identity that the upstream echoes is not for the
// client, and a 101 is not written by the chain's response writer, which sets
// the request id on all others.
func send(req *http.Request) (*http.Response, error) {
	d := dispatchFrom(req.Context())
	if t := httptrace.ContextClientTrace(req.Context()); t != nil && t.Got1xxResponse != nil { // that of ReverseProxy, for this request alone
		d.inform, t.Got1xxResponse = t.Got1xxResponse, d.interim
	}
	resp, err := d.table.outbound.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	d.answer = resp.Body
	if len(resp.Trailer) > 0 && req.ProtoMajor == 1 && req.Method != http.MethodHead {
		// HTTP/2 has trailers behind a body of known length, HTTP/1 has not. The
		// version is that of the client's request.
		resp.Header.Del("Content-Length")
		resp.ContentLength = -1
	}
	for name := range resp.Header {
		if gatemesh.CarriesIdentity(name) {
			delete(resp.Header, name)
		}
	}
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		resp.Header.Set(gatemesh.RequestIDHeader, d.call.RequestID())
	case resp.ProtoMajor != 1 || resp.ContentLength < 0: // there may be trailers
		prune(resp.Trailer, notTrailers)
		d.rest = rest{resp.Body, resp}
		resp.Body = &d.rest
	}
	return resp, nil
}

// rest is the body of an answer, with what may come behind it.
type rest struct {
	io.ReadCloser
	resp *http.Response
}

func (r *rest) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err == io.EOF {
		prune(r.resp.Trailer, notTrailers)
	}
	return n, err
}

// maxInterim is how many 1xx answers are passed on for a request. No upstream has
// use for so many, and each could be a megabyte.
const maxInterim = 32

var errInterim = errors.New("routing: the upstream sends too many 1xx answers")

// interim passes a 1xx answer on without what is not for the client. It may be
// called by several attempts at once.
func (d *dispatch) interim(code int, h textproto.MIMEHeader) error {
	if d.informed.Add(1) > maxInterim {
		return errInterim
	}
	for _, names := range h["Connection"] {
		for name := range strings.SplitSeq(names, ",") {
			delete(h, textproto.CanonicalMIMEHeaderKey(strings.Trim(name, " \t")))
		}
	}
	prune(h, notInterim)
	return d.inform(code, h)
}

// ofMessage are fields that frame a message, belong to a connection, or are ours
// to set. An upstream cannot have us write them in another place than the header
// of the answer (RFC 9110 §6.5.1, §7.6.1).
var ofMessage = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
	"Proxy-Authenticate", "Proxy-Authorization", "Proxy-Authentication-Info",
	"Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "Host", gatemesh.RequestIDHeader,
}

var notInterim, notTrailers = setOf(ofMessage), setOf(append(ofMessage,
	"Authorization", "Www-Authenticate", "Set-Cookie", "Cookie", "Cache-Control", "Age", "Date", "Expires", "Vary",
	"Location", "Retry-After", "Range", "Accept-Ranges", "Expect", "Max-Forwards",
))

func setOf(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[fold(n)] = true
	}
	return set
}

// prune takes the fields of a set off h, in every spelling, and those that carry
// an identity or allow pages of other origins something.
func prune(h map[string][]string, not map[string]bool) {
	for name := range h {
		if not[fold(name)] || gatemesh.CarriesIdentity(name) || strings.HasPrefix(name, corsFields) {
			delete(h, name)
		}
	}
}
