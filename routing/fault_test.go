package routing_test

import (
	"context"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
)

func TestFaultShares(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		percent, chance float64
		aborted         bool
	}{{0, 0, false}, {100, 0.999999, true}, {10, 0.0999, true}, {10, 0.1, false}, {0.01, 0.00009, true}, {0.01, 0.0001, false}} {
		log := &recorder{}
		h := filtered{upstream: answering, random: func() float64 { return tt.chance }, cfg: routing.Config{Observer: log},
			route: routing.Route{Filters: routing.Filters{Fault: &routing.Fault{AbortStatus: 418, AbortPercent: tt.percent}}}}.handler(t)
		resp := do(t, h, "GET", "/")
		if !tt.aborted {
			assert.Equal(t, 200, resp.StatusCode, "%v", tt)
			assert.Empty(t, log.kind(gatemesh.EventNotice))
			continue
		}
		assert.Equal(t, 418, resp.StatusCode, "%v", tt)
		assert.Equal(t, "fault_injected", reason(t, resp))
		require.Len(t, log.kind(gatemesh.EventNotice), 1, "nobody is to search for days")
		assert.Equal(t, "fault", log.kind(gatemesh.EventNotice)[0].Layer)
	}
}

func TestFaultSpeaksGRPC(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fault     routing.Fault
		http      int
		grpc      string
		outbounds int
	}{
		{routing.Fault{AbortStatus: 503, AbortPercent: 100}, 503, "14", 0},
		{routing.Fault{AbortCode: gatemesh.PermissionDenied, AbortPercent: 100}, 403, "7", 0},
		{routing.Fault{AbortCode: gatemesh.Unavailable, AbortStatus: 500, AbortPercent: 100}, 500, "14", 0},
	} {
		asked := 0
		h := filtered{upstream: answering, route: routing.Route{Filters: routing.Filters{Fault: &tt.fault}},
			cfg: routing.Config{Outbound: []gatemesh.Layer{layer("breaker", func(context.Context, *gatemesh.Call) (gatemesh.Admission, error) {
				asked++
				return gatemesh.Admission{}, nil
			})}}}.handler(t)
		assert.Equal(t, tt.http, do(t, h, "POST", "/").StatusCode)
		req := httptest.NewRequest("POST", "/", nil)
		req.Header.Set("Content-Type", "application/grpc")
		req.ProtoMajor = 2
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		assert.Equal(t, 200, w.Code)
		assert.Equal(t, tt.grpc, w.Header().Get("Grpc-Status"))
		assert.Zero(t, asked, "no breaker learns of it")
	}
}

// TestFaultDelay: a delayed call costs no more than the caller or the timeout
// gives it.
func TestFaultDelay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name            string
		timeout, within time.Duration
		leaves          bool
		status          int
		after           time.Duration
	}{
		{"delayed", 0, 0, false, 200, 5 * time.Second},
		{"delayed in time", 6 * time.Second, 0, false, 200, 5 * time.Second},
		{"timeout", time.Second, 0, false, 504, time.Second},
		{"caller's deadline", 0, 2 * time.Second, false, 504, 2 * time.Second},
		{"caller leaves", 0, 3 * time.Second, true, 499, 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := filtered{upstream: answering, route: routing.Route{Timeout: tt.timeout,
					Filters: routing.Filters{Fault: &routing.Fault{Delay: 5 * time.Second, DelayPercent: 100}}}}.handler(t)
				req := httptest.NewRequest("GET", "/", nil)
				if tt.within > 0 {
					ctx, cancel := context.WithCancel(req.Context())
					if !tt.leaves {
						ctx, cancel = context.WithTimeout(req.Context(), tt.within)
					} else {
						time.AfterFunc(tt.within, cancel)
					}
					defer cancel()
					req = req.WithContext(ctx)
				}
				start := time.Now()
				w := httptest.NewRecorder()
				h.ServeHTTP(w, req)
				assert.Equal(t, tt.status, w.Code)
				assert.Equal(t, tt.after, time.Since(start))
			})
		})
	}
}
