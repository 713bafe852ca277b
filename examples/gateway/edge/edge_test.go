package edge

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
)

var upstreams = []routing.Upstream{{Service: "default", URL: "http://127.0.0.1:1"}}

// A layer that is to be left out and is not there would leave nothing out.
func TestReplaceNamesALayer(t *testing.T) {
	_, err := New(Config{Upstreams: upstreams, Replace: map[string]gatemesh.Gate{"polcy": nil}})
	assert.ErrorContains(t, err, `there is no layer "polcy"`)
}

func TestFaultsAtOnce(t *testing.T) {
	_, err := New(Config{
		Upstreams:   []routing.Upstream{{Service: "default", URL: "ftp://x"}},
		ClientLimit: ratelimit.Limit{Requests: -1, Per: time.Second},
	})
	assert.ErrorContains(t, err, "routing: Config.Upstreams[0].URL")
	assert.ErrorContains(t, err, "ratelimit: Config.Limit.Requests")
}

// Guessing routes is charged like everything else.
func TestUnknownRoutesAreCharged(t *testing.T) {
	g, err := New(Config{Upstreams: upstreams, ClientLimit: ratelimit.Limit{Requests: 2, Per: time.Hour}})
	require.NoError(t, err)
	for _, want := range []int{502, 502, 429} {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/guess", nil))
		assert.Equal(t, want, w.Code)
	}
}
