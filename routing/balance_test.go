package routing_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// onceMore tries everything a second time.
type onceMore struct{}

func (onceMore) Retry(_ context.Context, c *gatemesh.Call, a gatemesh.Attempt) (time.Duration, bool) {
	return 0, a.Code != gatemesh.OK && c.Attempt() < 2
}

// A pool chooses the address, and the upstream's URL is a name alone: also for
// gRPC, which goes over HTTP/2 all the same. A dead endpoint is not noticed.
func TestBalance(t *testing.T) {
	t.Parallel()
	var addrs []string
	for i := range 2 {
		addrs = append(addrs, strings.TrimPrefix(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Replica", fmt.Sprint(i))
			echo(w, r)
		})), "http://"))
	}
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	endpoints, err := pool.New(pool.Config{Name: "users", Resolver: pool.Static(append(addrs, dead.Listener.Addr().String())...)})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, endpoints.Close()) })
	h := gateway{cfg: routing.Config{
		Upstreams: []routing.Upstream{{Service: backend.Service, URL: "http://users.shop:8080", Balance: endpoints.Transport}},
		Outbound:  []gatemesh.Layer{{Name: "retry", Retry: onceMore{}}},
	}}.handler(t)
	replicas := map[string]int{}
	for i := range 40 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		want := "HTTP/1.1"
		if i%2 == 1 {
			r = httptest.NewRequest(http.MethodPost, "/s/M", nil)
			r.ProtoMajor, r.ProtoMinor, want = 2, 0, "HTTP/2.0"
			r.Header.Set("Content-Type", "application/grpc")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, 200, w.Code)
		var s seen
		require.NoError(t, json.NewDecoder(w.Body).Decode(&s), w.Header())
		assert.Equal(t, want, s.Proto)
		assert.Equal(t, "example.com", s.Host)
		replicas[w.Header().Get("X-Replica")]++
	}
	assert.Len(t, replicas, 2)
}

func TestBalance_Nobody(t *testing.T) {
	t.Parallel()
	_, err := routing.New(routing.Config{Upstreams: []routing.Upstream{{
		Service: "a", URL: "http://a", Balance: func(http.RoundTripper) http.RoundTripper { return nil },
	}}})
	assert.EqualError(t, err, "routing: Config.Upstreams[0].Balance returned no transport")
}
