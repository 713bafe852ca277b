package gatemesh

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// sentBody is the body of an outbound request. It knows whether it is the
// caller that holds a request up: an upload that the client of a proxy breaks
// off, or drips, says nothing of the callee.
type sentBody struct {
	io.ReadCloser
	state atomic.Int32
}

const (
	bodyIdle    = iota // has given what it was asked for
	bodyReading        // somebody waits for it
	bodyFailed         // gave an error that is not its end
)

// sending has r report on its body. It returns nil if there is none.
func sending(r *http.Request) *sentBody {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	b := &sentBody{ReadCloser: r.Body}
	r.Body = b
	return b
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.state.Store(bodyReading)
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.state.Store(bodyFailed)
	} else {
		b.state.Store(bodyIdle)
	}
	return n, err
}

// judge notes in o, of an attempt that ended with err, whether that was for
// want of the request.
func (b *sentBody) judge(o *Outcome, err error) {
	if b == nil || err == nil {
		return
	}
	if s := b.state.Load(); s == bodyFailed || s == bodyReading && o.Code == DeadlineExceeded {
		o.Canceled, o.Code = true, Canceled
	}
}
