package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// BR-01: what callers do with their own calls says nothing about an endpoint.
func TestBR01CallersAreNeutral(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	p := newPool(t, Static(addr, closedPort(t)), func(c *Config) { c.Ejection.MaxPercent = 100 })
	p.ejecting.Lock() // the other one is out for good, so that all meet the first
	for _, e := range p.state.Load().endpoints {
		if e.addr != addr {
			e.out.Store(1 << 62)
		}
	}
	p.changes.Add(1)
	p.ejecting.Unlock()
	rt := p.Transport(newBase(t))
	for range 1_000 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-arrived
			cancel()
		}()
		_, err := rt.RoundTrip(request(t, "http://orders/").WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Equal(t, EndpointStatus{Address: addr, Weight: 1}, statusOf(t, p, addr), "no sample, no failure")
	for range 1_000 {
		resp, err := rt.RoundTrip(request(t, "http://orders/missing"))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	s := statusOf(t, p, addr)
	assert.Zero(t, s.Failures, "4xx")
	assert.Zero(t, s.InFlight)
}

func TestBR01ShortDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, Static("a:1", "b:1"))
		rt := p.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}))
		for range 1_000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := rt.RoundTrip(request(t, "http://orders/").WithContext(ctx))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		for _, e := range p.Endpoints() {
			assert.Zero(t, e.Failures)
			assert.InDelta(t, time.Second, e.Latency, 1e9/2, "but at least that slow")
		}
	})
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	answer := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
		}
	}
	hangUp := func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = c.Close()
		}
	}
	plain := func(t *testing.T) http.RoundTripper { return newBase(t) }
	always := func(err error) func(*testing.T) http.RoundTripper {
		return func(*testing.T) http.RoundTripper {
			return roundTripper(func(*http.Request) (*http.Response, error) { return nil, err })
		}
	}
	withBody := func(b io.Reader) func(*http.Request) {
		return func(r *http.Request) { r.Method, r.Body, r.ContentLength = "POST", io.NopCloser(b), 1<<20 }
	}
	for _, tt := range []struct {
		name      string
		serve     http.HandlerFunc // nil refuses connections
		base      func(*testing.T) http.RoundTripper
		change    func(*http.Request)
		failures  int
		refreshed bool
	}{
		{"200", answer(200), plain, nil, 0, false},
		{"404", answer(404), plain, nil, 0, false},
		{"500", answer(500), plain, nil, 0, false},
		{"502", answer(502), plain, nil, 3, false},
		{"503", answer(503), plain, nil, 3, false},
		{"504", answer(504), plain, nil, 3, false},
		{"grpc OK", answer(200, "Grpc-Status", "0"), plain, nil, 0, false},
		{"grpc UNAVAILABLE", answer(200, "Grpc-Status", "14"), plain, nil, 3, false},
		{"hangs up", hangUp, plain, nil, 3, true},
		{"refused", nil, plain, nil, defaultFailures, true},
		{"not TLS", answer(200), plain, func(r *http.Request) { r.URL.Scheme = "https" }, defaultFailures, true},
		{"foreign dial error", nil, always(fmt.Errorf("wrapped: %w", &net.OpError{Op: "dial", Err: errors.New("refused")})), nil, defaultFailures, true},
		{"foreign error", nil, always(errors.New("we have no certificate")), nil, 2, false},
		{"denied below", nil, always(gatemesh.Deny(gatemesh.PermissionDenied, "x", "No.")), nil, 2, false},
		{"denied on the way", nil, func(t *testing.T) http.RoundTripper {
			base := newBase(t)
			base.DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, gatemesh.Deny(gatemesh.PermissionDenied, "x", "No.")
			}
			return base
		}, nil, 2, false},
		{"invalid request", answer(200), plain, func(r *http.Request) { r.Header["Bad Name"] = nil }, 2, false},
		{"unreadable body", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, plain, withBody(io.MultiReader(strings.NewReader("x"), failingReader{})), 2, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := closedPort(t)
			if tt.serve != nil {
				addr = serve(t, tt.serve)
			}
			b := &book{addrs: []string{addr, "127.0.0.1:1"}}
			p := newPool(t, b, func(c *Config) { c.Interval, c.Cooldown = time.Hour, time.Millisecond })
			require.NoError(t, p.WaitReady(t.Context()))
			e := at(t, p, addr)
			p.use(p.state.Load().version, []*Endpoint{e}) // no choice
			for range 2 {
				try(t, e, Failure)
			}
			r := request(t, "http://orders/")
			if tt.change != nil {
				tt.change(r)
			}
			resp, err := p.Transport(tt.base(t)).RoundTrip(r)
			if err == nil {
				require.NoError(t, resp.Body.Close())
			}
			s := e.status(time.Now())
			assert.Zero(t, s.InFlight)
			if want := tt.failures; want == defaultFailures {
				assert.True(t, s.Failures == 3, "one endpoint is never out; got %+v", s)
			} else {
				assert.Equal(t, want, s.Failures, "%+v %v", s, err)
			}
			if tt.refreshed {
				assert.Eventually(t, func() bool { return b.times() > 1 }, 10*time.Second, time.Millisecond)
			} else {
				assert.Equal(t, 1, b.times())
			}
		})
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("the client hung up") }

// One that refuses connections is out at once; one that hangs up is not.
func TestUnreachableIsEjectedAtOnce(t *testing.T) {
	t.Parallel()
	good := serve(t, func(http.ResponseWriter, *http.Request) {})
	for _, protocol := range []string{"HTTP/1.1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			bad := closedPort(t)
			base := newBase(t)
			if protocol == "h2c" {
				base.Protocols = new(http.Protocols)
				base.Protocols.SetUnencryptedHTTP2(true)
			}
			p := newPool(t, Static(good, bad), func(c *Config) { c.Ejection.Base, c.Ejection.Max = time.Hour, time.Hour })
			rt := p.Transport(base)
			failed := 0
			for range 100 {
				resp, err := rt.RoundTrip(request(t, "http://orders/"))
				if err != nil {
					require.ErrorContains(t, err, bad)
					failed++
					continue
				}
				assert.Equal(t, protocol == "h2c", resp.ProtoMajor == 2)
				require.NoError(t, resp.Body.Close())
			}
			assert.Equal(t, 1, failed)
			assert.Zero(t, statusOf(t, p, good).Failures)
			assert.NotZero(t, statusOf(t, p, bad).EjectedUntil)
		})
	}
}
