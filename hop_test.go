package gatemesh_test

import (
	"context"
	"crypto/tls"
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

func TestParseHop(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]gatemesh.Hop{
		"timeout=250":                            {Timeout: 250 * time.Millisecond},
		"attempt=2":                              {Attempt: 2},
		"retries=0":                              {Retries: true},
		"retries=2":                              {Retries: true, Left: 2},
		"timeout=1, attempt=1000, retries=1000":  {Timeout: time.Millisecond, Attempt: 1000, Retries: true, Left: 1000},
		"timeout=86400000":                       {Timeout: 24 * time.Hour},
		"retries=1,attempt=3 ,\ttimeout=5":       {Timeout: 5 * time.Millisecond, Attempt: 3, Retries: true, Left: 1},
		"later=thing, retries=0, flag, n=1":      {Retries: true},
		"retry":                                  {}, // is nothing that we know
		"retry, retry, attempt=2":                {Attempt: 2},
		"attempt=1":                              {Attempt: 1},
		strings.Repeat("a", 117) + ", retries=9": {Retries: true, Left: 9},
		"timeout=000000250, attempt=2, x=y, z=1": {Timeout: 250 * time.Millisecond, Attempt: 2},
	} {
		h, err := gatemesh.ParseHop(s)
		require.NoError(t, err, s)
		assert.Equal(t, want, h, s)
	}
	for _, s := range []string{
		"", ",", "retries=1,", "retries", "retries=", "timeout", "timeout=", "timeout=0", "timeout=-1", "timeout=+1", "timeout=1.5", "timeout=1s",
		"timeout=86400001", "timeout=9999999999", "timeout=1, timeout=2", "attempt=0", "attempt=1001", "attempt=x", "attempt",
		"retries=-1", "retries=1001", "retries=?1", "retries=1.5", "retries=1, retries=1", "Retries=1", "1=2", "a b", "a=\"b\"",
		"timeout=250; retries=1", "retries=1\x00", "timeout=٢", "retries=9999999999",
		"attempt=99999999999999999999999999", strings.Repeat("a", 118) + ", retries=9",
	} {
		h, err := gatemesh.ParseHop(s)
		require.Error(t, err, s)
		assert.Zero(t, h, s)
	}
}

func TestHopRetried(t *testing.T) {
	t.Parallel()
	for h, want := range map[gatemesh.Hop]bool{
		{}: false, {Attempt: 1}: false, {Attempt: 2}: true, {Retries: true}: true, {Timeout: 1}: false, {Left: 1}: false,
	} {
		assert.Equal(t, want, h.Retried(), "%+v", h)
	}
}

// What cannot be said is not said, or as the nearest that can.
func TestHopString(t *testing.T) {
	t.Parallel()
	for want, h := range map[string]gatemesh.Hop{
		"": {Left: 3}, "retries=0": {Retries: true, Left: -1}, "retries=1000": {Retries: true, Left: 1001},
		"timeout=86400000, attempt=1000, retries=1000": {Timeout: 48 * time.Hour, Attempt: 5000, Retries: true, Left: 5000},
		"timeout=1": {Timeout: 1, Attempt: -1},
	} {
		assert.Equal(t, want, h.String(), "%#v", h)
	}
}

// FuzzHop: what is read is within its bounds, and is read from what it is
// written as; and what goes on to a callee is no less tried, and no more to be
// tried, than what came, whoever retries here.
func FuzzHop(f *testing.F) {
	f.Add("timeout=250, attempt=2, retries=1", 3, true)
	f.Add("a=b, retries=0", -1, true)
	f.Add("retry", 0, false)
	var left int
	var ours bool
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: func(context.Context, string) (gatemesh.Destination, bool) {
			return gatemesh.Destination{Service: "a"}, true
		},
		Layers: []gatemesh.Layer{{Name: "retry", Retry: layered{func() (int, bool) { return left, ours }}}},
	}))
	var sent string
	rt := out.Transport(transportFunc(func(r *http.Request) (*http.Response, error) {
		sent = r.Header.Get(gatemesh.HopHeader)
		return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
	}))
	peer, err := gatemesh.NewPeer("cluster.local", "/ns/a/sa/b", nil)
	require.NoError(f, err)
	service := entry(gatemesh.EntryConfig{Peer: func(*tls.ConnectionState) (*gatemesh.Peer, error) { return peer, nil }}).
		Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = rt.RoundTrip(httptest.NewRequestWithContext(r.Context(), http.MethodGet, "http://a/", nil))
		}))
	f.Fuzz(func(t *testing.T, s string, most int, retries bool) {
		h, err := gatemesh.ParseHop(s)
		left, ours, sent = most, retries, "not called"
		r := request("/", gatemesh.HopHeader, s)
		r.TLS = &tls.ConnectionState{}
		service.ServeHTTP(httptest.NewRecorder(), r)
		var on gatemesh.Hop
		if sent != "" {
			var bad error
			on, bad = gatemesh.ParseHop(sent)
			require.NoError(t, bad, sent)
		}
		assert.Equal(t, h.Retries || retries, on.Retries)
		assert.GreaterOrEqual(t, max(1, on.Attempt), h.Attempt)
		if h.Retries {
			assert.LessOrEqual(t, on.Left, h.Left)
		}
		if on.Retries && !h.Retries {
			assert.LessOrEqual(t, on.Left, max(0, most))
		}
		if err != nil {
			assert.Zero(t, h)
			return
		}
		assert.True(t, h.Timeout >= 0 && h.Timeout <= 24*time.Hour && h.Attempt >= 0 && h.Attempt <= 1000 && h.Left >= 0 && h.Left <= 1000)
		assert.True(t, h.Retries || h.Left == 0)
		if h.Attempt == 1 {
			h.Attempt = 0 // goes without saying
		}
		if h == (gatemesh.Hop{}) {
			assert.Empty(t, h.String())
			return
		}
		again, err := gatemesh.ParseHop(h.String())
		require.NoError(t, err)
		assert.Equal(t, h, again)
	})
}

// knows is an EntryConfig to which every TLS connection has a peer, if known.
func knows(t *testing.T, known bool) (gatemesh.EntryConfig, *recorder) {
	t.Helper()
	peer, err := gatemesh.NewPeer("cluster.local", "/ns/a/sa/b", nil)
	require.NoError(t, err)
	seen := &recorder{}
	cfg := gatemesh.EntryConfig{TrustedProxies: trusting.TrustedProxies, Observer: seen}
	cfg.Peer = func(*tls.ConnectionState) (*gatemesh.Peer, error) {
		if !known {
			return nil, nil
		}
		return peer, nil
	}
	return cfg, seen
}

// TestID01_Hop: who is not a verified peer can say nothing about its call, in
// whatever spelling, and nobody's word goes on to the handler.
func TestID01_Hop(t *testing.T) {
	t.Parallel()
	const value = "timeout=250, attempt=2, retries=1"
	want := gatemesh.Hop{Timeout: 250 * time.Millisecond, Attempt: 2, Retries: true, Left: 1}
	for _, name := range []string{gatemesh.HopHeader, "x-gatemesh-hop", "X_Gatemesh_Hop", "X-GATEMESH-HOP"} {
		for from, test := range map[string]struct {
			known, tls bool
			want       gatemesh.Hop
		}{
			"a client":             {},
			"a client, TLS":        {tls: true}, // its address is a trusted proxy's, too
			"a peer":               {known: true, tls: true, want: want},
			"a peer in plain text": {known: true},
		} {
			cfg, seen := knows(t, test.known)
			r := request("/", name, value)
			if test.tls {
				r.TLS = &tls.ConnectionState{}
			}
			c, got, _ := judge(cfg, r)
			require.NotNil(t, c)
			assert.Equal(t, test.want, c.Hop(), "%s from %s", name, from)
			assert.NotContains(t, got.Header, name)
			assert.Empty(t, seen.of(gatemesh.EventFault))
			if test.want.Timeout > 0 {
				assert.Equal(t, c.Received().Add(test.want.Timeout), c.CallerDeadline())
			} else {
				assert.Zero(t, c.CallerDeadline())
			}
		}
	}
}

func TestHopMalformed(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"malformed": {"timeout=x"}, "empty": {""}, "two": {"retries=1", "retries=1"},
	} {
		cfg, seen := knows(t, true)
		r := request("/")
		r.TLS = &tls.ConnectionState{}
		r.Header[gatemesh.HopHeader] = values
		c, got, _ := judge(cfg, r)
		require.NotNil(t, c, name)
		assert.Zero(t, c.Hop(), name)
		assert.Zero(t, c.CallerDeadline(), name)
		assert.NotContains(t, got.Header, gatemesh.HopHeader, name)
		assert.Len(t, seen.of(gatemesh.EventFault), 1, name)
	}
}

// A gRPC call over net/http says in grpc-timeout what grpc-go would have read.
func TestGRPCTimeout(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond,
		"5u": 5 * time.Microsecond, "6n": 6, "99999999H": 24 * time.Hour, "0m": 1,
		"": 0, "m": 0, "1": 0, "1s": 0, "-1m": 0, "123456789m": 0, "1 m": 0, "1mm": 0,
	} {
		r := request("/a.B/C", "Content-Type", "application/grpc", "Grpc-Timeout", value)
		r.Method, r.ProtoMajor = http.MethodPost, 2
		c, _, _ := judge(gatemesh.EntryConfig{}, r)
		require.NotNil(t, c)
		if want == 0 {
			assert.Zero(t, c.CallerDeadline(), value)
		} else {
			assert.Equal(t, c.Received().Add(want), c.CallerDeadline(), value)
		}
	}
	c, _, _ := judge(gatemesh.EntryConfig{}, request("/", "Grpc-Timeout", "1S"))
	assert.Zero(t, c.CallerDeadline(), "HTTP calls have no grpc-timeout")

	for timeout, want := range map[string]time.Duration{"5S": 2 * time.Second, "1S": time.Second} {
		cfg, _ := knows(t, true)
		r := request("/a.B/C", "Content-Type", "application/grpc", "Grpc-Timeout", timeout, gatemesh.HopHeader, "timeout=2000")
		r.Method, r.ProtoMajor, r.TLS = http.MethodPost, 2, &tls.ConnectionState{}
		c, _, _ := judge(cfg, r)
		require.NotNil(t, c)
		assert.Equal(t, c.Received().Add(want), c.CallerDeadline(), "the earlier of the two")
	}
}

// TestHopOfTheLate: who has no time left does not say that he has all of it.
func TestHopOfTheLate(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	var sent string
	rt := outbound(nil).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		sent = r.Header.Get(gatemesh.HopHeader)
		return nil, r.Context().Err()
	}))
	r := request("/").WithContext(ctx)
	r.URL.Scheme, r.URL.Host = "http", "callee"
	_, err := rt.RoundTrip(r)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, "timeout=1", sent)
}

// layered retries what fails, up to two times.
type layered struct{ says func() (int, bool) }

func (layered) Retry(_ context.Context, c *gatemesh.Call, a gatemesh.Attempt) (time.Duration, bool) {
	return 100 * time.Millisecond, a.Code != gatemesh.OK && c.Attempt() < 3
}

func (l layered) Retries(context.Context, *gatemesh.Call) (int, bool) { return l.says() }

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// countdown has n further attempts at the first one.
func countdown(n int) func(attempt int) (int, bool) {
	return func(attempt int) (int, bool) { return n + 1 - attempt, true }
}

// What goes to the callee: the time that is left, anew for each attempt, and
// how often those above have tried and can try.
func TestHopIsSent(t *testing.T) {
	t.Parallel()
	no := func() (int, bool) { return 7, false }
	for name, test := range map[string]struct {
		header http.Header
		body   func() *strings.Reader
		says   func(attempt int) (int, bool)
		limit  time.Duration
		parent gatemesh.Hop
		want   []string
		grpc   []string
	}{
		"nothing":         {want: []string{"", "attempt=2", "attempt=3"}},
		"retries":         {says: countdown(2), want: []string{"retries=2", "attempt=2, retries=1", "attempt=3, retries=0"}},
		"time":            {limit: time.Second, want: []string{"timeout=1000", "timeout=900, attempt=2", "timeout=800, attempt=3"}},
		"somebody above":  {parent: gatemesh.Hop{Retries: true, Left: 4}, want: []string{"retries=4", "attempt=2, retries=4", "attempt=3, retries=4"}},
		"none is left":    {parent: gatemesh.Hop{Attempt: 3, Retries: true}, want: []string{"attempt=3, retries=0", "attempt=4, retries=0", "attempt=5, retries=0"}},
		"it is unknown":   {parent: gatemesh.Hop{Attempt: 2}, want: []string{"attempt=2", "attempt=3", "attempt=4"}},
		"despite him":     {says: countdown(9), parent: gatemesh.Hop{Attempt: 2, Retries: true, Left: 8}, want: []string{"attempt=2, retries=8", "attempt=3, retries=8", "attempt=4, retries=7"}},
		"for ever":        {says: countdown(5000), parent: gatemesh.Hop{Attempt: 1000}, want: []string{"attempt=1000, retries=1000", "attempt=1000, retries=1000", "attempt=1000, retries=1000"}},
		"less than none":  {says: countdown(0), want: []string{"retries=0", "attempt=2, retries=0", "attempt=3, retries=0"}},
		"a panic is no":   {says: func(int) (int, bool) { panic("x") }, want: []string{"", "attempt=2", "attempt=3"}},
		"not sent again":  {says: countdown(2), body: func() *strings.Reader { return strings.NewReader("x") }, want: []string{""}},
		"what it came as": {header: http.Header{"X-Gatemesh-Hop": {"retries=1"}}, want: []string{"", "attempt=2", "attempt=3"}},
		"gRPC": {says: countdown(2), limit: time.Second, header: http.Header{"Content-Type": {"application/grpc"}, "Grpc-Timeout": {"9S"}},
			want: []string{"retries=2", "attempt=2, retries=1", "attempt=3, retries=0"}, grpc: []string{"1000m", "900m", "800m"}},
		"gRPC without a limit": {header: http.Header{"Content-Type": {"application/grpc"}, "Grpc-Timeout": {"9S"}},
			want: []string{"", "attempt=2", "attempt=3"}, grpc: []string{"9S", "9S", "9S"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var sent, timeouts []string
				says := no
				if test.says != nil {
					says = func() (int, bool) { return test.says(len(sent) + 1) }
				}
				out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
					Mesh: func(context.Context, string) (gatemesh.Destination, bool) {
						return gatemesh.Destination{Service: "a"}, true
					},
					Layers: []gatemesh.Layer{{Name: "retry", Retry: layered{says}}},
				}))
				rt := out.Transport(transportFunc(func(r *http.Request) (*http.Response, error) {
					sent = append(sent, r.Header.Get(gatemesh.HopHeader))
					timeouts = append(timeouts, r.Header.Get("Grpc-Timeout"))
					return &http.Response{StatusCode: 503, Header: http.Header{"Grpc-Status": {"14"}}, Body: http.NoBody}, nil
				}))
				call := func(ctx context.Context) {
					if test.limit > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, test.limit)
						defer cancel()
					}
					r := httptest.NewRequestWithContext(ctx, http.MethodPost, "http://a/", nil)
					if test.body != nil {
						r.Body = http.MaxBytesReader(nil, readCloser{test.body()}, 100)
					}
					for k, v := range test.header {
						r.Header[k] = v
					}
					resp, err := rt.RoundTrip(r)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
				}
				if test.parent == (gatemesh.Hop{}) {
					call(t.Context())
				} else {
					cfg, _ := knows(t, true)
					r := request("/", gatemesh.HopHeader, test.parent.String()).WithContext(t.Context())
					r.TLS = &tls.ConnectionState{}
					entry(cfg).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						call(r.Context())
					})).ServeHTTP(httptest.NewRecorder(), r)
				}
				assert.Equal(t, test.want, sent)
				if test.grpc != nil {
					assert.Equal(t, test.grpc, timeouts)
				}
			})
		})
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// respondFinisher notes in which order it is told things.
type respondFinisher struct{ told *[]string }

func (f respondFinisher) Answered(_ *gatemesh.Call, a gatemesh.Attempt) {
	*f.told = append(*f.told, "answered "+a.Code.String())
}

func (f respondFinisher) Finish(_ *gatemesh.Call, o gatemesh.Outcome) {
	*f.told = append(*f.told, "finished "+o.Code.String())
}

// An inbound gate learns when the response begins.
func TestInboundAnswered(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		behind  []gatemesh.Layer
		handler http.HandlerFunc
		want    []string
	}{
		"an answer": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			_, _ = w.Write([]byte("x"))
		}, want: []string{"answered " + gatemesh.CodeOf(418).String(), "finished " + gatemesh.CodeOf(418).String()}},
		"nothing written": {handler: func(http.ResponseWriter, *http.Request) {}, want: []string{"answered ok", "finished ok"}},
		"a refusal": {
			behind: []gatemesh.Layer{refuses("no", gatemesh.Deny(gatemesh.PermissionDenied, "no", "No."))},
			want:   []string{"answered permission_denied", "finished permission_denied"},
		},
		"a panic": {handler: func(http.ResponseWriter, *http.Request) { panic("x") }, want: []string{"answered internal", "finished internal"}},
		"1xx": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNoContent)
		}, want: []string{"answered ok", "finished ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told []string
			layers := append([]gatemesh.Layer{admits("hears", gatemesh.Admission{Finish: respondFinisher{&told}})}, test.behind...)
			chain(gatemesh.EntryConfig{}, layers...).Handler(test.handler).ServeHTTP(httptest.NewRecorder(), request("/"))
			assert.Equal(t, test.want, told)
		})
	}
}
