package gatemesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"

	"github.com/gatemesh-go/gatemesh"
)

// whoIs authenticates by a header field, which nothing but an example should do.
func whoIs(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	user, ok := c.Header().Only("X-User")
	if !ok {
		return gatemesh.Admission{}, gatemesh.Deny(gatemesh.Unauthenticated, "user_missing", "Say who you are.")
	}
	return gatemesh.Admission{
		Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{Subject: user, Method: "header"}),
	}, nil
}

func onlyAlice(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	if c.Principal().Subject() != "alice" {
		return gatemesh.Admission{}, gatemesh.Deny(gatemesh.PermissionDenied, "not_alice", "Only Alice may do that.")
	}
	return gatemesh.Admission{}, nil
}

var (
	authLayer = gatemesh.Layer{
		Name: "auth", Gate: gatemesh.GateFunc(whoIs),
		Gives: []gatemesh.Fact{gatemesh.FactPrincipal},
	}
	rulesLayer = gatemesh.Layer{
		Name: "rules", Gate: gatemesh.GateFunc(onlyAlice),
		Needs: []gatemesh.Fact{gatemesh.FactPrincipal}, Gives: []gatemesh.Fact{gatemesh.FactPolicy},
	}
)

func ExampleNewChain() {
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, // whose request ids are kept
	}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, authLayer, rulesLayer))

	handler := chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := gatemesh.FromContext(r.Context())
		fmt.Fprintf(w, "%s %s for %s", call.Method(), call.Path(), call.Principal().Subject())
	}))

	for _, user := range []string{"alice", "mallory"} {
		r := httptest.NewRequest(http.MethodGet, "/%6Frders/1", nil)
		r.Header.Set("X-User", user)
		r.Header.Set("X-Request-Id", "req-of-"+user)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Body)
	}
	// Output:
	// 200 GET /orders/1 for alice
	// 403 {"type":"about:blank","title":"Forbidden","status":403,"detail":"Only Alice may do that.","reason":"not_alice","requestId":"req-of-mallory"}
}

func ExampleNewChain_wrongOrder() {
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	_, err := gatemesh.NewChain(entry, rulesLayer, authLayer)
	fmt.Println(err)
	// Output:
	// gatemesh: chain: "rules" needs the principal that "auth" gives, and must stand after it
}

func ExampleEntry_Handler() {
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, // our load balancer
	}))
	handler := entry.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := gatemesh.FromContext(r.Context())
		fmt.Fprint(w, call.Client(), " asks ", call.Host(), " for ", call.Path())
	}))

	r := httptest.NewRequest(http.MethodGet, "/a%2dz", nil) // from 192.0.2.1
	r.Host = "API.example.com."
	r.Header.Set("X-Forwarded-For", "203.0.113.9")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	fmt.Println(w.Body)

	w = httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/public/..%2fadmin", nil))
	fmt.Println(w.Code)
	// Output:
	// 203.0.113.9 asks api.example.com for /a-z
	// 400
}

func ExampleOutbound_Transport() {
	payments := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "identity %q, token %q", r.Header.Get(gatemesh.IdentityHeader), r.Header.Get("Authorization"))
	}))
	defer payments.Close()
	address, _ := url.Parse(payments.URL)

	outbound := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh: gatemesh.MeshHosts(map[string]gatemesh.Destination{
			address.Host: {Service: "payment-service", Namespace: "production"},
		}),
		Layers: []gatemesh.Layer{{
			Name: "identity",
			Gate: gatemesh.GateFunc(func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
				if c.Destination().Service != "payment-service" {
					return gatemesh.Admission{}, gatemesh.Deny(gatemesh.PermissionDenied, "no_business_there", "Not a callee of ours.")
				}
				return gatemesh.Admission{Header: []gatemesh.Field{{Name: gatemesh.IdentityHeader, Value: "signed by us"}}}, nil
			}),
		}},
	}))
	client := &http.Client{Transport: outbound.Transport(nil)}

	r, _ := http.NewRequest(http.MethodGet, payments.URL, nil)
	r.Header.Set(gatemesh.IdentityHeader, "made up")
	resp, err := client.Do(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s\n", body)
	// Output:
	// identity "signed by us", token ""
}

func ExampleWriteDenial() {
	soldOut := gatemesh.Deny(gatemesh.ResourceExhausted, "sold_out", "Nothing is left for today.").
		WithCause(errors.New("bucket key=alice: 0 tokens")) // for the log alone

	w := httptest.NewRecorder()
	gatemesh.WriteDenial(w, httptest.NewRequest(http.MethodGet, "/", nil), soldOut)
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	fmt.Println(w.Body)
	// Output:
	// 429 application/problem+json
	// {"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Nothing is left for today.","reason":"sold_out"}
}

func ExampleLogHandler() {
	withoutTime := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	logger := slog.New(gatemesh.LogHandler(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime})))

	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, // so that its request id is kept
	}))
	handler := entry.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		logger.InfoContext(r.Context(), "order placed", "order", 17)
	}))

	r := httptest.NewRequest(http.MethodPost, "/orders", nil)
	r.Header.Set(gatemesh.RequestIDHeader, "req-4711")
	handler.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// level=INFO msg="order placed" order=17 request_id=req-4711
}
