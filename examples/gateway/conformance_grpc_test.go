package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// echoService is the service of the suite's backends.
const echoService = "gateway_api_conformance.echo_basic.grpcecho.GrpcEcho"

// newGRPCBackends are the gRPC services of the suite: each says who it is in the
// header, and repeats the metadata that it got with an "x-got-" before the name.
func newGRPCBackends(t *testing.T) (*backends, <-chan string) {
	b, got := &backends{urls: map[string]string{}}, make(chan string, 100)
	for _, name := range grpcServices {
		s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			if !strings.HasPrefix(method, "/"+echoService+"/Echo") {
				return grpcstatus.Error(codes.Unimplemented, "not here")
			}
			select {
			case got <- name + " " + method:
			default:
			}
			in, _ := metadata.FromIncomingContext(stream.Context())
			out := metadata.Pairs("backend", name)
			for k, values := range in {
				if k[0] != ':' && !strings.HasPrefix(k, "grpc-") && k != "content-type" && k != "te" && k != "user-agent" {
					out.Append("x-got-"+k, values...)
				}
			}
			if err := stream.SendHeader(out); err != nil {
				return err
			}
			if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
				return err
			}
			return stream.SendMsg(&emptypb.Empty{})
		}))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }()
		t.Cleanup(func() { s.Stop(); <-done })
		b.urls[name] = "h2c://" + l.Addr().String()
	}
	return b, got
}

var grpcServices = []string{"grpc-v1", "grpc-v2", "grpc-v3"}

// grpcAsk is a call of the suite and what comes of it.
type grpcAsk struct {
	authority, method, header string // method is Echo by default
	to                        string
	code                      codes.Code
	got, lost                 string
}

func (c *conformance) calls(list ...grpcAsk) {
	t := c.t
	for _, a := range list {
		name := a.authority + " " + a.method + " " + a.header
		options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
		if a.authority != "" {
			options = append(options, grpc.WithAuthority(a.authority))
		}
		conn, err := grpc.NewClient(c.addrs["public 80"].String(), options...)
		require.NoError(t, err)
		if a.method == "" {
			a.method = "Echo"
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		for k, v := range fields(a.header) {
			ctx = metadata.AppendToOutgoingContext(ctx, k, v)
		}
		var header metadata.MD
		err = conn.Invoke(ctx, "/"+echoService+"/"+a.method, &emptypb.Empty{}, &emptypb.Empty{}, grpc.Header(&header))
		cancel()
		require.NoError(t, conn.Close())
		assert.Equal(t, a.code, grpcstatus.Code(err), "%s: %v", name, err)
		assert.Equal(t, a.to, strings.Join(header.Get("backend"), ","), name)
		for k, v := range fields(a.got) {
			assert.Equal(t, v, strings.Join(header.Get("x-got-"+k), ","), "%s: %s", name, k)
		}
		for k := range strings.SplitSeq(a.lost, "|") {
			assert.Empty(t, header.Get("x-got-"+k), "%s: %s", name, k)
		}
	}
}

func grpcRoute(name, gateway, spec string) string {
	return routeOf("GRPCRoute", name, suiteNamespace, gateway, spec)
}

func TestConformanceGRPC(t *testing.T) {
	t.Parallel()
	b, got := newGRPCBackends(t)
	method := func(name string) string { return "{method: {service: " + echoService + ", method: " + name + "}}" }
	http80 := "port: 80, protocol: HTTP"
	for _, c := range []struct {
		name, manifests string
		calls           []grpcAsk
	}{
		{"GRPCExactMethodMatching", sameNamespace + grpcRoute("exact", "same-namespace", rules(method("Echo"), "grpc-v1", method("EchoTwo"), "grpc-v2")),
			[]grpcAsk{{method: "Echo", to: "grpc-v1"}, {method: "EchoTwo", to: "grpc-v2"}, {method: "EchoThree", code: codes.Unimplemented}}},
		{"GRPCRouteHeaderMatching", sameNamespace + grpcRoute("headers", "same-namespace", rules(
			"{"+with("version: one")+"}", "grpc-v1", "{"+with("version: two")+"}", "grpc-v2", "{"+with("version: two", "color: orange")+"}", "grpc-v1",
			"{"+with("color: blue")+"}, {"+with("color: green")+"}", "grpc-v1", "{"+with("color: red")+"}, {"+with("color: yellow")+"}", "grpc-v2")),
			[]grpcAsk{
				{header: "Version: one", to: "grpc-v1"}, {header: "Version: two", to: "grpc-v2"}, {header: "Version: two|Color: orange", to: "grpc-v1"},
				{header: "Version: two|Color: blue", to: "grpc-v2"}, {header: "Color: orange", code: codes.Unimplemented},
				{header: "Some-Other-Header: one", code: codes.Unimplemented}, {header: "Color: blue", to: "grpc-v1"}, {header: "Color: green", to: "grpc-v1"},
				{header: "Color: red", to: "grpc-v2"}, {header: "Color: yellow", to: "grpc-v2"}, {header: "Color: purple", code: codes.Unimplemented},
			}},
		{"GRPCRouteListenerHostnameMatching",
			gatewayWith("g", "hostname: bar.com, "+http80, "hostname: foo.bar.com, "+http80, `hostname: "*.bar.com", `+http80, `hostname: "*.foo.com", `+http80) +
				grpcRoute("v1", section("g", 1), rules("", "grpc-v1")) + grpcRoute("v2", section("g", 2), rules("", "grpc-v2")) +
				grpcRoute("v3", section("g", 3)+", "+section("g", 4), rules("", "grpc-v3")),
			[]grpcAsk{
				{authority: "bar.com", to: "grpc-v1"}, {authority: "foo.bar.com", to: "grpc-v2"}, {authority: "baz.bar.com", to: "grpc-v3"},
				{authority: "boo.bar.com", to: "grpc-v3"}, {authority: "multiple.prefixes.bar.com", to: "grpc-v3"}, {authority: "multiple.prefixes.foo.com", to: "grpc-v3"},
				{authority: "foo.com", code: codes.Unimplemented}, {authority: "no.matching.host", code: codes.Unimplemented},
			}},
		{"GRPCRouteNamedRule", sameNamespace + grpcRoute("named", "same-namespace", "  rules:\n    - {name: named-rule, matches: ["+method("Echo")+"], "+to("grpc-v1")+"}\n"+
			"    - {matches: ["+method("EchoTwo")+"], "+to("grpc-v2")+"}\n"),
			[]grpcAsk{{to: "grpc-v1"}, {method: "EchoTwo", to: "grpc-v2"}}},
		{"GRPCRouteRequestHeaderModifier", sameNamespace + grpcRoute("modify", "same-namespace", rules(method("Echo"), filtered(
			"{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set}], add: [{name: X-Header-Add, value: added}], remove: [X-Header-Remove]}}", "grpc-v1"))),
			[]grpcAsk{{header: "x-header-set: a|x-header-add: b|x-header-remove: c|other: d", to: "grpc-v1", got: "x-header-set: set|x-header-add: b,added|other: d", lost: "x-header-remove"}}},
		{"GRPCRouteMultipleRoutesAttachmentSameHostnameIntersection",
			gatewayWith("g", "hostname: abc.example.com, "+http80) +
				strings.Replace(grpcRoute("older", "g", "  hostnames: [\"*.example.com\"]\n"+rules("", "grpc-v1")), "name: older", `creationTimestamp: "2020-01-01T00:00:00Z", name: older`, 1) +
				grpcRoute("newer", "g", "  hostnames: [abc.example.com]\n"+rules("", "grpc-v2")),
			[]grpcAsk{{authority: "abc.example.com", to: "grpc-v2"}}},
		{"the name of a service goes before that of a method, and both before fields", sameNamespace + grpcRoute("order", "same-namespace", rules(
			"{"+with("version: one", "color: blue")+"}", "grpc-v3", "{method: {method: Echo}}", "grpc-v1", "{method: {service: "+echoService+"}}", "grpc-v2")),
			[]grpcAsk{{to: "grpc-v2"}, {method: "EchoTwo", to: "grpc-v2"}, {header: "version: one|color: blue", to: "grpc-v2"}}},
		{"the name of a method goes before fields", sameNamespace + grpcRoute("order", "same-namespace", rules(
			"{"+with("version: one", "color: blue")+"}", "grpc-v3", "{method: {method: Echo}}", "grpc-v1", "{method: {method: EchoTwo}, "+with("version: one")+"}", "grpc-v2", "{method: {method: EchoTwo}}", "grpc-v1")),
			[]grpcAsk{
				{to: "grpc-v1"}, {header: "version: one|color: blue", to: "grpc-v1"}, {method: "EchoTwo", header: "version: one|color: blue", to: "grpc-v2"},
				{method: "EchoTwo", to: "grpc-v1"}, {method: "EchoThree", header: "version: one|color: blue", to: "grpc-v3"}, {method: "EchoThree", code: codes.Unimplemented},
			}},
		{"service and method go before a service with more fields", sameNamespace + grpcRoute("order", "same-namespace", rules(
			"{method: {service: "+echoService+"}, "+with("version: one", "color: blue")+"}", "grpc-v1", method("Echo"), "grpc-v2")),
			[]grpcAsk{{header: "version: one|color: blue", to: "grpc-v2"}, {method: "EchoTwo", header: "version: one|color: blue", to: "grpc-v1"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.serves(t, c.manifests).calls(c.calls...)
		})
	}
	for len(got) > 0 {
		<-got
	}
	t.Run("GRPCRouteRequestMirror", func(t *testing.T) {
		b.serves(t, sameNamespace+grpcRoute("mirror", "same-namespace", rules(method("Echo"),
			filtered("{type: RequestMirror, requestMirror: {backendRef: {name: grpc-v2, port: 8080}}}", "grpc-v1")))).calls(grpcAsk{to: "grpc-v1"})
		seen := map[string]bool{}
		for range 2 {
			select {
			case who := <-got:
				seen[strings.Fields(who)[0]] = true
			case <-time.After(time.Minute):
				t.Fatal("no copy")
			}
		}
		assert.Equal(t, map[string]bool{"grpc-v1": true, "grpc-v2": true}, seen)
	})
	t.Run("GRPCRouteWeight", func(t *testing.T) {
		c := b.serves(t, sameNamespace+grpcRoute("weight", "same-namespace",
			rules("", "backendRefs: [{name: grpc-v1, port: 8080, weight: 70}, {name: grpc-v2, port: 8080, weight: 30}, {name: grpc-v3, port: 8080, weight: 0}]")))
		conn, err := grpc.NewClient(c.addrs["public 80"].String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		defer func() { assert.NoError(t, conn.Close()) }()
		seen := map[string]int{}
		for range 500 {
			var header metadata.MD
			require.NoError(t, conn.Invoke(t.Context(), "/"+echoService+"/Echo", &emptypb.Empty{}, &emptypb.Empty{}, grpc.Header(&header)))
			seen[strings.Join(header.Get("backend"), ",")]++
		}
		assert.InDelta(t, 350, seen["grpc-v1"], 60, "%v", seen)
		assert.Equal(t, 500, seen["grpc-v1"]+seen["grpc-v2"], "%v", seen)
	})
}

// HTTPRouteBackendProtocolWebSocket: a connection that is upgraded carries bytes
// both ways.
func TestConformanceWebSocket(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "websocket", r.Header.Get("Upgrade"))
		conn, rw, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.CopyN(conn, rw, 4)
	}))
	t.Cleanup(s.Close)
	b := &backends{urls: map[string]string{"web": s.URL}}
	c := b.serves(t, sameNamespace+httpRoute("ws", "same-namespace", rules("", "web")))
	conn, err := net.Dial("tcp", c.addrs["public 80"].String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	_, err = io.WriteString(conn, "ping")
	require.NoError(t, err)
	back := make([]byte, 4)
	_, err = io.ReadFull(r, back)
	require.NoError(t, err)
	assert.Equal(t, "ping", string(back))
}
