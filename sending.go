package gatemesh

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// sentBody is the body of an outbound request. It knows whether it is the
// caller that holds a request up: an upload that the client of a proxy breaks
// off, or drips, says nothing of the callee.
type sentBody struct {
	io.ReadCloser
	ctx   context.Context // of the attempt
	state atomic.Int32
}

const (
	bodyIdle    = iota // has given what it was asked for
	bodyReading        // somebody waits for it
	bodyFailed         // gave an error that is not its end, or nothing until the attempt was over
)

// sending has r report on its body. It returns nil if there is none.
func sending(r *http.Request) *sentBody {
	if !hasBody(r) {
		return nil
	}
	b := &sentBody{ReadCloser: r.Body, ctx: r.Context()}
	r.Body = b
	return b
}

func (b *sentBody) Read(p []byte) (int, error) {
	inTime := b.ctx.Err() == nil
	b.state.CompareAndSwap(bodyIdle, bodyReading)
	n, err := b.ReadCloser.Read(p)
	// net/http waits for a Read under way before it says that time is up.
	if err != nil && !errors.Is(err, io.EOF) || inTime && b.ctx.Err() != nil {
		b.state.Store(bodyFailed)
	} else {
		b.state.CompareAndSwap(bodyReading, bodyIdle)
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

// tokenChars are those of a field name (RFC 9110 §5.6.2).
const tokenChars = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// sendable reports whether net/http can put h on the wire (RFC 9110 §5.5). An
// application may have copied into it what somebody sent.
func sendable(h http.Header) bool {
	for name, values := range h {
		if name == "" || strings.Trim(name, tokenChars) != "" {
			return false
		}
		for _, v := range values {
			for i := range len(v) {
				if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
					return false
				}
			}
		}
	}
	return true
}
