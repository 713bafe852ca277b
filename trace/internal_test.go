package trace

import (
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/gatemesh-go/gatemesh"
)

// TestPlaceholder: an upgrade of otel that moves its private types shows here.
func TestPlaceholder(t *testing.T) {
	t.Parallel()
	assert.True(t, isPlaceholder(otel.GetTracerProvider()))
	assert.True(t, isPlaceholder(otel.GetTextMapPropagator()))
	assert.False(t, isPlaceholder(sdktrace.NewTracerProvider()))
	assert.False(t, isPlaceholder(w3c.TextMapPropagator))
}

// TestConventions: the names are those of the conventions.
func TestConventions(t *testing.T) {
	t.Parallel()
	for ours, theirs := range map[attribute.Key]attribute.Key{
		keyHTTPMethod: semconv.HTTPRequestMethodKey, keyHTTPStatus: semconv.HTTPResponseStatusCodeKey, keyHTTPRoute: semconv.HTTPRouteKey,
		keyScheme: semconv.URLSchemeKey, keyRPCSystem: semconv.RPCSystemNameKey, keyRPCMethod: semconv.RPCMethodKey,
		keyRPCStatus: semconv.RPCResponseStatusCodeKey, keyError: semconv.ErrorTypeKey, keyServer: semconv.ServerAddressKey,
		keyServerPort: semconv.ServerPortKey, keyEndpoint: semconv.NetworkPeerAddressKey, keyEndpointPort: semconv.NetworkPeerPortKey,
		keyPeerName: semconv.ServicePeerNameKey, keyPeerNamespace: semconv.ServicePeerNamespaceKey,
	} {
		assert.Equal(t, theirs, ours)
	}
	assert.Equal(t, "CANCELLED", codeName(gatemesh.Canceled))
	assert.Equal(t, "DEADLINE_EXCEEDED", codeName(gatemesh.DeadlineExceeded))
}

func TestAllowance(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return "k=" + strings.Repeat("v", n-2) }
	for _, tt := range []struct {
		name, list, kept string
	}{
		{"empty", "", ""},
		{"as it is", "a=1,b=2", "a=1,b=2"},
		{"the whole allowance", long(8192), long(8192)},
		{"a byte too many", long(8193), ""},
		{"a second one that does not fit", "a=1," + long(8189), "a=1"},
		{"a second one that just fits", "a=1," + long(8188), "a=1," + long(8188)},
		{"64", strings.Repeat("a=1,", 63) + "a=1", strings.Repeat("a=1,", 63) + "a=1"},
		{"65", strings.Repeat("a=1,", 64) + "a=1", strings.Repeat("a=1,", 63) + "a=1"},
	} {
		left := newAllowance()
		kept, cut := left.take(tt.list)
		assert.Equal(t, tt.kept, kept, tt.name)
		assert.Equal(t, kept != tt.list, cut, tt.name)
	}
}

// TestTR02_Carrier: what a propagator gets to read is bounded, and unambiguous.
func TestTR02_Carrier(t *testing.T) {
	t.Parallel()
	eight := strings.Repeat("a", maxBytes)
	for _, tt := range []struct {
		name, field string
		sent        []string
		get         string
		idsOnly     bool
	}{
		{"one", "traceparent", []string{"x"}, "x", false},
		{"two", "traceparent", []string{"x", "x"}, "", false},
		{"one, from anybody", "traceparent", []string{"x"}, "x", true},
		{"state", "tracestate", []string{"a=1"}, "a=1", false},
		{"state in two fields", "tracestate", []string{"a=1", "b=2"}, "a=1,b=2", false},
		{"much state", "tracestate", []string{eight}, eight, false},
		{"too much state", "tracestate", []string{eight + "a"}, "", false},
		{"too much state in two fields", "tracestate", []string{eight[1:], "a"}, "", false},
		{"state, from anybody", "tracestate", []string{"a=1"}, "", true},
		{"baggage", "baggage", []string{"a=1", "b=2"}, "a=1,b=2", false},
		{"too much baggage", "baggage", []string{"a=1", eight}, "a=1,", false},
		{"baggage, from anybody", "baggage", []string{"a=1"}, "", true},
	} {
		h := http.Header{textproto.CanonicalMIMEHeaderKey(tt.field): tt.sent}
		r := &received{Header: gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Header: h})).Header(), idsOnly: tt.idsOnly}
		assert.Equal(t, tt.get, r.Get(tt.field), tt.name)
		if tt.field == "baggage" {
			assert.Equal(t, tt.get, strings.Join(r.Values(tt.field), ","), tt.name)
		}
	}
}

// TestMethods: which ends of a call show that its method exists.
func TestMethods(t *testing.T) {
	t.Parallel()
	in := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Protocol: gatemesh.GRPC, Path: "/a.B/C"}))
	out := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Protocol: gatemesh.GRPC, Path: "/a.B/C", Parent: in}))
	d := gatemesh.Deny(gatemesh.NotFound, "no", "No.")
	for _, tt := range []struct {
		name string
		call *gatemesh.Call
		o    gatemesh.Outcome
		want bool
	}{
		{"ok", in, gatemesh.Outcome{}, true},
		{"ok of net/http, whatever the trailers say", in, gatemesh.Outcome{Status: 200}, false},
		{"an error of the handler", in, gatemesh.Outcome{Code: gatemesh.Unavailable}, true},
		{"a refusal", in, gatemesh.Outcome{Code: gatemesh.NotFound, Denial: d}, false},
		{"a panic", in, gatemesh.Outcome{Code: gatemesh.Internal, Denial: d, Panicked: true}, true},
		{"gone before the interceptor", in, gatemesh.Outcome{Code: gatemesh.Canceled, Canceled: true}, false},
		{"late before the interceptor", in, gatemesh.Outcome{Code: gatemesh.DeadlineExceeded}, false},
		{"nobody serves it", in, gatemesh.Outcome{Code: gatemesh.Unimplemented}, false},
		{"sent, ok", out, gatemesh.Outcome{Reached: true}, true},
		{"sent, ok by trailers", out, gatemesh.Outcome{Status: 200, Reached: true}, true},
		{"sent, an error of the handler", out, gatemesh.Outcome{Code: gatemesh.NotFound, Reached: true}, true},
		{"sent, an error of a proxy", out, gatemesh.Outcome{Code: gatemesh.NotFound, Status: 404, Reached: true}, false},
		{"sent, refused there", out, gatemesh.Outcome{Code: gatemesh.PermissionDenied, Reached: true}, false},
		{"not sent, ok", out, gatemesh.Outcome{}, false},
		{"not sent", out, gatemesh.Outcome{Code: gatemesh.NotFound, Denial: d}, false},
	} {
		var m methods
		assert.Equal(t, tt.want, m.learn(tt.call, tt.o), tt.name)
		assert.Equal(t, tt.want, m.has("/a.B/C"), tt.name)
	}
	var m methods
	long := gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{Protocol: gatemesh.GRPC, Path: "/" + strings.Repeat("a", maxMethodLen)}))
	assert.False(t, m.learn(long, gatemesh.Outcome{}))
}
