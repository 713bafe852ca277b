package gatemesh_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// TestRetry_BodyThatCannotBeHadAgain: the answer that there is stands, and can
// still be read.
func TestRetry_BodyThatCannotBeHadAgain(t *testing.T) {
	t.Parallel()
	lost := errors.New("the file is gone")
	for name, again := range map[string]func() (io.ReadCloser, error){
		"fails":  func() (io.ReadCloser, error) { return nil, lost },
		"panics": func() (io.ReadCloser, error) { panic(lost) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, observer := &diary{}, &recorder{}
				cut := gate("cut", func(ctx context.Context, _ *gatemesh.Call) (gatemesh.Admission, error) {
					ctx, cancel := context.WithCancel(ctx)
					return gatemesh.Admission{Context: ctx, Finish: finishFunc(func(*gatemesh.Call, gatemesh.Outcome) { cancel() })}, nil
				})
				rt := outbound(observer, d.layer("c"), retrying(&upTo{n: 3}), cut, d.layer("a")).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
					_, err := io.ReadAll(r.Body)
					require.NoError(t, err)
					return &http.Response{StatusCode: 503, Body: io.NopCloser(readFunc(func(p []byte) (int, error) {
						if err := r.Context().Err(); err != nil {
							return 0, err
						}
						return copy(p, "why"), io.EOF
					}))}, nil
				}))
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://callee/", strings.NewReader("x"))
				require.NoError(t, err)
				r.GetBody = again
				resp, err := rt.RoundTrip(r)
				require.NoError(t, err)
				assert.Equal(t, 503, resp.StatusCode)
				assert.Equal(t, "why", bodyOf(t, resp))
				require.NoError(t, resp.Body.Close())
				told, _ := d.read()
				assert.Equal(t, "ac", told)
				assert.Equal(t, 1, observer.outcome(t).Attempts)
				faults := observer.of(gatemesh.EventFault)
				require.Len(t, faults, 1)
				assert.Equal(t, "retry", faults[0].Layer)
				assert.ErrorContains(t, faults[0].Err, lost.Error())
				assert.Empty(t, observer.of(gatemesh.EventRetried))
			})
		})
	}
}

// A body that was had again for an attempt which the gates refuse is closed.
func TestRetry_BodyHadAgainForNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		second := gate("second", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
			if c.Attempt() == 2 {
				return gatemesh.Admission{}, gatemesh.Deny(gatemesh.Unavailable, "open", "Open.")
			}
			return gatemesh.Admission{}, nil
		})
		rt := outbound(nil, retrying(&upTo{n: 3}), second).Transport(&script{steps: []any{503}})
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://callee/", strings.NewReader("x"))
		require.NoError(t, err)
		spare := &body{Reader: strings.NewReader("x")}
		r.GetBody = func() (io.ReadCloser, error) { return spare, nil }
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, 1, spare.closed)
	})
}

// Whoever logs Response.Request logs the caller's request, without the fields
// that gates put on it.
func TestOutboundResponseNamesTheCallersRequest(t *testing.T) {
	t.Parallel()
	secret := admits("identity", gatemesh.Admission{Header: []gatemesh.Field{{Name: "X-Gatemesh-Identity", Value: "secret"}}})
	rt := outbound(nil, secret).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		assert.Equal(t, "secret", r.Header.Get("X-Gatemesh-Identity"))
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
	}))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", nil)
	require.NoError(t, err)
	resp, err := rt.RoundTrip(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Same(t, r, resp.Request)
}

// A refusal below the gates, as by a pool without endpoints, is reported like
// one of theirs, once a call.
func TestOutboundRefusedBelowTheGates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, observer := &diary{}, &recorder{}
		nobody := gatemesh.Deny(gatemesh.Unavailable, "no_endpoint", "The service is not available.")
		rt := outbound(observer, d.layer("c"), retrying(&upTo{n: 2}), d.layer("a")).Transport(&script{steps: []any{nobody, nobody}})
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", nil)
		require.NoError(t, err)
		_, err = rt.RoundTrip(r)
		require.Equal(t, nobody, err)
		_, o := d.read()
		assert.Equal(t, nobody, o.Denial)
		assert.Equal(t, gatemesh.Unavailable, o.Code)
		assert.False(t, o.Reached)
		denied := observer.of(gatemesh.EventDenied)
		require.Len(t, denied, 1)
		assert.Equal(t, "transport", denied[0].Layer)
		assert.Equal(t, nobody, denied[0].Denial)
		assert.Equal(t, nobody, observer.outcome(t).Denial)
	})
}

// So is one of the gates that judge each attempt, which the call ends with.
func TestOutboundRefusedFirstAttempt(t *testing.T) {
	t.Parallel()
	observer := &recorder{}
	open := gatemesh.Deny(gatemesh.Unavailable, "open", "Open.")
	rt := outbound(observer, retrying(&upTo{n: 2}), refuses("breaker", open)).Transport(&script{})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://callee/", nil)
	require.NoError(t, err)
	_, err = rt.RoundTrip(r)
	require.Equal(t, open, err)
	denied := observer.of(gatemesh.EventDenied)
	require.Len(t, denied, 1)
	assert.Equal(t, "breaker", denied[0].Layer)
	assert.Equal(t, open, observer.outcome(t).Denial)
}

// The code of a gRPC call over net/http is what the callee said, and OK only if
// it said so: a server of something else answers 200, too.
func TestOutboundGRPCStatus(t *testing.T) {
	t.Parallel()
	status := func(v string) http.Header { return http.Header{"Grpc-Status": {v}} }
	for _, test := range []struct {
		name     string
		answer   http.Response
		read     bool // to its end
		empty    bool // there is no body
		want     gatemesh.Code
		canceled bool
	}{
		{name: "in trailers", answer: http.Response{StatusCode: 200, Trailer: status("0")}, read: true, want: gatemesh.OK},
		{name: "failure in trailers", answer: http.Response{StatusCode: 200, Trailer: status("14")}, read: true, want: gatemesh.Unavailable},
		{name: "without a message", answer: http.Response{StatusCode: 200, Header: status("5")}, read: true, want: gatemesh.NotFound},
		{name: "without a message, not read", answer: http.Response{StatusCode: 200, Header: status("5")}, want: gatemesh.NotFound},
		{name: "none", answer: http.Response{StatusCode: 200}, read: true, want: gatemesh.Unknown},
		{name: "none, and no body", answer: http.Response{StatusCode: 200}, empty: true, want: gatemesh.Unknown},
		{name: "without a body", answer: http.Response{StatusCode: 200, Header: status("5")}, empty: true, want: gatemesh.NotFound},
		{name: "none, announced", answer: http.Response{StatusCode: 200, Trailer: http.Header{"Grpc-Status": nil}}, read: true, want: gatemesh.Unknown},
		{name: "no server of gRPC", answer: http.Response{StatusCode: 503}, read: true, want: gatemesh.Unavailable},
		{name: "given up before", answer: http.Response{StatusCode: 200, Trailer: http.Header{"Grpc-Status": nil}}, want: gatemesh.Canceled, canceled: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := &diary{}
			rt := outbound(nil, d.layer("a")).Transport(roundTrip(func(*http.Request) (*http.Response, error) {
				resp := test.answer
				if !test.empty {
					resp.Body = io.NopCloser(strings.NewReader("x"))
				}
				return &resp, nil
			}))
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://callee/s/m", nil)
			require.NoError(t, err)
			r.Header.Set("Content-Type", "application/grpc")
			resp, err := rt.RoundTrip(r)
			require.NoError(t, err)
			if test.read {
				bodyOf(t, resp)
			}
			if !test.empty {
				require.NoError(t, resp.Body.Close())
			}
			_, o := d.read()
			assert.Equal(t, test.want, o.Code)
			assert.Equal(t, test.canceled, o.Canceled)
		})
	}
}

// TestLive_PastIsBounded: who holds a call, as by an upload that never ends,
// does not hold what was replaced for longer than a minute.
func TestLive_PastIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var a, b component
		require.NoError(t, gatemesh.Apply(a.to(1), b.to(1)))
		x, d := chain(gatemesh.EntryConfig{}).Start(t.Context(), gatemesh.Inbound{Method: "POST", Authority: "h", Path: "/"})
		require.Nil(t, d)
		sees := func(wantA, wantB int) {
			t.Helper()
			assert.Equal(t, []int{wantA, wantB}, []int{a.live.For(x.Call()).n, b.live.For(x.Call()).n})
		}
		require.NoError(t, gatemesh.Apply(a.to(2)))
		time.Sleep(40 * time.Second)
		require.NoError(t, gatemesh.Apply(a.to(3), b.to(3)))
		time.Sleep(19 * time.Second)
		sees(1, 1)
		time.Sleep(2 * time.Second)
		sees(2, 1) // what was current after the first change
		time.Sleep(40 * time.Second)
		sees(3, 3)
		x.Finish(gatemesh.Outcome{})
	})
}
