package gatemesh_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

func TestHostTransports(t *testing.T) {
	t.Parallel()
	var went string
	to := func(name string) http.RoundTripper {
		return roundTrip(func(*http.Request) (*http.Response, error) {
			went = name
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		})
	}
	m := map[string]http.RoundTripper{"payments": to("payments"), "payments:81": to("81"), "unset": nil}
	rt := gatemesh.HostTransports(m, to("others"))
	clear(m)
	for url, want := range map[string]string{
		"https://payments/": "payments", "https://PAYMENTS.:8443/": "payments", "https://payments:81/": "81",
		"https://payments.evil/": "others", "https://evil/?payments": "others", "https://unset/": "others",
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		require.NoError(t, err)
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, want, went, url)
	}
}
