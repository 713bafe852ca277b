package gatemesh_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// An upload that its caller breaks off or drips is no failure of the callee:
// whoever can send bodies could open breakers for everybody else.
func TestUploadsOfBadCallers(t *testing.T) {
	t.Parallel()
	broken := errors.New("malformed chunk")
	reads := roundTrip(func(r *http.Request) (*http.Response, error) {
		_, err := io.ReadAll(r.Body)
		if err == nil {
			err = errors.New("reset")
		}
		return nil, err
	})
	hangs := roundTrip(func(r *http.Request) (*http.Response, error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.ReadAll(r.Body)
		}()
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	reader, writer := io.Pipe()
	defer writer.Close()
	late := make(chan struct{})
	waits := roundTrip(func(r *http.Request) (*http.Response, error) { // as net/http does
		go func() {
			<-r.Context().Done()
			close(late)
		}()
		_, _ = r.Body.Read(make([]byte, 1))
		return nil, r.Context().Err()
	})
	for _, test := range []struct {
		name     string
		body     io.Reader
		base     http.RoundTripper
		canceled bool
		code     gatemesh.Code
	}{
		{"broken off", failingReader{broken}, reads, true, gatemesh.Canceled},
		{"dripped", reader, hangs, true, gatemesh.Canceled},
		{"dripped, a byte too late", readFunc(func(p []byte) (int, error) {
			<-late
			return 1, nil
		}), waits, true, gatemesh.Canceled},
		{"whole, and the callee resets", strings.NewReader("x"), reads, false, gatemesh.Unavailable},
		{"whole, and the callee hangs", strings.NewReader("x"), hangs, false, gatemesh.DeadlineExceeded},
	} {
		t.Run(test.name, func(t *testing.T) {
			observer := &recorder{}
			deadline := gate("deadline", func(ctx context.Context, _ *gatemesh.Call) (gatemesh.Admission, error) {
				ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
				return gatemesh.Admission{Context: ctx, Finish: finishFunc(func(*gatemesh.Call, gatemesh.Outcome) { cancel() })}, nil
			})
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://callee/", io.NopCloser(test.body))
			require.NoError(t, err)
			_, err = outbound(observer, deadline).Transport(test.base).RoundTrip(r)
			require.Error(t, err)
			o := observer.outcome(t)
			assert.Equal(t, test.canceled, o.Canceled)
			assert.Equal(t, test.code, o.Code)
		})
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// A caller that reads slowly until the deadline has had its answer begun.
func TestDownloadsOfSlowCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		observer := &recorder{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		rt := outbound(observer).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(failingAfter{r.Context()})}, nil
		}))
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://callee/", http.NoBody)
		require.NoError(t, err)
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		o := observer.outcome(t)
		assert.True(t, o.Expired)
		assert.True(t, o.Reached)
		assert.Equal(t, gatemesh.DeadlineExceeded, o.Code)
		require.NoError(t, resp.Body.Close())
	})
}

type failingAfter struct{ ctx context.Context }

func (f failingAfter) Read([]byte) (int, error) {
	<-f.ctx.Done()
	return 0, f.ctx.Err()
}

// A New while something else is built, as in a function that a configuration
// holds, waits for nobody.
func TestNewWhileBuilding(t *testing.T) {
	t.Parallel()
	var a component
	done := make(chan error, 1)
	go func() {
		require.NoError(t, gatemesh.Apply(a.to(1)))
		done <- gatemesh.Apply(gatemesh.NewChange(&a.live, func(*number) (*number, error) {
			_, err := gatemesh.NewEntry(gatemesh.EntryConfig{})
			return &number{n: 2}, err
		}, nil))
	}()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(time.Minute):
		t.Fatal("it waits for itself")
	}
	assert.Equal(t, 2, a.live.Latest().n)
}

// A call that is made after the response has begun sees one version, too, and
// so does one in whose midst it begins.
func TestF12_CallsOfStreams(t *testing.T) {
	t.Parallel()
	var a, b component
	require.NoError(t, gatemesh.Apply(a.to(1), b.to(1)))
	var saw []int
	see := func(n int) { saw = append(saw, n) }
	var w http.ResponseWriter
	between := gate("between", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		w.WriteHeader(http.StatusOK)
		n := a.live.Latest().n + 1
		return gatemesh.Admission{}, gatemesh.Apply(a.to(n), b.to(n))
	})
	rt := outbound(nil, a.layer("a", see), between, b.layer("b", see)).Transport(roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	chain(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w = rw
		for range 2 {
			req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://callee/", http.NoBody)
			assert.NoError(t, err)
			resp, err := rt.RoundTrip(req)
			assert.NoError(t, err)
			assert.NoError(t, resp.Body.Close())
		}
	})).ServeHTTP(httptest.NewRecorder(), request("/"))
	assert.Equal(t, []int{1, 1, 2, 2}, saw)
}

// The credential that a call was admitted with does not go to third parties in
// a copy of its header; another one of the application's does.
func TestNoCredentialOutside(t *testing.T) {
	t.Parallel()
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: gatemesh.MeshHosts(nil)}))
	var sent []string
	rt := out.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		sent = append(sent, r.Header.Get("Authorization"))
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	h := chain(gatemesh.EntryConfig{}, admits("auth", gatemesh.Admission{Consumed: []string{"Authorization"}})).
		Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for _, own := range []string{"", "Basic own"} {
				req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://third.party/", http.NoBody)
				assert.NoError(t, err)
				req.Header = r.Header.Clone()
				if own != "" {
					req.Header.Set("Authorization", own)
				}
				resp, err := rt.RoundTrip(req)
				assert.NoError(t, err)
				assert.NoError(t, resp.Body.Close())
			}
		}))
	h.ServeHTTP(httptest.NewRecorder(), request("/", "Authorization", "Bearer secret"))
	assert.Equal(t, []string{"", "Basic own"}, sent)
}

// A field that cannot be sent, as an application may copy it from a request,
// is not a failure of the callee.
func TestFieldsThatCannotBeSent(t *testing.T) {
	t.Parallel()
	server := serve(t, noContent)
	for field, canceled := range map[[2]string]bool{
		{"X-User", "Zo\x01"}: true, {"X User", "a"}: true, {"X-User", "a\nb"}: true, {"X-User", "Zoë\t"}: false,
	} {
		observer := &recorder{}
		base := &http.Transport{DisableKeepAlives: true}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
		require.NoError(t, err)
		r.Header[field[0]] = []string{field[1]}
		resp, err := outbound(observer).Transport(base).RoundTrip(r)
		assert.Equal(t, canceled, err != nil, field)
		if err == nil {
			require.NoError(t, resp.Body.Close())
		}
		assert.Equal(t, canceled, observer.outcome(t).Canceled, field)
	}
}
