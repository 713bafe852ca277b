package gatemesh_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func toMesh(context.Context, string) (gatemesh.Destination, bool) {
	return gatemesh.Destination{Service: "callee"}, true
}

func outbound(observer gatemesh.Observer, gates ...gatemesh.Layer) *gatemesh.Outbound {
	return gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{Mesh: toMesh, Layers: gates, Observer: observer}))
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// body is a request or response body that knows whether it was closed.
type body struct {
	io.Reader
	closed int
}

func (b *body) Close() error { b.closed++; return nil }

func answer(text string) (*http.Response, *body) {
	b := &body{Reader: strings.NewReader(text)}
	return &http.Response{StatusCode: 200, Body: b}, b
}

func TestNewOutboundReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := gatemesh.NewOutbound(gatemesh.OutboundConfig{Layers: []gatemesh.Layer{admits("a", gatemesh.Admission{}), {}, {Name: "x", Handler: pass}}})
	assert.EqualError(t, err, strings.Join([]string{
		"gatemesh: OutboundConfig.Mesh is required",
		"gatemesh: outbound: layer 1 has no Name",
		"gatemesh: outbound: \"\" must have exactly one of Gate, Handler and Retry",
		"gatemesh: outbound: \"x\" wraps handlers and belongs into a Chain",
	}, "\n"))
}

func TestMeshHosts(t *testing.T) {
	t.Parallel()
	m := map[string]gatemesh.Destination{"a": {Service: "a"}, "a:81": {Service: "a81"}, "::1": {Service: "six"}}
	mesh := gatemesh.MeshHosts(m)
	clear(m)
	for host, want := range map[string]string{
		"a": "a", "A.": "a", "a:80": "a", "a:81": "a81", "a:0081": "a81", "[::1]:80": "six", "b": "", "a b": "", "": "",
	} {
		d, ok := mesh(t.Context(), host)
		assert.Equal(t, want, d.Service, host)
		assert.Equal(t, want != "", ok)
	}
}

// TestLC02_OutboundTransport checks the contract of http.RoundTripper.
func TestLC02_OutboundTransport(t *testing.T) {
	t.Parallel()
	no := gatemesh.Deny(gatemesh.PermissionDenied, "no", "No.")
	lost := errors.New("connection lost")
	field := admits("f", gatemesh.Admission{Header: []gatemesh.Field{{Name: "X-A", Value: "ours"}}})
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, test := range []struct {
		name    string
		ctx     context.Context
		gates   []gatemesh.Layer
		base    error
		noBody  bool
		want    error
		outcome gatemesh.Outcome
	}{
		{name: "ok", gates: []gatemesh.Layer{field}, outcome: gatemesh.Outcome{Status: 200, Bytes: 2, Reached: true}},
		{name: "no body", gates: []gatemesh.Layer{field}, noBody: true, outcome: gatemesh.Outcome{Status: 200, Bytes: 2, Reached: true}},
		{name: "refused", gates: []gatemesh.Layer{field, refuses("no", no)}, want: no, outcome: gatemesh.Outcome{Code: gatemesh.PermissionDenied, Denial: no}},
		{name: "refused, no body", gates: []gatemesh.Layer{refuses("no", no)}, noBody: true, want: no, outcome: gatemesh.Outcome{Code: gatemesh.PermissionDenied, Denial: no}},
		{name: "lost", base: lost, want: lost, outcome: gatemesh.Outcome{Code: gatemesh.Unavailable}},
		{name: "canceled", ctx: canceled, base: context.Canceled, want: context.Canceled, outcome: gatemesh.Outcome{Code: gatemesh.Canceled, Canceled: true}},
		{name: "deadline", base: context.DeadlineExceeded, want: context.DeadlineExceeded, outcome: gatemesh.Outcome{Code: gatemesh.DeadlineExceeded}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx := test.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://callee/a%2Fb?q", nil)
			require.NoError(t, err)
			sent := &body{Reader: strings.NewReader("x")}
			if !test.noBody {
				r.Body = sent
			}
			r.Header = http.Header{"X-A": {"mine"}, "X-Gatemesh-Identity": {"evil"}, "X-Request-Id": {"evil"}, "X-B": append(make([]string, 0, 8), "b")}
			before, header, u := *r, r.Header.Clone(), *r.URL

			observer, d := &recorder{}, &diary{}
			resp, received := answer("ok")
			rt := outbound(observer, append([]gatemesh.Layer{d.layer("breaker")}, test.gates...)...).Transport(roundTrip(func(r2 *http.Request) (*http.Response, error) {
				assert.Equal(t, "callee", gatemesh.FromContext(r2.Context()).Destination().Service)
				assert.NotContains(t, r2.Header, "X-Gatemesh-Identity")
				assert.Equal(t, gatemesh.FromContext(r2.Context()).RequestID(), r2.Header.Get("X-Request-Id"))
				if test.gates != nil {
					assert.Equal(t, []string{"ours"}, r2.Header["X-A"])
				}
				r2.Header.Add("X-B", "of the base transport")
				r2.Header.Set("X-C", "of the base transport")
				if r2.Body != nil {
					_ = r2.Body.Close()
				}
				if test.base != nil {
					return nil, test.base
				}
				return resp, nil
			}))
			got, err := rt.RoundTrip(r)
			if test.want != nil {
				require.ErrorIs(t, err, test.want)
				assert.Nil(t, got)
			} else {
				require.NoError(t, err)
				told, _ := d.read()
				assert.Empty(t, told, "the body is not read yet")
				b, rerr := io.ReadAll(got.Body)
				require.NoError(t, rerr)
				assert.Equal(t, "ok", string(b))
				require.NoError(t, got.Body.Close())
				assert.Equal(t, 1, received.closed)
			}
			assert.Equal(t, header, r.Header)
			assert.Equal(t, "", r.Header["X-B"][:2][1], "a shared slice was appended to")
			assert.Equal(t, u, *r.URL)
			assert.Equal(t, before.Context(), r.Context())
			assert.Equal(t, !test.noBody, sent.closed == 1)
			told, o := d.read()
			assert.Equal(t, "breaker", told)
			o.Duration = 0
			if test.outcome.Denial == nil {
				test.outcome.Attempts = 1
			}
			assert.Equal(t, test.outcome, o)
			assert.Equal(t, test.outcome.Code, observer.outcome(t).Code)
		})
	}
}

func TestOutboundLeavesForeignCallsAlone(t *testing.T) {
	t.Parallel()
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(nil), Layers: []gatemesh.Layer{refuses("no", gatemesh.Deny(gatemesh.PermissionDenied, "no", ""))},
	}))
	r := httptest.NewRequest(http.MethodGet, "http://elsewhere/", nil)
	resp, _ := answer("")
	got, err := out.Transport(roundTrip(func(r2 *http.Request) (*http.Response, error) {
		assert.Same(t, r, r2)
		return resp, nil
	})).RoundTrip(r)
	require.NoError(t, err)
	assert.Same(t, resp, got)
}

// TestRedirectOutOfTheMesh: net/http copies the fields of the first request to
// the next one, and ours must not be among them.
func TestRedirectOutOfTheMesh(t *testing.T) {
	t.Parallel()
	seen := make(chan http.Header, 1)
	elsewhere := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header }))
	inside := serve(t, http.RedirectHandler(elsewhere.URL, http.StatusFound))
	u, err := url.Parse(inside.URL)
	require.NoError(t, err)
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{u.Host: {Service: "inside"}}),
		Layers: []gatemesh.Layer{admits("identity", gatemesh.Admission{Header: []gatemesh.Field{{Name: gatemesh.IdentityHeader, Value: "ours"}}})},
	}))
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	client := http.Client{Transport: out.Transport(base)}
	resp, err := client.Get(inside.URL)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	h := <-seen
	assert.NotContains(t, h, "X-Gatemesh-Identity")
	assert.NotContains(t, h, "X-Request-Id")
}

func TestOutboundBodies(t *testing.T) {
	t.Parallel()
	ask := func(t *testing.T, ctx context.Context, resp *http.Response) (*http.Response, *diary) {
		t.Helper()
		d := &diary{}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://callee/", nil)
		require.NoError(t, err)
		got, err := outbound(nil, d.layer("x")).Transport(roundTrip(func(*http.Request) (*http.Response, error) { return resp, nil })).RoundTrip(r)
		require.NoError(t, err)
		return got, d
	}
	t.Run("closed early", func(t *testing.T) {
		resp, received := answer("long")
		got, d := ask(t, t.Context(), resp)
		_, err := got.Body.Read(make([]byte, 2))
		require.NoError(t, err)
		_ = got.Body.Close()
		_ = got.Body.Close()
		told, o := d.read()
		assert.Equal(t, "x", told)
		assert.EqualValues(t, 2, o.Bytes)
		assert.False(t, o.Truncated)
		assert.Equal(t, 2, received.closed)
	})
	t.Run("broken", func(t *testing.T) {
		resp, _ := answer("")
		resp.Body = &body{Reader: io.MultiReader(strings.NewReader("ab"), readError{})}
		got, d := ask(t, t.Context(), resp)
		_, err := io.ReadAll(got.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		_, o := d.read()
		assert.True(t, o.Truncated)
		assert.Equal(t, gatemesh.Unavailable, o.Code)
		assert.True(t, o.Reached)
	})
	t.Run("caller left", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		resp, _ := answer("ab")
		got, d := ask(t, ctx, resp)
		cancel()
		_ = got.Body.Close()
		_, o := d.read()
		assert.True(t, o.Canceled)
		assert.Equal(t, gatemesh.Canceled, o.Code)
	})
	t.Run("caller left after the end", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		resp, _ := answer("ab")
		resp.Body = io.NopCloser(readerFunc(func([]byte) (int, error) { cancel(); return 0, io.EOF }))
		got, d := ask(t, ctx, resp)
		_, _ = io.ReadAll(got.Body)
		_, o := d.read()
		assert.False(t, o.Canceled)
	})
	t.Run("none", func(t *testing.T) {
		got, d := ask(t, t.Context(), &http.Response{StatusCode: 204})
		assert.Nil(t, got.Body)
		told, _ := d.read()
		assert.Equal(t, "x", told)
	})
	t.Run("upgraded", func(t *testing.T) {
		got, _ := ask(t, t.Context(), &http.Response{StatusCode: 101, Body: rwc{}})
		_, ok := got.Body.(io.Writer)
		assert.True(t, ok)
		_, ok = got.Body.(interface{ CloseWrite() error })
		assert.False(t, ok)
		got, _ = ask(t, t.Context(), &http.Response{StatusCode: 101, Body: rwcHalf{}})
		_, ok = got.Body.(interface{ CloseWrite() error })
		assert.True(t, ok, "a proxy ends one direction alone")
	})
	t.Run("unwatched", func(t *testing.T) {
		resp, received := answer("")
		got, err := outbound(nil).Transport(roundTrip(func(*http.Request) (*http.Response, error) { return resp, nil })).
			RoundTrip(httptest.NewRequest(http.MethodGet, "http://callee/", nil))
		require.NoError(t, err)
		assert.Same(t, received, got.Body, "nobody wants to know")
	})
}

type readError struct{}

func (readError) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

type rwc struct{}

func (rwc) Read([]byte) (int, error)    { return 0, io.EOF }
func (rwc) Write(b []byte) (int, error) { return len(b), nil }
func (rwc) Close() error                { return nil }

type rwcHalf struct{ rwc }

func (rwcHalf) CloseWrite() error { return nil }

func TestOutboundBaseMisbehaves(t *testing.T) {
	t.Parallel()
	d := &diary{}
	r := httptest.NewRequest(http.MethodGet, "http://callee/", nil)
	rt := outbound(nil, d.layer("breaker")).Transport(roundTrip(func(*http.Request) (*http.Response, error) { panic("x") }))
	assert.Panics(t, func() { _, _ = rt.RoundTrip(r) })
	told, o := d.read()
	assert.Equal(t, "breaker", told)
	assert.True(t, o.Panicked)

	rt = outbound(nil, d.layer("breaker")).Transport(roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil }))
	client := http.Client{Transport: rt}
	_, err := client.Get("http://callee/")
	assert.Error(t, err)
	told, _ = d.read()
	assert.Equal(t, "breakerbreaker", told)
}

// TestOutboundOfAnInboundCall checks what a handler's call inherits and what
// it must not take along.
func TestOutboundOfAnInboundCall(t *testing.T) {
	t.Parallel()
	var parent, child *gatemesh.Call
	var header http.Header
	out := outbound(nil, gate("reads", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		child = c
		return gatemesh.Admission{}, nil
	})).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		header = r.Header
		resp, _ := answer("")
		return resp, nil
	}))
	observer := &recorder{}
	var change func(http.Header)
	h := chain(gatemesh.EntryConfig{Observer: observer},
		admits("auth", gatemesh.Admission{Consumed: []string{"authorization"}, Lane: "v2"}),
		admits("keys", gatemesh.Admission{Consumed: []string{"X-API-Key"}}),
	).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		parent = gatemesh.FromContext(r.Context())
		r2, err := http.NewRequestWithContext(r.Context(), "", "http://callee/a%2Fb?q", nil)
		require.NoError(t, err)
		r2.Header = r.Header.Clone() // as careless proxies do
		change(r2.Header)
		resp, err := out.RoundTrip(r2)
		require.NoError(t, err)
		_ = resp.Body.Close()
	}))
	ask := func(f func(http.Header)) {
		change = f
		h.ServeHTTP(httptest.NewRecorder(), request("/", "Authorization", "Bearer token", "X-Api-Key", "key", "X-Gatemesh-Identity", "evil", "X-Other", "kept"))
	}
	ask(func(h http.Header) { h["x_gatemesh_identity"] = []string{"evil"} })
	assert.Equal(t, []string{"X-Other", "X-Request-Id"}, slices.Sorted(maps.Keys(header)))
	assert.Equal(t, parent.RequestID(), header.Get("X-Request-Id"))
	assert.Same(t, parent, child.Parent())
	assert.Equal(t, parent.RequestID(), child.RequestID())
	assert.Equal(t, "v2", child.Lane())
	assert.True(t, child.Outbound())
	assert.Equal(t, 1, child.Attempt())
	assert.Equal(t, "GET http callee /a%2Fb q", strings.Join([]string{child.Method(), child.Scheme(), child.Host(), child.Path(), child.RawQuery()}, " "))
	o := observer.outcome(t)
	assert.Equal(t, 1, o.Attempts)
	assert.True(t, o.Reached)

	ask(func(h http.Header) { h.Set("Authorization", "Bearer of the service itself") })
	assert.Equal(t, "Bearer of the service itself", header.Get("Authorization"), "the application's own")
	ask(func(h http.Header) { h.Add("Authorization", "Bearer of the service itself") })
	assert.NotContains(t, header, "Authorization", "the caller's is among them")
}
