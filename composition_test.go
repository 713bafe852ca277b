package gatemesh_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// A callee must not be able to send us on to a third service, which allows us
// what it would refuse the callee.
func TestRedirectIntoTheMesh(t *testing.T) {
	t.Parallel()
	var got []string
	wire := func(r *http.Request) (*http.Response, error) {
		got = append(got, r.URL.Host+r.URL.Path)
		resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r, ProtoMajor: 1}
		switch r.URL.Path {
		case "/sideways":
			resp.StatusCode, resp.Header = 307, http.Header{"Location": {"https://payment.test/v1/payments/1"}}
		case "/home":
			resp.StatusCode, resp.Header = 307, http.Header{"Location": {"/v1/home"}}
		}
		return resp, nil
	}
	asked := 0
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{
			"inventory.test": {Service: "inventory"}, "payment.test": {Service: "payment"},
		}),
		Layers: []gatemesh.Layer{{Name: "count", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			asked++
			return gatemesh.Admission{}, nil
		})}},
	}))
	client := &http.Client{Transport: out.Transport(wireFunc(wire))}
	for _, c := range []struct {
		from    string
		refused bool
		hosts   []string
		asked   int
	}{
		{"https://inventory.test/sideways", true, []string{"inventory.test/sideways"}, 1},
		{"https://outside.test/sideways", true, []string{"outside.test/sideways"}, 0},
		{"https://inventory.test/home", false, []string{"inventory.test/home", "inventory.test/v1/home"}, 2},
	} {
		got, asked = nil, 0
		resp, err := client.Post(c.from, "", strings.NewReader("x"))
		if err == nil {
			require.NoError(t, resp.Body.Close())
		}
		var d *gatemesh.Denial
		if c.refused {
			require.ErrorAs(t, err, &d, c.from)
			assert.Equal(t, "redirect_into_mesh", d.Reason)
		} else {
			require.NoError(t, err, c.from)
		}
		assert.Equal(t, c.hosts, got, c.from)
		assert.Equal(t, c.asked, asked, "no gate gives an identity to a request that is refused: %s", c.from)
	}
}

type wireFunc func(*http.Request) (*http.Response, error)

func (f wireFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A refusal is never a success to a caller that cannot read gRPC trailers.
func TestRefusalOfAFalseGRPCCall(t *testing.T) {
	t.Parallel()
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	h := entry.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("admitted") }))
	for _, c := range []struct {
		method string
		major  int
		status int
	}{{"GET", 1, 400}, {"POST", 1, 400}, {"GET", 2, 400}, {"POST", 2, 200}} {
		r := httptest.NewRequest(c.method, "/a/../b", nil)
		r.ProtoMajor = c.major
		r.Header.Set("Content-Type", "application/grpc")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		assert.Equal(t, c.status, w.Code, "%s HTTP/%d", c.method, c.major)
		assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	}
}

// The credential of the outer of two chains does not go upstream either.
func TestCredentialIsWithheldThroughNestedChains(t *testing.T) {
	t.Parallel()
	auth := gatemesh.Layer{Name: "auth", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Consumed: []string{"Authorization"}}, nil
	})}
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	outer, inner := gatemesh.Must(gatemesh.NewChain(entry, auth)), gatemesh.Must(gatemesh.NewChain(entry))
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{"b.test": {Service: "b"}}),
	}))
	var sent http.Header
	client := &http.Client{Transport: out.Transport(wireFunc(func(r *http.Request) (*http.Response, error) {
		sent = r.Header
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))}
	h := outer.Handler(inner.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		up := gatemesh.Must(http.NewRequestWithContext(r.Context(), http.MethodGet, "https://b.test/", http.NoBody))
		up.Header = r.Header.Clone()
		resp, err := client.Do(up)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	})))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer SECRET")
	r.Header.Set("X-Kept", "yes")
	h.ServeHTTP(httptest.NewRecorder(), r)
	assert.Equal(t, "yes", sent.Get("X-Kept"))
	assert.NotContains(t, sent, "Authorization")
}

// An upload is judged again like a download.
func TestUploadEndsWithTheConsent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(time.Minute)
		gate := gatemesh.Layer{Name: "auth", Gate: gatemesh.GateFunc(func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			return gatemesh.Admission{Until: until}, nil
		})}
		entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
		var got string
		var end error
		h := gatemesh.Must(gatemesh.NewChain(entry, gate)).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			got, end = string(b), err
		}))
		body, w := io.Pipe()
		go func() {
			_, _ = io.WriteString(w, "in time")
			time.Sleep(time.Minute)
			_, _ = io.WriteString(w, "too late")
			_ = w.Close()
		}()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/", body))
		_ = body.Close()
		assert.Equal(t, "in time", got)
		var d *gatemesh.Denial
		require.ErrorAs(t, end, &d)
		assert.Equal(t, gatemesh.Unauthenticated, d.Code)
	})
}

// A client cannot take away what a trusted proxy says about it.
func TestRL01_NominatedForwardedFor(t *testing.T) {
	t.Parallel()
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}))
	r := httptest.NewRequest("GET", "/", nil) // from 192.0.2.1
	r.Header = http.Header{
		"X-Forwarded-For": {"198.51.100.7"}, "X-Forwarded-Proto": {"https"}, "X-Request-Id": {"abc"}, "X-Mine": {"1"},
		"Connection": {"X-Forwarded-For, X-Forwarded-Proto, X-Request-Id, X-Mine"},
	}
	entry.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		c := gatemesh.FromContext(r.Context())
		assert.Equal(t, "198.51.100.7", c.Client().String())
		assert.Equal(t, "https", c.Scheme())
		assert.Equal(t, "abc", c.RequestID())
		assert.NotContains(t, r.Header, "X-Mine")
	})).ServeHTTP(httptest.NewRecorder(), r)
}
