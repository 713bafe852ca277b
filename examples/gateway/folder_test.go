package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh/examples/service/paymentspb"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

// folder is what a team would have in its repository, a file for each kind.
var folder = map[string]string{
	"gateway.yaml": `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main-gateway}
spec:
  gatewayClassName: gatemesh
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all}
spec:
  rules: [{}]
`,
	"httproute.yaml": `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: main-gateway, sectionName: http}]
  hostnames: [shop.example.com]
  rules:
  - matches: [{path: {value: /slow}}]
    timeouts: {request: 100ms}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /flaky}}]
    retry: {codes: [500], attempts: 3, backoff: 1ms}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /rewritten}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: inner.example.com, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-Team, value: shop}], remove: [X-Debug]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {add: [{name: X-Served-By, value: gateway}]}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /moved}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, path: {type: ReplaceFullPath, replaceFullPath: /here}, statusCode: 308}
  - matches: [{path: {value: /mirrored}}]
    filters:
    - type: RequestMirror
      requestMirror: {backendRef: {name: shadow, port: 80}}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /cors}}]
    filters:
    - type: CORS
      cors: {allowOrigins: ["https://app.example.com"], allowMethods: [PUT], maxAge: 60}
    backendRefs: [{name: web, port: 80}]
  - backendRefs: [{name: web, port: 80}]
`,
	"grpcroute.yaml": `
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: payments}
spec:
  parentRefs: [{name: main-gateway, sectionName: https}]
  hostnames: [grpc.example.com]
  rules:
  - matches: [{method: {service: gatemesh.examples.payments.v1.Payments}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-team, value: payments}]}
    backendRefs: [{name: payments, port: 80}]
`,
	"virtualservice.yaml": `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
  - match: [{uri: {prefix: /fault}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: web, subset: v1}}]
  - match: [{uri: {exact: /direct}}]
    directResponse: {status: 503, body: {string: "we are moving"}}
  - route:
    - {destination: {host: web, subset: v1}, weight: 100}
    - {destination: {host: web, subset: v2}, weight: 0}
`,
	"destinationrule.yaml": `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
`,
}

// web is a real upstream: slow, flaky, and able to switch protocols.
func web(t *testing.T, version string, flaky *atomic.Int64) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/slow":
			<-r.Context().Done()
		case r.URL.Path == "/flaky" && flaky.Add(1)%3 != 0:
			w.WriteHeader(http.StatusInternalServerError)
		case r.Header.Get("Upgrade") == "websocket":
			echo(w)
		default:
			w.Header().Set("X-Version", version)
			_, _ = fmt.Fprintf(w, "%s %s team=%s debug=%s", r.Host, r.URL.Path, r.Header.Get("X-Team"), r.Header.Get("X-Debug"))
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// echo switches to a protocol in which the server says what it hears.
func echo(w http.ResponseWriter) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_ = rw.Flush()
	_, _ = io.Copy(conn, rw)
}

// payments is a real gRPC server, without TLS.
type payments struct {
	paymentspb.UnimplementedPaymentsServer
}

func (payments) Charge(ctx context.Context, r *paymentspb.ChargeRequest) (*paymentspb.ChargeResponse, error) {
	if r.GetPayment() == "none" {
		return nil, status.Error(codes.NotFound, "there is no such payment")
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return &paymentspb.ChargeResponse{Payment: r.GetPayment(), Caller: strings.Join(md.Get("x-team"), ",")}, nil
}

func (payments) Watch(_ *paymentspb.WatchRequest, s grpc.ServerStreamingServer[paymentspb.WatchResponse]) error {
	for _, state := range []string{"authorized", "captured", "settled"} {
		if err := s.Send(&paymentspb.WatchResponse{State: state}); err != nil {
			return err
		}
	}
	return nil
}

func servePayments(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer()
	paymentspb.RegisterPaymentsServer(s, payments{})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); assert.NoError(t, <-ended) })
	return "h2c://" + l.Addr().String()
}

// TestFolder runs the gateway on a folder of manifests in front of real
// upstreams, and has each of their features happen to real clients.
func TestFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name, text string) {
		next := filepath.Join(dir, "next")
		require.NoError(t, os.WriteFile(next, []byte(text), 0o600))
		require.NoError(t, os.Rename(next, filepath.Join(dir, name)))
	}
	for name, text := range folder {
		put(name, text)
	}
	var flaky atomic.Int64
	copies := make(chan string, 10)
	shadow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case copies <- r.Method + " " + r.URL.Path:
		default:
		}
	}))
	defer shadow.Close()
	var logged log
	ca, err := devca.New("public.test")
	require.NoError(t, err)
	certs := t.TempDir()
	site(t, ca, certs, "grpc.example.com")
	o, err := parseFlags([]string{
		"-listen", "80=127.0.0.1:0", "-listen", "443=127.0.0.1:0", "-tls-dir", certs, "-manifests", dir,
		"-upstream", "web/v1=" + web(t, "v1", &flaky), "-upstream", "web/v2=" + web(t, "v2", &flaky),
		"-upstream", "shadow=" + shadow.URL, "-upstream", "payments=" + servePayments(t),
	}, nil)
	require.NoError(t, err)
	quickly(o)
	addrs := serveWith(t, o, &logged)
	public := addrs["public 80"].String()
	client := noRedirects(plainClient(t))
	try := func(method, path string, header http.Header) (resp *http.Response, body string, err error) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+public+path, http.NoBody)
		if err != nil {
			return nil, "", err
		}
		r.Host, r.Header = "shop.example.com", header.Clone()
		if resp, err = client.Do(r); err != nil {
			return nil, "", err
		}
		all, err := io.ReadAll(resp.Body)
		return resp, string(all), errors.Join(err, resp.Body.Close())
	}
	ask := func(method, path string, header http.Header) (*http.Response, string) {
		resp, body, err := try(method, path, header)
		require.NoError(t, err)
		return resp, body
	}

	t.Run("timeout", func(t *testing.T) {
		resp, _ := ask("GET", "/slow", http.Header{})
		assert.Equal(t, 504, resp.StatusCode)
	})
	t.Run("retry", func(t *testing.T) {
		resp, _ := ask("GET", "/flaky", http.Header{})
		assert.Equal(t, 200, resp.StatusCode)
		assert.EqualValues(t, 3, flaky.Load())
		resp, _ = ask("POST", "/flaky", http.Header{})
		assert.Equal(t, 500, resp.StatusCode, "what may not be made twice")
		assert.EqualValues(t, 4, flaky.Load())
	})
	t.Run("rewrite and header fields", func(t *testing.T) {
		resp, body := ask("GET", "/rewritten/1", http.Header{"X-Team": {"mine"}, "X-Debug": {"1"}})
		assert.Equal(t, "inner.example.com /v2/1 team=shop debug=", body)
		assert.Equal(t, "gateway", resp.Header.Get("X-Served-By"))
	})
	t.Run("redirect", func(t *testing.T) {
		resp, _ := ask("GET", "/moved", http.Header{})
		assert.Equal(t, 308, resp.StatusCode)
		assert.Equal(t, "https://shop.example.com/here", resp.Header.Get("Location"))
	})
	t.Run("mirror", func(t *testing.T) {
		resp, body := ask("GET", "/mirrored", http.Header{})
		assert.Equal(t, 200, resp.StatusCode)
		assert.Contains(t, body, "/mirrored", "of the upstream, not of the mirror")
		select {
		case got := <-copies:
			assert.Equal(t, "GET /mirrored", got)
		case <-time.After(30 * time.Second):
			assert.Fail(t, "no copy has arrived")
		}
	})
	t.Run("CORS", func(t *testing.T) {
		preflight := func(origin string) string {
			resp, _ := ask("OPTIONS", "/cors", http.Header{"Origin": {origin}, "Access-Control-Request-Method": {"PUT"}})
			return resp.Header.Get("Access-Control-Allow-Origin")
		}
		assert.Equal(t, "https://app.example.com", preflight("https://app.example.com"))
		assert.Empty(t, preflight("https://attacker.example"))
		resp, _ := ask("GET", "/cors", http.Header{"Origin": {"https://app.example.com"}})
		assert.Equal(t, "https://app.example.com", resp.Header.Get("Access-Control-Allow-Origin"))
	})
	t.Run("fault", func(t *testing.T) {
		resp, _ := ask("GET", "/fault", http.Header{})
		assert.Equal(t, 418, resp.StatusCode)
	})
	t.Run("direct response", func(t *testing.T) {
		resp, body := ask("GET", "/direct", http.Header{})
		assert.Equal(t, 503, resp.StatusCode)
		assert.Equal(t, "we are moving", body)
	})
	t.Run("gRPC", func(t *testing.T) { callPayments(t, ca, addrs["public 443"].String()) })
	t.Run("websocket", func(t *testing.T) { switchProtocols(t, public) })

	// F-12: from v1 to v2 in ten steps under load, and no request is lost.
	t.Run("F12_reload", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var wg sync.WaitGroup
		var done, v2 atomic.Int64
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					resp, body, err := try("GET", "/", http.Header{})
					if !assert.NoError(t, err) || !assert.Equal(t, 200, resp.StatusCode, body) {
						return
					}
					done.Add(1)
					if resp.Header.Get("X-Version") == "v2" {
						v2.Add(1)
					}
				}
			})
		}
		for i := 1; i <= 10; i++ {
			put("virtualservice.yaml", strings.NewReplacer("weight: 100", fmt.Sprint("weight: ", 100-10*i), "weight: 0", fmt.Sprint("weight: ", 10*i)).Replace(folder["virtualservice.yaml"]))
			until(t, "not followed", func() bool { return logged.count("manifests are in use") == i })
			before := done.Load()
			until(t, "the load stands still", func() bool { return done.Load() >= before+20 })
		}
		cancel()
		wg.Wait()
		assert.GreaterOrEqual(t, done.Load(), int64(200))
		assert.Positive(t, v2.Load())
		resp, _ := ask("GET", "/", http.Header{})
		assert.Equal(t, "v2", resp.Header.Get("X-Version"))
	})
}

// callPayments calls over gRPC, unary and streaming, what is routed and what is
// not.
func callPayments(t *testing.T, ca *devca.CA, public string) {
	conn, err := grpc.NewClient(public, grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(ca.Pool(), "grpc.example.com")))
	require.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := paymentspb.NewPaymentsClient(conn)
	resp, err := c.Charge(metadata.AppendToOutgoingContext(ctx, "x-team", "mine"), &paymentspb.ChargeRequest{Payment: "1"})
	require.NoError(t, err)
	assert.Equal(t, "payments", resp.GetCaller(), "the route sets it")
	_, err = c.Charge(ctx, &paymentspb.ChargeRequest{Payment: "none"})
	assert.Equal(t, codes.NotFound, status.Code(err))
	assert.ErrorContains(t, err, "there is no such payment")
	stream, err := c.Watch(ctx, &paymentspb.WatchRequest{})
	require.NoError(t, err)
	var states []string
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		states = append(states, m.GetState())
	}
	assert.Equal(t, []string{"authorized", "captured", "settled"}, states)
	err = conn.Invoke(ctx, "/gatemesh.examples.refunds.v1.Refunds/Refund", &paymentspb.ChargeRequest{}, &paymentspb.ChargeResponse{})
	assert.Equal(t, codes.Unimplemented, status.Code(err), "no route")
}

// switchProtocols has the upstream say what a client of another protocol says.
func switchProtocols(t *testing.T, public string) {
	conn, err := net.DialTimeout("tcp", public, 30*time.Second)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: shop.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	for _, text := range []string{"one", "two"} {
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
		got := make([]byte, len(text))
		_, err = io.ReadFull(r, got)
		require.NoError(t, err)
		assert.Equal(t, text, string(got))
	}
}
