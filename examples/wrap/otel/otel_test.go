package otel

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	otelapi "go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/examples/wrap/internal/harness"
	"github.com/gatemesh-go/gatemesh/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// spans is a provider that the services find as the global one.
type spans struct {
	*tracetest.SpanRecorder
	ended chan struct{} // one for each
}

func (s *spans) OnEnd(span sdktrace.ReadOnlySpan) {
	s.SpanRecorder.OnEnd(span)
	s.ended <- struct{}{}
}

func provide(t *testing.T) *spans {
	t.Helper()
	s := &spans{tracetest.NewSpanRecorder(), make(chan struct{}, 100)}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s))
	otelapi.SetTracerProvider(provider)
	otelapi.SetTextMapPropagator(propagation.TraceContext{})
	t.Cleanup(func() { assert.NoError(t, provider.Shutdown(context.WithoutCancel(t.Context()))) })
	return s
}

// wait waits until n spans have ended. That there are no more is certain when
// the servers have stopped.
func (s *spans) wait(t *testing.T, n int) {
	t.Helper()
	enough := time.After(10 * time.Second)
	for range n {
		select {
		case <-s.ended:
		case <-enough:
			require.Fail(t, "a span is missing")
		}
	}
}

type form = func(context.Context, net.Listener, io.Writer, string) error

// start serves a form of the service and returns its URL.
func start(t *testing.T, f form, log io.Writer, next string) string {
	t.Helper()
	return "http://" + harness.Serve(t, func(ctx context.Context, l net.Listener) error { return f(ctx, l, log, next) })
}

// tree returns the spans from the root down, and their kinds. It checks that
// there is one root.
func tree(t *testing.T, all []sdktrace.ReadOnlySpan) (ordered []sdktrace.ReadOnlySpan, kinds []string) {
	t.Helper()
	children := map[oteltrace.SpanID][]sdktrace.ReadOnlySpan{}
	for _, s := range all {
		children[s.Parent().SpanID()] = append(children[s.Parent().SpanID()], s)
		assert.Equal(t, all[0].SpanContext().TraceID(), s.SpanContext().TraceID())
	}
	next := []oteltrace.SpanID{{}}
	for len(next) > 0 {
		for _, s := range children[next[0]] {
			ordered, kinds = append(ordered, s), append(kinds, s.SpanKind().String())
			next = append(next, s.SpanContext().SpanID())
		}
		next = next[1:]
	}
	assert.Len(t, children[oteltrace.SpanID{}], 1)
	assert.Len(t, kinds, len(all), "a span has lost its parent")
	return ordered, kinds
}

// TestOneSpanAHop: each hop is one client span and one server span, the latter
// the child of the former, before and after. After, the log knows them.
func TestOneSpanAHop(t *testing.T) {
	for name, f := range map[string]form{"before": Before, "after": After, "inside": AfterInside} {
		t.Run(name, func(t *testing.T) {
			s := provide(t)
			var log, nextLog harness.Log
			t.Run("call", func(t *testing.T) { // the servers stop with it
				url := start(t, f, &log, start(t, f, &nextLog, ""))
				a := harness.Do(t, "GET", url+"/orders/7")
				assert.Equal(t, "paid", a.Body)
				s.wait(t, 3)
			})
			ordered, kinds := tree(t, s.Ended())
			require.Equal(t, []string{"server", "client", "server"}, kinds)
			for hop, log := range map[int]*harness.Log{0: &log, 2: &nextLog} {
				lines := log.Lines(t)
				if name == "before" {
					require.Len(t, lines, 1)
					assert.Nil(t, lines[0]["trace_id"])
					continue
				}
				require.Len(t, lines, 2, "the service's and ours")
				for _, line := range lines {
					assert.Len(t, line["request_id"], 32, "%v", line)
					if line["msg"] == "call" && name == "inside" {
						assert.Nil(t, line["trace_id"], "the span stands inside of the chain")
						continue
					}
					sc := ordered[hop].SpanContext()
					assert.Equal(t, sc.TraceID().String(), line["trace_id"], "%v", line)
					assert.Equal(t, sc.SpanID().String(), line["span_id"], "%v", line)
				}
			}
			if name == "after" {
				assert.Contains(t, attributes(ordered[0]), "gatemesh.request_id", "we add to the span that we adopt")
			}
		})
	}
}

func attributes(s sdktrace.ReadOnlySpan) (names []string) {
	for _, a := range s.Attributes() {
		names = append(names, string(a.Key))
	}
	return names
}

// TestOrder: what the order decides: whether a refusal is in the trace, and
// whether attempts are spans.
func TestOrder(t *testing.T) {
	for name, tt := range map[string]struct {
		form    form
		refused int // spans of a refused request
		kinds   []string
	}{
		"after":  {After, 1, []string{"server", "client"}},
		"inside": {AfterInside, 0, []string{"server", "client", "client"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := provide(t)
			var calls atomic.Int64
			flaky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if calls.Add(1) == 1 {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			}))
			defer flaky.Close()
			t.Run("calls", func(t *testing.T) {
				url := start(t, tt.form, io.Discard, flaky.URL)
				assert.Equal(t, 200, harness.Do(t, "GET", url+"/orders/7").Status)
				s.wait(t, len(tt.kinds))
				_, kinds := tree(t, s.Ended())
				assert.Equal(t, tt.kinds, kinds)
				for range 4 {
					require.Equal(t, 200, harness.Do(t, "GET", url+"/orders/7").Status)
					s.wait(t, 2)
				}
				assert.Equal(t, http.StatusTooManyRequests, harness.Do(t, "GET", url+"/orders/7").Status)
				s.wait(t, tt.refused)
			})
			assert.Len(t, s.Ended(), len(tt.kinds)+4*2+tt.refused)
		})
	}
}

// TestDouble: our trace layers around otelhttp start spans that it does not
// know of. The example inside leaves them out for that.
func TestDouble(t *testing.T) {
	s := provide(t)
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	tracer := gatemesh.Must(trace.New(trace.Config{}))
	out := gatemesh.Must(gatemesh.NewOutbound(gatemesh.OutboundConfig{
		Mesh:   gatemesh.MeshHosts(map[string]gatemesh.Destination{"127.0.0.1": {Service: "payment-service"}}),
		Layers: []gatemesh.Layer{tracer.Span(), tracer.Inject()},
	}))
	handler := gatemesh.Must(gatemesh.NewChain(entry, tracer.Layer())).Handler(otelhttp.NewHandler(http.NotFoundHandler(), "next"))
	transport := &http.Transport{}
	client := &http.Client{Transport: out.Transport(otelhttp.NewTransport(transport))}
	t.Run("call", func(t *testing.T) {
		url := "http://" + harness.Serve(t, func(ctx context.Context, l net.Listener) error { return serve(ctx, l, handler) })
		resp, err := client.Get(url)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		transport.CloseIdleConnections()
		s.wait(t, 4)
	})
	count := map[oteltrace.SpanKind]int{}
	for _, span := range s.Ended() {
		count[span.SpanKind()]++
	}
	assert.Equal(t, map[oteltrace.SpanKind]int{oteltrace.SpanKindClient: 2, oteltrace.SpanKindServer: 2}, count)
}
