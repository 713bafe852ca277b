package gatemesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Code says how a call ended. The numbers are those of gRPC.
type Code uint32

// The codes of gRPC, https://grpc.github.io/grpc/core/md_doc_statuscodes.html.
const (
	OK                 Code = 0
	Canceled           Code = 1
	Unknown            Code = 2
	InvalidArgument    Code = 3
	DeadlineExceeded   Code = 4
	NotFound           Code = 5
	AlreadyExists      Code = 6
	PermissionDenied   Code = 7
	ResourceExhausted  Code = 8
	FailedPrecondition Code = 9
	Aborted            Code = 10
	OutOfRange         Code = 11
	Unimplemented      Code = 12
	Internal           Code = 13
	Unavailable        Code = 14
	DataLoss           Code = 15
	Unauthenticated    Code = 16
)

// codes is the one table from codes to names and HTTP statuses.
var codes = [...]struct {
	name   string
	status int
}{
	OK:                 {"ok", 200},
	Canceled:           {"canceled", 499},
	Unknown:            {"unknown", 500},
	InvalidArgument:    {"invalid_argument", 400},
	DeadlineExceeded:   {"deadline_exceeded", 504},
	NotFound:           {"not_found", 404},
	AlreadyExists:      {"already_exists", 409},
	PermissionDenied:   {"permission_denied", 403},
	ResourceExhausted:  {"resource_exhausted", 429},
	FailedPrecondition: {"failed_precondition", 400},
	Aborted:            {"aborted", 409},
	OutOfRange:         {"out_of_range", 400},
	Unimplemented:      {"unimplemented", 501},
	Internal:           {"internal", 500},
	Unavailable:        {"unavailable", 503},
	DataLoss:           {"data_loss", 500},
	Unauthenticated:    {"unauthenticated", 401},
}

// String returns the name of c, such as "permission_denied".
func (c Code) String() string {
	if int(c) < len(codes) {
		return codes[c].name
	}
	return "code_" + strconv.FormatUint(uint64(c), 10)
}

// HTTPStatus returns the HTTP status that c is answered with.
func (c Code) HTTPStatus() int {
	if int(c) < len(codes) {
		return codes[c].status
	}
	return http.StatusInternalServerError
}

// CodeOf returns the code of an HTTP response status. It is the inverse of
// [Code.HTTPStatus] where that is possible.
func CodeOf(status int) Code {
	switch status {
	case http.StatusUnauthorized:
		return Unauthenticated
	case http.StatusForbidden:
		return PermissionDenied
	case http.StatusNotFound, http.StatusGone:
		return NotFound
	case http.StatusConflict:
		return Aborted
	case http.StatusPreconditionFailed:
		return FailedPrecondition
	case http.StatusTooManyRequests:
		return ResourceExhausted
	case 499:
		return Canceled
	case http.StatusNotImplemented, http.StatusMethodNotAllowed:
		return Unimplemented
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return Unavailable
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return DeadlineExceeded
	}
	switch {
	case status < 400:
		return OK
	case status < 500:
		return InvalidArgument
	}
	return Internal
}

// Field is one header field to add. For gRPC it becomes metadata.
type Field struct{ Name, Value string }

// Denial is a refused call, the one error type that reaches a client. Code,
// Reason, Detail and Header are public; the cause is for the Observer alone
// and is neither printed by Error nor written to the wire. Treat a Denial as
// immutable: gates return the same one many times.
type Denial struct {
	// Code says what kind of refusal it is. The zero Code is treated as Internal.
	Code Code
	// Status overrides the HTTP status that follows from Code. 0 does not.
	Status int
	// Reason is a stable word for machines, such as "token_expired".
	Reason string
	// Detail is a sentence of ours for people.
	Detail string
	// Header holds response fields, such as WWW-Authenticate or Retry-After.
	Header []Field

	cause error
}

// Deny returns a Denial without a cause.
func Deny(code Code, reason, detail string) *Denial {
	return &Denial{Code: code, Reason: reason, Detail: detail}
}

// WithCause returns a copy of d with a cause for the log.
func (d *Denial) WithCause(err error) *Denial {
	c := *d
	c.cause = err
	return &c
}

// WithField returns a copy of d with one more response field.
func (d *Denial) WithField(name, value string) *Denial {
	c := *d
	c.Header = append(append([]Field(nil), d.Header...), Field{name, value})
	return &c
}

// WithRetryAfter returns a copy of d that asks the client to wait for at least
// d, rounded up to whole seconds and never below one (RFC 9110 §10.2.3).
func (d *Denial) WithRetryAfter(wait time.Duration) *Denial {
	s := max(1, int64((wait+time.Second-1)/time.Second))
	return d.WithField("Retry-After", strconv.FormatInt(s, 10))
}

// Error returns code, reason and detail, and not the cause.
func (d *Denial) Error() string {
	if d == nil {
		return "nil denial"
	}
	return fmt.Sprintf("%s: %s: %s", d.Code, d.Reason, d.Detail)
}

// Format prints what Error returns, whatever the verb.
func (d *Denial) Format(f fmt.State, _ rune) { fmt.Fprint(f, d.Error()) }

// Unwrap returns the cause, which may be nil.
func (d *Denial) Unwrap() error {
	if d == nil {
		return nil
	}
	return d.cause
}

// Cause returns the cause for the log, which may be nil.
func (d *Denial) Cause() error { return d.cause }

// HTTPStatus returns the status that d is answered with.
func (d *Denial) HTTPStatus() int {
	switch {
	case d.Status != 0:
		return d.Status
	case d.Code == OK:
		return http.StatusInternalServerError
	}
	return d.Code.HTTPStatus()
}

var (
	errInternal = Deny(Internal, "internal", "The request could not be processed.")
	errCanceled = Deny(Canceled, "canceled", "The caller ended the request.")
	errDeadline = Deny(DeadlineExceeded, "deadline_exceeded", "The request took too long.")
	errNoCall   = Deny(Internal, "no_call", errInternal.Detail)
)

// AsDenial returns err as a Denial, never nil. The end of ctx becomes Canceled or
// DeadlineExceeded; an error that is no Denial becomes Internal with a fixed
// text, and err its cause.
func AsDenial(ctx context.Context, err error) *Denial {
	var d *Denial
	switch {
	case errors.As(err, &d):
		if d == nil {
			return errInternal // a nil *Denial in an error is a bug, and no consent
		}
		return d
	case errors.Is(ctx.Err(), context.Canceled):
		return errCanceled.WithCause(err)
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		return errDeadline.WithCause(err)
	}
	return errInternal.WithCause(err)
}

// problem is RFC 9457 problem details with two members of ours.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	Reason    string `json:"reason,omitempty"`
	RequestID string `json:"requestId,omitempty"`
}

// WriteDenial answers r with d in the way its caller can read: gRPC callers get
// status 200 with grpc-status and grpc-message, everybody else a problem
// document (RFC 9457). It must be called before anything is written to w.
func WriteDenial(w http.ResponseWriter, r *http.Request, d *Denial) {
	h := w.Header()
	for _, name := range [...]string{"Cache-Control", "Content-Length", "Content-Encoding", "Etag", "Expires", "Last-Modified", "Trailer"} {
		h.Del(name) // they would describe the body that is not sent
	}
	if x := exchangeFrom(r.Context()); x == nil || x.refusal() != d { // else our writer has them
		for _, f := range d.Header {
			h.Add(f.Name, f.Value)
		}
	}
	if speaksGRPC(r) {
		h.Set("Content-Type", "application/grpc")
		h.Set("Cache-Control", "no-store")
		h.Set("Grpc-Status", strconv.FormatUint(uint64(d.grpcCode()), 10))
		h.Set("Grpc-Message", grpcMessage(d.Detail))
		w.WriteHeader(http.StatusOK)
		return
	}
	status := d.HTTPStatus()
	p := problem{Type: "about:blank", Title: statusText(status), Status: status, Detail: d.Detail, Reason: d.Reason}
	if c := FromContext(r.Context()); c != nil {
		p.RequestID = c.RequestID()
	}
	body, err := json.Marshal(p)
	if err != nil { // strings and an int always marshal
		body = []byte(`{"type":"about:blank"}`)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may be gone, which concerns nobody else
	}
}

func (d *Denial) grpcCode() Code {
	if d.Code == OK {
		return Internal
	}
	return d.Code
}

func statusText(status int) string {
	if t := http.StatusText(status); t != "" {
		return t
	}
	return "Client Closed Request" // 499, the one status of ours without a name
}

// speaksGRPC reports whether the caller of r reads gRPC trailers. A content
// type alone does not say so: to the rest of the world, status 200 is success.
func speaksGRPC(r *http.Request) bool {
	return r.ProtoMajor >= 2 && r.Method == http.MethodPost && isGRPC(r.Header.Get("Content-Type"))
}

// isGRPC reports whether a content type is gRPC's own, not gRPC-Web's.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// grpcMessage percent-encodes as the gRPC HTTP/2 protocol asks.
func grpcMessage(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
