package gatemesh_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/gatemesh-go/gatemesh"
)

// A handler that wrote nothing until its deadline has not succeeded.
func TestDeadlineWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	observer := &recorder{}
	h := chain(gatemesh.EntryConfig{Observer: observer}).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	w := newRecorderFor(h, request("/").WithContext(ctx))
	assert.Equal(t, http.StatusGatewayTimeout, w.Code)
	assert.Contains(t, w.Body.String(), "deadline_exceeded")
	assert.Equal(t, gatemesh.DeadlineExceeded, observer.outcome(t).Code)
	assert.Len(t, observer.of(gatemesh.EventDenied), 1)
}

// The code of a gRPC call that net/http serves stands in its trailers.
func TestGRPCCodeOverHTTP(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, trailer, value string
		want                 gatemesh.Code
	}{
		{"of a handler", "Grpc-Status", "15", gatemesh.DataLoss},
		{"of a proxy", http.TrailerPrefix + "Grpc-Status", "5", gatemesh.NotFound},
		{"good", "Grpc-Status", "0", gatemesh.OK},
		{"nonsense", "Grpc-Status", "x", gatemesh.Unknown},
		{"none", "X-Other", "1", gatemesh.OK},
	} {
		observer := &recorder{}
		r := request("/s/M", "Content-Type", "application/grpc")
		r.Method, r.ProtoMajor = http.MethodPost, 2
		newRecorderFor(chain(gatemesh.EntryConfig{Observer: observer}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.Header().Set(test.trailer, test.value)
		})), r)
		assert.Equal(t, test.want, observer.outcome(t).Code, test.name)
	}
}

// TestExposeRequestID: code that reads the id from the request finds ours, and
// the caller's request is not changed.
func TestExposeRequestID(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		cfg  gatemesh.EntryConfig
		sent []string
		same bool
	}{
		{"none", gatemesh.EntryConfig{ExposeRequestID: true}, nil, true},
		{"not trusted", gatemesh.EntryConfig{ExposeRequestID: true}, []string{"X-Request-Id", "evil"}, true},
		{"off", gatemesh.EntryConfig{}, []string{"X-Request-Id", "evil"}, false},
	} {
		r := request("/", test.sent...)
		before := r.Header.Clone()
		call, seen, _ := judge(test.cfg, r)
		assert.Equal(t, before, r.Header, test.name)
		assert.Equal(t, call.RequestID() == seen.Header.Get("X-Request-Id"), test.same, test.name)
		assert.NotEqual(t, "evil", seen.Header.Get("X-Request-Id"), test.name)
	}
	trusted := trusting
	trusted.ExposeRequestID = true
	call, seen, _ := judge(trusted, request("/", "X-Request-Id", "theirs"))
	assert.Equal(t, "theirs", call.RequestID())
	assert.Equal(t, []string{"theirs"}, seen.Header["X-Request-Id"])
	r := request("/")
	r.Header = nil
	call, seen, _ = judge(gatemesh.EntryConfig{ExposeRequestID: true}, r)
	assert.Equal(t, call.RequestID(), seen.Header.Get("X-Request-Id"))
}
