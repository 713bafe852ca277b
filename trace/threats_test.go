package trace_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/race"
	"github.com/gatemesh-go/gatemesh/trace"
)

// TestTR03_NoSecretInSpans: whatever a call carries and however it ends, none
// of it is in a span or a line.
func TestTR03_NoSecretInSpans(t *testing.T) {
	t.Parallel()
	user := gate("auth", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
		return gatemesh.Admission{Consumed: []string{"Authorization"}, Principal: gatemesh.NewPrincipal(gatemesh.PrincipalInfo{
			Subject: "SECRET-subject", Consumer: "SECRET-consumer", Claims: map[string]any{"email": "SECRET-claim"}})}, nil
	})
	fails := func(err error) gatemesh.Layer {
		return gate("fails", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
			if err == nil {
				panic("SECRET-panic")
			}
			return gatemesh.Admission{}, err
		})
	}
	s := newSpans()
	tr := tracer(t, trace.Config{TracerProvider: s})
	rt := &roundTrips{statuses: []int{503, 200}}
	out := outbound(t, tr.Span(), retry(2), tr.Inject()).Transport(rt)
	var log bytes.Buffer
	logger := slog.New(trace.LogHandler(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	n := 0
	for _, layers := range [][]gatemesh.Layer{
		{tr.Layer(), user},
		{user, tr.Layer()},
		{tr.Layer(), user, fails(gatemesh.Deny(gatemesh.Unauthenticated, "no", "No.").WithCause(errors.New("SECRET-cause")))},
		{tr.Layer(), fails(errors.New("SECRET-error"))},
		{tr.Layer(), user, fails(nil)},
	} {
		for _, h := range []http.HandlerFunc{
			noContent,
			func(http.ResponseWriter, *http.Request) { panic("SECRET-panic") },
			func(w http.ResponseWriter, r *http.Request) {
				logger.InfoContext(r.Context(), "handler")
				w.Header().Set("Set-Cookie", "SECRET-set-cookie")
				send(t, r.Context(), out, "Authorization", "SECRET-bearer", "Cookie", "SECRET-cookie")
			},
		} {
			r := request("Authorization", "Bearer SECRET-bearer", "Cookie", "SECRET-cookie", "X-Api-Key", "SECRET-key",
				"X-Gatemesh-Identity", "SECRET-identity", "Baggage", "SECRET-baggage=1", "Tracestate", "secret=SECRET", "Traceparent", "SECRET")
			r.URL.RawQuery = "api_key=SECRET-query"
			r.URL.Path = "/SECRET-path"
			chain(t, layers...).Handler(h).ServeHTTP(httptest.NewRecorder(), r)
			n++
		}
	}
	assert.Greater(t, len(s.all()), n)
	for _, span := range s.all() {
		assert.NotContains(t, fmt.Sprintf("%+v", span), "SECRET", span.Name)
	}
	assert.NotEmpty(t, log.String())
	assert.NotContains(t, log.String(), "SECRET")
	for _, v := range []any{tr, *gatemesh.Must(gatemesh.NewCall(gatemesh.CallInfo{}))} {
		assert.NotContains(t, fmt.Sprintf("%+v", v), "SECRET")
	}
}

// nameSampler counts the names it is asked about.
type nameSampler struct {
	mu    sync.Mutex
	names map[string]bool
}

func (n *nameSampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[p.Name] = true
	return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
}
func (*nameSampler) Description() string { return "names" }

// nameProcessor counts the names that spans ended with.
type nameProcessor struct{ nameSampler }

func (n *nameProcessor) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (n *nameProcessor) OnEnd(s sdktrace.ReadOnlySpan) {
	n.ShouldSample(sdktrace.SamplingParameters{Name: s.Name()})
}
func (*nameProcessor) Shutdown(context.Context) error   { return nil }
func (*nameProcessor) ForceFlush(context.Context) error { return nil }

// TestTR04_SpanNames: 100,000 paths, hosts and methods that callers invent give
// a handful of names, over HTTP and as gRPC over net/http, and of series; for
// all components together see TestTR04_MetricSeries.
func TestTR04_SpanNames(t *testing.T) {
	t.Parallel()
	calls := race.Fewer(100_000)
	started := &nameSampler{names: map[string]bool{}}
	ended := &nameProcessor{nameSampler{names: map[string]bool{}}}
	tr := tracer(t, trace.Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(started), sdktrace.WithSpanProcessor(ended))})
	p := newMeter()
	h := observed(t, newMetrics(t, trace.MetricsConfig{MeterProvider: p}), tr.Layer()).Handler(noContent)
	word := func() string { return fmt.Sprintf("%X", rand.Uint64()) }
	for i := range calls {
		r := httptest.NewRequest(http.MethodGet, "/"+word(), nil)
		r.Host, r.Header["User-Agent"] = word()+".example", []string{word()}
		switch i % 4 {
		case 0:
			r.Method = strings.Map(func(r rune) rune { return 'A' + r%26 }, word())
		case 1:
			r.Method, r.ProtoMajor, r.Header["Content-Type"] = "POST", 2, []string{"application/grpc"}
			r.URL.Path = "/" + word() + "." + word() + "/" + word()
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	want := map[string]bool{"GET": true, "HTTP": true, "grpc": true}
	assert.Equal(t, want, started.names)
	assert.Equal(t, want, ended.names)
	assert.Equal(t, map[string]float64{
		"server.call.duration[code_class:2xx destination:unknown protocol:http source:unknown]": float64(calls / 4 * 3),
		"server.call.duration[code_class:2xx destination:unknown protocol:grpc source:unknown]": float64(calls / 4),
	}, p.collect(t))
}

// TestConcurrent uses everything at once, while the configuration changes.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	s := newSpans()
	tr := tracer(t, trace.Config{TracerProvider: s})
	out := outbound(t, tr.Span(), retry(3), tr.Inject())
	var log lockedBuffer
	logger := slog.New(trace.LogHandler(slog.NewTextHandler(&log, nil))).WithGroup("g")
	h := chain(t, tr.Layer()).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		logger.InfoContext(r.Context(), "m")
		rt := &roundTrips{statuses: []int{503}}
		send(t, r.Context(), out.Transport(rt))
		id := oteltrace.SpanContextFromContext(r.Context()).TraceID().String()
		assert.Equal(t, id, rt.headers[1].Get("Traceparent")[3:35])
	}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				h.ServeHTTP(httptest.NewRecorder(), request("Traceparent", traceparent, "Baggage", "a=1"))
			}
		})
	}
	wg.Go(func() {
		for i := range 200 {
			assert.NoError(t, tr.Update(trace.Config{TracerProvider: s, DisableLinks: i%2 == 0}))
		}
	})
	wg.Wait()
	require.Len(t, s.all(), 2*8*200)
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}
