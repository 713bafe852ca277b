package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Upstreams of one name share the calls, and one that is down is not noticed.
func TestUpstreamsOfOneName(t *testing.T) {
	var args []string
	for i := range 2 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) }))
		t.Cleanup(s.Close)
		args = append(args, "-upstream", "default="+s.URL)
	}
	down, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, down.Close()) // refuses connections from here on
	addrs := startGateway(t, append(args, "-upstream", "default=http://"+down.Addr().String())...)
	client := plainClient(t)
	answers := map[string]int{}
	for range 60 {
		resp, body := get(t, client, "http://"+addrs["public"].String()+"/", nil)
		require.Equal(t, 200, resp.StatusCode)
		answers[body]++
	}
	assert.Len(t, answers, 2, "%v", answers)
	assert.Equal(t, 60, answers["0"]+answers["1"])
}

// An upstream at an h2c URL gets HTTP/2 without TLS, alone and among others.
func TestH2CUpstreams(t *testing.T) {
	h2c := func() string {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
		t.Cleanup(s.Close)
		return "h2c://" + s.Listener.Addr().String()
	}
	for name, args := range map[string][]string{
		"one": {"-upstream", "default=" + h2c()},
		"two": {"-upstream", "default=" + h2c(), "-upstream", "default=" + h2c()},
	} {
		t.Run(name, func(t *testing.T) {
			addrs := startGateway(t, args...)
			resp, body := get(t, plainClient(t), "http://"+addrs["public"].String()+"/", nil)
			assert.Equal(t, 200, resp.StatusCode)
			assert.Equal(t, "HTTP/2.0", body)
		})
	}
}
