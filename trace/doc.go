// Package trace says what happened: it starts a span for every call that a
// service receives and one for every call that it makes, carries the trace from
// service to service, puts its ids into log lines, and counts. It uses the OpenTelemetry
// API alone; SDK, sampler and exporter are the application's:
//
//	otel.SetTracerProvider(provider) // before or after New
//	tracer := gatemesh.Must(trace.New(trace.Config{}))
//	chain := gatemesh.Must(gatemesh.NewChain(entry, route.Layer(), tracer.Layer(), auth.Layer(), policy.Layer()))
//	outbound := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
//		Mesh:   mesh,
//		Layers: []gatemesh.Layer{tracer.Span(), retry.Layer(), identity.Layer(), tracer.Inject()},
//	}))
//	slog.SetDefault(slog.New(gatemesh.LogHandler(trace.LogHandler(slog.NewJSONHandler(os.Stdout, nil)))))
//
// Read [Config], [Tracer.Admit], [Tracer.Span] and [Tracer.Inject], in that
// order.
//
// # Order
//
// Inbound, [Tracer.Layer] stands behind the route match, for the name, and
// before everything else, so that the span sees every refusal. It decides from
// memory: grpcmesh asks it in the tap handle. The provider must not wait
// either, when spans start and end; a batching processor does not.
//
// Outbound, [Tracer.Span] stands first and [Tracer.Inject] last: a call has one
// span for all its attempts, which notes their number and the address of the
// last, and each attempt carries it.
//
// # Whom to believe
//
// A trace id, a sampling decision and baggage are wishes of a caller. At the
// edge, callers are anybody: their calls begin traces of their own, sampled as
// the application decides, with a link to the span that the caller named; trace
// state and baggage are dropped. Inside, callers are workloads that mutual TLS
// has verified, or proxies that [gatemesh.EntryConfig] trusts: their traces are
// continued. [Config.Trusted] decides otherwise, for an edge whose partners
// have certificates of the mesh, say.
//
// A header field that is malformed or sent twice counts as not sent. Of
// baggage, 64 members and 8,192 bytes are kept, inbound and outbound.
//
// # What spans say
//
// Names are those of the semantic conventions, and bounded in number whatever
// callers send: the method with the name of the route, as in "GET /v1/users",
// or alone; for gRPC the full method, once a handler has answered to it, and
// "grpc" before and for methods that nobody serves. A handler that knows better
// may set the name of its span.
//
// Attributes are method, status, scheme and route, request id, lane, the
// verified peer, and the reason of a refusal; outbound also the destination, the
// address that answered and the number of attempts. There is no path, query,
// header field, principal or cause of an error among them. The status is Error
// for what is the server's doing (5xx, panics, truncated responses, the
// corresponding codes of gRPC) and, outbound, for every answer that is not a
// success; a caller that went away is noted in gatemesh.canceled.
//
// # Metrics
//
// [Metrics] is an Observer that counts: durations of calls by who called whom,
// route and class of the answer, refusals by reason, further attempts, panics and
// faults. [Metrics.Register] has components asked for their own numbers, as
// the state of breakers or how long a certificate is valid, whenever somebody
// collects. docs/metrics.md lists them all, and says what bounds their number.
//
// Durations do not have the names of the semantic conventions for HTTP and RPC,
// as http.server.request.duration: these are by method and status, which say
// nothing of who calls whom, and stand beside ours if otelhttp or otelgrpc are in
// use, which would count each call twice.
//
// # Beside otelhttp and otelgrpc
//
// Inside of otelhttp.NewHandler or another middleware that starts spans, the
// layer uses the span it finds and starts none; whether its caller may be
// believed has then been decided there (otelhttp.WithPublicEndpointFn). Inside
// of otelhttp.NewTransport, [Tracer.Span] starts none. With the server handler
// of otelgrpc, use grpcmesh.Server.Interceptors and not Options: the tap handle
// runs before any stats handler, and each would start a span.
//
// # Without a provider
//
// As long as neither [Config] nor otel.SetTracerProvider names a provider,
// nothing is extracted or started. Fields then pass through a proxy as they are,
// except those of untrusted callers. Automatic instrumentation by eBPF, which
// needs no provider, is given one: TracerProvider of go.opentelemetry.io/auto/sdk.
package trace
