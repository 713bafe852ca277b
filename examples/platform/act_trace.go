package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
)

// actTrace follows one order from the gateway to payment-service, as an
// operator would: by its trace id and its request id.
func actTrace(ctx context.Context, p *platform, r *report) error {
	users, err := p.users("traced", 1)
	if err != nil {
		return err
	}
	p.telemetry.spans.Reset()
	p.telemetry.on.Store(true)
	p.logs.level.Set(slog.LevelDebug)
	defer func() {
		p.telemetry.on.Store(false)
		p.logs.level.Set(slog.LevelInfo)
	}()
	evil := users[0].Clone()
	evil.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	resp, s, err := p.do(ctx, http.MethodPost, "/v1/orders", evil)
	if err != nil {
		return err
	}
	r.same("i", "status", 201, resp.StatusCode)
	id := resp.Header.Get("X-Request-Id")
	r.same("i", "request id at order-service", id, s.RequestID)

	spans := p.telemetry.seen()
	traces := map[string]bool{}
	var path []string
	parent := ""
	for len(path) < len(spans) { // from the root down
		i := slices.IndexFunc(spans, func(s span) bool { return s.parent == parent && !strings.Contains(s.name, "evil") })
		if i < 0 {
			break
		}
		path = append(path, spans[i].service+" "+spans[i].kind)
		parent = spans[i].id
		traces[spans[i].trace] = true
	}
	r.same("i", "spans, each the child of the one before",
		"gateway server → gateway client → order-service server → order-service client → payment-service server", strings.Join(path, " → "))
	r.same("i", "spans in all", 5, len(spans))
	r.same("i", "trace ids", 1, len(traces))
	trace := ""
	for t := range traces {
		trace = t
	}
	r.holds("i", "the trace is ours", "not the client's", trace, trace != "" && trace != "0af7651916cd43dd8448eb211c80319c")

	for _, line := range []struct{ service, msg, layer string }{
		{"gateway", "admitted", "ratelimit consumer"},
		{"gateway", "admitted", "auth"},
		{"order-service", "admitted", "peer"},
		{"order-service", "admitted", "identity"},
		{"payment-service", "admitted", "peer"},
		{"payment-service", "admitted", "policy"},
		{"payment-service", "payment", ""}, // the application's own
	} {
		l := p.logs.newest(func(l logLine) bool {
			return l["service"] == line.service && l["msg"] == line.msg && l["request_id"] == id && (line.layer == "" || l["layer"] == line.layer)
		})
		what := strings.TrimSpace(line.service + ": " + line.msg + " " + line.layer)
		r.same("i", "trace id in the line “"+what+"”", trace, fmt.Sprint(l["trace_id"]))
	}
	return nil
}
