package gatemesh_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestCodes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code   gatemesh.Code
		number uint32
		name   string
		status int
		back   gatemesh.Code // CodeOf(status)
	}{
		{gatemesh.OK, 0, "ok", 200, gatemesh.OK},
		{gatemesh.Canceled, 1, "canceled", 499, gatemesh.Canceled},
		{gatemesh.Unknown, 2, "unknown", 500, gatemesh.Internal},
		{gatemesh.InvalidArgument, 3, "invalid_argument", 400, gatemesh.InvalidArgument},
		{gatemesh.DeadlineExceeded, 4, "deadline_exceeded", 504, gatemesh.DeadlineExceeded},
		{gatemesh.NotFound, 5, "not_found", 404, gatemesh.NotFound},
		{gatemesh.AlreadyExists, 6, "already_exists", 409, gatemesh.Aborted},
		{gatemesh.PermissionDenied, 7, "permission_denied", 403, gatemesh.PermissionDenied},
		{gatemesh.ResourceExhausted, 8, "resource_exhausted", 429, gatemesh.ResourceExhausted},
		{gatemesh.FailedPrecondition, 9, "failed_precondition", 400, gatemesh.InvalidArgument},
		{gatemesh.Aborted, 10, "aborted", 409, gatemesh.Aborted},
		{gatemesh.OutOfRange, 11, "out_of_range", 400, gatemesh.InvalidArgument},
		{gatemesh.Unimplemented, 12, "unimplemented", 501, gatemesh.Unimplemented},
		{gatemesh.Internal, 13, "internal", 500, gatemesh.Internal},
		{gatemesh.Unavailable, 14, "unavailable", 503, gatemesh.Unavailable},
		{gatemesh.DataLoss, 15, "data_loss", 500, gatemesh.Internal},
		{gatemesh.Unauthenticated, 16, "unauthenticated", 401, gatemesh.Unauthenticated},
		{gatemesh.Code(17), 17, "code_17", 500, gatemesh.Internal},
	} {
		assert.EqualValues(t, test.number, test.code)
		assert.Equal(t, test.name, test.code.String())
		assert.Equal(t, test.status, test.code.HTTPStatus(), test.name)
		assert.Equal(t, test.back, gatemesh.CodeOf(test.status), test.name)
	}
	for status, code := range map[int]gatemesh.Code{
		0: gatemesh.OK, 101: gatemesh.OK, 204: gatemesh.OK, 304: gatemesh.OK, 405: gatemesh.Unimplemented, 408: gatemesh.DeadlineExceeded,
		410: gatemesh.NotFound, 412: gatemesh.FailedPrecondition, 418: gatemesh.InvalidArgument, 502: gatemesh.Unavailable, 599: gatemesh.Internal,
	} {
		assert.Equal(t, code, gatemesh.CodeOf(status), status)
	}
}

func TestDenialIsImmutable(t *testing.T) {
	t.Parallel()
	d := gatemesh.Deny(gatemesh.ResourceExhausted, "slow", "Slow down.")
	d.Header = append(make([]gatemesh.Field, 0, 8), gatemesh.Field{Name: "A", Value: "1"})
	one, two := d.WithField("B", "1"), d.WithField("B", "2")
	assert.Equal(t, []gatemesh.Field{{"A", "1"}, {"B", "1"}}, one.Header)
	assert.Equal(t, []gatemesh.Field{{"A", "1"}, {"B", "2"}}, two.Header)
	assert.Len(t, d.Header, 1)
	cause := errors.New("cause")
	assert.Equal(t, cause, d.WithCause(cause).Cause())
	assert.ErrorIs(t, d.WithCause(cause), cause)
	require.NoError(t, d.Cause())
	for wait, want := range map[time.Duration]string{-time.Hour: "1", 0: "1", 1: "1", time.Second: "1", time.Second + 1: "2", time.Hour: "3600"} {
		assert.Equal(t, want, d.WithRetryAfter(wait).Header[1].Value)
	}
	assert.Equal(t, 429, d.HTTPStatus())
	assert.Equal(t, 500, (&gatemesh.Denial{}).HTTPStatus(), "a Denial without a code is no success")
	assert.Equal(t, 421, (&gatemesh.Denial{Code: gatemesh.InvalidArgument, Status: 421}).HTTPStatus())
}

func TestAsDenial(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	expired, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancel()
	no := gatemesh.Deny(gatemesh.PermissionDenied, "no", "No.")
	secret := errors.New("SECRET")
	for _, test := range []struct {
		name string
		ctx  context.Context
		err  error
		code gatemesh.Code
	}{
		{"denial", t.Context(), no, gatemesh.PermissionDenied},
		{"wrapped denial", canceled, fmt.Errorf("x: %w", no), gatemesh.PermissionDenied},
		{"error", t.Context(), secret, gatemesh.Internal},
		{"caller left", canceled, secret, gatemesh.Canceled},
		{"deadline", expired, secret, gatemesh.DeadlineExceeded},
		{"own deadline", t.Context(), context.DeadlineExceeded, gatemesh.DeadlineExceeded},
		{"own cancellation", t.Context(), context.Canceled, gatemesh.Internal},
		{"nil", t.Context(), nil, gatemesh.Internal},
		{"nil denial", t.Context(), (*gatemesh.Denial)(nil), gatemesh.Internal},
		{"wrapped nil denial", t.Context(), fmt.Errorf("x: %w", (*gatemesh.Denial)(nil)), gatemesh.Internal},
	} {
		d := gatemesh.AsDenial(test.ctx, test.err)
		require.NotNil(t, d, test.name)
		assert.Equal(t, test.code, d.Code, test.name)
		assert.NotContains(t, d.Detail+d.Reason, "SECRET")
		if errors.Is(test.err, secret) {
			assert.Equal(t, secret, d.Cause())
		}
	}
}

// spy is an error that is a plain struct, whose fields fmt prints.
type spy struct{ Text string }

func (s spy) Error() string { return s.Text }

func TestDenialKeepsItsCause(t *testing.T) {
	t.Parallel()
	d := gatemesh.Deny(gatemesh.Unauthenticated, "token_expired", "The token has expired.").WithCause(spy{"SECRET"})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
		got := fmt.Sprintf(verb, d)
		assert.NotContains(t, got, "SECRET", verb)
		assert.Contains(t, got, "token_expired", verb)
	}
	b, err := json.Marshal(d)
	require.NoError(t, err)
	assert.NotContains(t, string(b), "SECRET")
	assert.Equal(t, "unauthenticated: token_expired: The token has expired.", d.Error())
}

func TestWriteDenial(t *testing.T) {
	t.Parallel()
	d := gatemesh.Deny(gatemesh.PermissionDenied, "no", `No "<b>" – 100 % no`).WithField("X-Why", "because").WithCause(errors.New("SECRET"))
	ask := func(method, contentType string, d *gatemesh.Denial) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/", nil)
		r.Header.Set("Content-Type", contentType)
		r.ProtoMajor = 2
		w := httptest.NewRecorder()
		for _, name := range []string{"Content-Length", "Content-Encoding", "ETag", "Last-Modified", "Trailer", "Cache-Control", "Expires"} {
			w.Header().Set(name, "of the body that is not sent")
		}
		w.Header().Set("X-Kept", "yes")
		gatemesh.WriteDenial(w, r, d)
		return w
	}

	w := ask("GET", "", d)
	assert.Equal(t, 403, w.Code)
	assert.JSONEq(t, `{"type":"about:blank","title":"Forbidden","status":403,"detail":"No \"<b>\" – 100 % no","reason":"no"}`, w.Body.String())
	assert.NotContains(t, w.Body.String(), "<b>", "no HTML for browsers that guess")
	assert.Equal(t, http.Header{
		"Content-Type": {"application/problem+json"}, "Content-Length": {fmt.Sprint(w.Body.Len())}, "Cache-Control": {"no-store"},
		"X-Content-Type-Options": {"nosniff"}, "X-Why": {"because"}, "X-Kept": {"yes"},
	}, w.Header())

	head := ask("HEAD", "", d)
	assert.Equal(t, w.Header(), head.Header())
	assert.Empty(t, head.Body.String())

	assert.Equal(t, "private", ask("GET", "", d.WithField("Cache-Control", "private")).Header().Get("Cache-Control"), "a Denial may say so")
	assert.Equal(t, 421, ask("GET", "", &gatemesh.Denial{Status: 421}).Code)
	assert.JSONEq(t, `{"type":"about:blank","title":"Client Closed Request","status":499}`, ask("GET", "", &gatemesh.Denial{Code: gatemesh.Canceled}).Body.String())

	for contentType, grpc := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc;x": true,
		"application/grpc-web": false, "application/grpcx": false, "application/json": false, "": false,
	} {
		w := ask("POST", contentType, d)
		if !grpc {
			assert.Equal(t, 403, w.Code, contentType)
			continue
		}
		assert.Equal(t, 200, w.Code, contentType)
		assert.Equal(t, http.Header{
			"Content-Type": {"application/grpc"}, "Cache-Control": {"no-store"}, "Grpc-Status": {"7"}, "Grpc-Message": {`No "<b>" %E2%80%93 100 %25 no`},
			"X-Why": {"because"}, "X-Kept": {"yes"},
		}, w.Header())
		assert.Empty(t, w.Body.String())
	}
	assert.Equal(t, "13", ask("POST", "application/grpc", &gatemesh.Denial{}).Header().Get("Grpc-Status"), "never OK")
	assert.Equal(t, 403, ask("GET", "application/grpc", d).Code, "gRPC is POST: to everybody else, 200 is success")
}

// TestHandlersOwnDenial: a handler answers like a gate, also with one that a
// gate of another call has used.
func TestHandlersOwnDenial(t *testing.T) {
	t.Parallel()
	d := gatemesh.Deny(gatemesh.NotFound, "no_route", "Nothing here.").WithField("X-Why", "because")
	h := chain(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { gatemesh.WriteDenial(w, r, d) }))
	for range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request("/"))
		assert.Equal(t, 404, w.Code)
		assert.Equal(t, []string{"because"}, w.Header()["X-Why"])
		assert.Contains(t, w.Body.String(), `"requestId":"`+w.Header().Get("X-Request-Id"))
	}
}
