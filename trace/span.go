package trace

import (
	"context"
	"net"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
)

// The attributes of spans. Those without gatemesh in their name are of the
// OpenTelemetry semantic conventions 1.43. They are spelled out here because
// otel compiles one version of their large package in, and an upgrade of it
// would make that two.
const (
	keyHTTPMethod    = attribute.Key("http.request.method")
	keyHTTPStatus    = attribute.Key("http.response.status_code")
	keyHTTPRoute     = attribute.Key("http.route")
	keyScheme        = attribute.Key("url.scheme")
	keyRPCSystem     = attribute.Key("rpc.system.name")
	keyRPCMethod     = attribute.Key("rpc.method")
	keyRPCStatus     = attribute.Key("rpc.response.status_code")
	keyError         = attribute.Key("error.type")
	keyServer        = attribute.Key("server.address")
	keyServerPort    = attribute.Key("server.port")
	keyEndpoint      = attribute.Key("network.peer.address")
	keyEndpointPort  = attribute.Key("network.peer.port")
	keyPeerName      = attribute.Key("service.peer.name")
	keyPeerNamespace = attribute.Key("service.peer.namespace")

	keyRequestID = attribute.Key("gatemesh.request_id")
	keyPeer      = attribute.Key("gatemesh.peer")
	keyLane      = attribute.Key("gatemesh.lane")
	keyRoute     = attribute.Key("gatemesh.route")
	keyDenial    = attribute.Key("gatemesh.denial")
	keyCanceled  = attribute.Key("gatemesh.canceled")
	keyAttempts  = attribute.Key("gatemesh.attempts")
)

const other = "_OTHER"

var httpMethods = [...]string{"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "QUERY"}

// methodIndex returns len(httpMethods) for a method that is not registered.
func methodIndex(m string) int {
	for i := range httpMethods {
		if httpMethods[i] == m {
			return i
		}
	}
	return len(httpMethods)
}

// options are those to start a span with, by kind, method and scheme, made
// beforehand: samplers see them, and most spans are not sampled.
var options = func() (o [2][len(httpMethods) + 2][3][]trace.SpanStartOption) {
	for k, kind := range [...]trace.SpanKind{trace.SpanKindServer, trace.SpanKindClient} {
		for m := range o[k] {
			for s, scheme := range [...]string{"", "http", "https"} {
				var attrs []attribute.KeyValue
				switch {
				case m < len(httpMethods):
					attrs = append(attrs, keyHTTPMethod.String(httpMethods[m]))
				case m == len(httpMethods):
					attrs = append(attrs, keyHTTPMethod.String(other))
				default:
					attrs = append(attrs, keyRPCSystem.String("grpc"))
				}
				if scheme != "" && m <= len(httpMethods) {
					attrs = append(attrs, keyScheme.String(scheme))
				}
				o[k][m][s] = []trace.SpanStartOption{trace.WithSpanKind(kind), trace.WithAttributes(attrs...)}
			}
		}
	}
	return o
}()

// startOptions returns options that are not to be changed.
func startOptions(c *gatemesh.Call) []trace.SpanStartOption {
	kind, method, scheme := 0, len(httpMethods)+1, 0
	if c.Outbound() {
		kind = 1
	}
	if c.Protocol() != gatemesh.GRPC {
		method = methodIndex(c.Method())
	}
	switch c.Scheme() {
	case "http":
		scheme = 1
	case "https":
		scheme = 2
	}
	return options[kind][method][scheme]
}

// name returns the name of the call's span, of which there is a bounded number
// whatever callers send.
func (t *Tracer) name(c *gatemesh.Call) string {
	if c.Protocol() == gatemesh.GRPC {
		switch {
		case t.methods.has(c.Path()):
			return c.Path()[1:]
		case c.Route() != nil && !c.Outbound():
			return c.Route().Name
		}
		return "grpc"
	}
	method := "HTTP"
	if i := methodIndex(c.Method()); i < len(httpMethods) {
		method = httpMethods[i]
	}
	if c.Route() != nil && !c.Outbound() {
		return method + " " + c.Route().Name
	}
	return method
}

// ender ends the span of a call.
type ender struct {
	t        *Tracer
	span     trace.Span
	name     string
	borrowed bool // somebody else ends it
}

// start starts the span of c.
func (t *Tracer) start(ctx context.Context, by trace.Tracer, c *gatemesh.Call, opts []trace.SpanStartOption) gatemesh.Admission {
	e := &ender{t: t, name: t.name(c)}
	ctx, e.span = by.Start(ctx, e.name, opts...)
	return gatemesh.Admission{Context: ctx, Finish: e}
}

// Finish implements [gatemesh.Finisher].
func (e *ender) Finish(c *gatemesh.Call, o gatemesh.Outcome) {
	known := c.Protocol() == gatemesh.GRPC && e.t.methods.learn(c, o)
	if e.span.IsRecording() {
		var buf [16]attribute.KeyValue
		attrs := append(buf[:0], keyRequestID.String(c.RequestID()))
		attrs = appendKnown(attrs, c, o)
		if !e.borrowed {
			attrs = appendResult(attrs, c, o, known)
			if name := e.t.name(c); name != e.name { // the application's own name stays
				e.span.SetName(name)
			}
			if failure := errorType(c, o); failure != "" {
				attrs = append(attrs, keyError.String(failure))
				e.span.SetStatus(codes.Error, "")
			}
		}
		e.span.SetAttributes(attrs...)
	}
	if !e.borrowed {
		e.span.End()
	}
}

// appendKnown appends what gatemesh alone knows: names of ours and of verified
// workloads, and of a refusal the reason, but not the cause.
func appendKnown(attrs []attribute.KeyValue, c *gatemesh.Call, o gatemesh.Outcome) []attribute.KeyValue {
	if r := c.Route(); r != nil {
		key := keyHTTPRoute
		if c.Protocol() == gatemesh.GRPC {
			key = keyRoute
		}
		attrs = append(attrs, key.String(r.Name))
	}
	if p := c.Peer(); p != nil {
		attrs = append(attrs, keyPeer.String(p.ID()))
	}
	if c.Lane() != "" {
		attrs = append(attrs, keyLane.String(c.Lane()))
	}
	if o.Denial != nil {
		attrs = append(attrs, keyDenial.String(o.Denial.Reason))
	}
	if o.Canceled {
		attrs = append(attrs, keyCanceled.Bool(true))
	}
	return attrs
}

// appendResult appends what any instrumentation says about a call.
func appendResult(attrs []attribute.KeyValue, c *gatemesh.Call, o gatemesh.Outcome, known bool) []attribute.KeyValue {
	if c.Protocol() == gatemesh.GRPC {
		method := other
		if known {
			method = c.Path()[1:]
		}
		attrs = append(attrs, keyRPCMethod.String(method))
		if s := rpcStatus(c, o); s != "" {
			attrs = append(attrs, keyRPCStatus.String(s))
		}
	} else if o.Status != 0 {
		attrs = append(attrs, keyHTTPStatus.Int(o.Status))
	}
	if !c.Outbound() {
		return attrs
	}
	attrs = append(attrs, keyServer.String(c.Host()))
	if d := c.Destination(); d.Service != "" {
		attrs = append(attrs, keyPeerName.String(d.Service))
		if d.Namespace != "" {
			attrs = append(attrs, keyPeerNamespace.String(d.Namespace))
		}
		if d.Port != 0 {
			attrs = append(attrs, keyServerPort.Int(int(d.Port)))
		}
	}
	if o.Endpoint != "" {
		host, port := o.Endpoint, ""
		if h, p, err := net.SplitHostPort(o.Endpoint); err == nil {
			host, port = h, p
		}
		attrs = append(attrs, keyEndpoint.String(host))
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			attrs = append(attrs, keyEndpointPort.Int(int(n)))
		}
	}
	if o.Attempts > 1 {
		attrs = append(attrs, keyAttempts.Int(o.Attempts))
	}
	return attrs
}

// errorType returns the kind of a failure, or "": of a server, what is not its
// caller's doing; of a client, all that is not what it asked for. A caller that
// went away is nobody's failure.
func errorType(c *gatemesh.Call, o gatemesh.Outcome) string {
	switch {
	case o.Panicked:
		return "panic"
	case o.Canceled:
		return ""
	}
	failed := false
	if c.Protocol() == gatemesh.GRPC {
		switch o.Code {
		case gatemesh.OK:
		case gatemesh.Unknown, gatemesh.DeadlineExceeded, gatemesh.Unimplemented, gatemesh.Internal, gatemesh.Unavailable, gatemesh.DataLoss:
			failed = true
		default:
			failed = c.Outbound()
		}
		if failed {
			return codeName(o.Code)
		}
	}
	if o.Status >= 500 || c.Outbound() && o.Status >= 400 {
		return strconv.Itoa(o.Status)
	}
	switch {
	case o.Truncated:
		return "truncated"
	case c.Outbound() && o.Code != gatemesh.OK:
		return o.Code.String()
	}
	return ""
}

// rpcStatus returns the gRPC status in the spelling of the conventions, or "":
// behind net/http it is in trailers that pass us by.
func rpcStatus(c *gatemesh.Call, o gatemesh.Outcome) string {
	if o.Code == gatemesh.OK && o.Status != 0 && !c.Outbound() {
		return ""
	}
	return codeName(o.Code)
}

func codeName(c gatemesh.Code) string {
	if c == gatemesh.Canceled {
		return "CANCELLED"
	}
	return strings.ToUpper(c.String())
}
