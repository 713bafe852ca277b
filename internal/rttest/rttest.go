// Package rttest checks the contract of [http.RoundTripper] for the tests of
// other packages.
package rttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
)

// T is what Check needs of a *testing.T.
type T interface {
	Helper()
	Errorf(format string, args ...any)
}

// Probe is a request that remembers how it was.
type Probe struct {
	*http.Request
	sent   *body
	before http.Request
	header http.Header
	spare  []string // behind the end of a field's values
	url    url.URL
}

// body counts how often it was closed.
type body struct {
	io.Reader
	closed atomic.Int32
}

func (b *body) Close() error {
	b.closed.Add(1)
	return nil
}

// NewProbe returns a request for a URL, with a body or without. It panics if
// the URL is malformed.
func NewProbe(ctx context.Context, rawURL string, withBody bool) *Probe {
	method := http.MethodGet
	if withBody {
		method = http.MethodPut
	}
	r, err := http.NewRequestWithContext(ctx, method, rawURL, nil)
	if err != nil {
		panic(err)
	}
	p := &Probe{Request: r}
	p.spare = make([]string, 3)
	p.spare[0] = "a"
	r.Header = http.Header{
		"X-A": p.spare[:1], "X-B": {"b", "c"}, "X-Request-Id": {"theirs"}, "X-Gatemesh-Identity": {"theirs"},
		"Authorization": {"Bearer x"}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}
	if withBody {
		p.sent = &body{Reader: strings.NewReader("payload")}
		r.Body, r.ContentLength = p.sent, 7
	}
	p.before, p.header, p.url = *r, r.Header.Clone(), *r.URL
	return p
}

// Verify reports what was changed on the request, and a body that was not
// closed. Call it when the answer has been read and closed.
func (p *Probe) Verify(t T, what string) {
	t.Helper()
	before, now := p.before, *p.Request
	if !reflect.DeepEqual(p.header, now.Header) {
		t.Errorf("%s: the header was changed from %v to %v", what, p.header, now.Header)
	}
	if p.spare[1] != "" || p.spare[2] != "" {
		t.Errorf("%s: the values of a field were appended to: %q", what, p.spare)
	}
	if now.URL != before.URL || *now.URL != p.url {
		t.Errorf("%s: the URL was changed from %v to %v", what, &p.url, now.URL)
	}
	if now.Method != before.Method || now.Host != before.Host || now.Body != before.Body || now.ContentLength != before.ContentLength ||
		now.Context() != before.Context() || now.Close != before.Close || now.Trailer != nil || now.TransferEncoding != nil {
		t.Errorf("%s: the request was changed", what)
	}
	if p.sent != nil && p.sent.closed.Load() == 0 {
		t.Errorf("%s: the body was not closed", what)
	}
}

// base is the transport below the one that is checked. It behaves itself.
type base struct {
	status int
	err    error
	wait   bool // for the context
	asked  int
	opened []*body
}

func (b *base) RoundTrip(r *http.Request) (*http.Response, error) {
	b.asked++
	if r.Body != nil {
		_, rerr := io.Copy(io.Discard, r.Body)
		if err := errors.Join(rerr, r.Body.Close()); err != nil {
			return nil, err
		}
	}
	if b.wait {
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	}
	if b.err != nil {
		return nil, b.err
	}
	answer := &body{Reader: strings.NewReader("answer")}
	b.opened = append(b.opened, answer)
	return &http.Response{
		StatusCode: b.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: answer, ContentLength: 6, Request: r,
	}, nil
}

// Check checks the transport that wrap makes of a transport below it, with
// requests for a URL: they are not changed, their bodies are closed on every
// path, the context is obeyed, there is either an answer or an error, and no
// answer from below stays open.
func Check(t T, rawURL string, wrap func(http.RoundTripper) http.RoundTripper) {
	t.Helper()
	lost := errors.New("rttest: connection lost")
	for _, withBody := range []bool{true, false} {
		for _, c := range []struct {
			name string
			base base
			gone bool // the context is over before
		}{
			{"an answer", base{status: 200}, false},
			{"a failure", base{status: 503}, false},
			{"an error", base{err: lost}, false},
			{"a canceled context", base{wait: true}, true},
			{"a context that ends", base{wait: true}, false},
		} {
			what := fmt.Sprintf("%s, body %v", c.name, withBody)
			ctx, cancel := context.WithCancel(context.Background())
			if c.gone {
				cancel()
			}
			p, below := NewProbe(ctx, rawURL, withBody), c.base
			rt := wrap(&below)
			if c.base.wait && !c.gone {
				go cancel() // it may find the call at any point
			}
			resp, err := rt.RoundTrip(p.Request)
			if (resp == nil) == (err == nil) {
				t.Errorf("%s: response %v and error %v", what, resp, err)
			}
			if (c.base.wait || c.base.err != nil) && err == nil {
				t.Errorf("%s: there was no error", what)
			}
			if resp != nil {
				if got, err := io.ReadAll(resp.Body); string(got) != "answer" || err != nil {
					t.Errorf("%s: the answer was %q, %v", what, got, err)
				}
				if err := resp.Body.Close(); err != nil {
					t.Errorf("%s: closing the answer: %v", what, err)
				}
				if resp.Request == nil || resp.Request.Header.Get("X-Gatemesh-Identity") == "ours" {
					t.Errorf("%s: the answer shows a request with our identity, or none", what)
				}
			}
			for _, b := range below.opened {
				if b.closed.Load() == 0 {
					t.Errorf("%s: an answer from below was not closed", what)
				}
			}
			cancel()
			p.Verify(t, what)
		}
	}
}
