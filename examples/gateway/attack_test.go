package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
)

// reached is what an upstream saw of a request.
type reached struct {
	header, trailer http.Header
	body            string
}

// behindKeys starts a gateway that asks for API keys, and the upstream behind it.
func behindKeys(t *testing.T, args ...string) (dial func() net.Conn, got <-chan reached) {
	c := make(chan reached, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		c <- reached{r.Header, r.Trailer, string(body)}
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	keys := file(t, "keys.txt", "acme-1 acme "+auth.HashKey("secret-of-acme-0123456789")+"\n")
	addrs := startGateway(t, append(args, "-upstream", "default="+s.URL, "-api-keys", keys)...)
	return func() net.Conn {
		conn, err := net.Dial("tcp", addrs["public"].String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second))) // what never comes fails
		return conn
	}, c
}

const admitted = "X-Api-Key: secret-of-acme-0123456789\r\n"

// Who is refused is not told to send his body, and who is admitted is.
func TestExpectContinue(t *testing.T) {
	dial, got := behindKeys(t)
	const post = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"

	conn := dial()
	_, err := io.WriteString(conn, post+"\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	assert.Equal(t, 401, resp.StatusCode, "and no 100 before it")
	assert.True(t, resp.Close, "the body may come or not: there is no next request")
	assert.Empty(t, got)

	conn = dial()
	r := bufio.NewReader(conn)
	for range 2 {
		_, err = io.WriteString(conn, post+admitted+"\r\n")
		require.NoError(t, err)
		resp, err = http.ReadResponse(r, nil)
		require.NoError(t, err)
		require.Equal(t, 100, resp.StatusCode)
		_, err = io.WriteString(conn, "hello")
		require.NoError(t, err)
		resp, err = http.ReadResponse(r, nil)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, "hello", string(body))
		assert.Equal(t, "hello", (<-got).body)
	}
}

// Trailers of requests come after everything was judged, and go no further.
func TestRequestTrailers(t *testing.T) {
	dial, got := behindKeys(t)
	for _, announced := range []string{"", "TE: trailers\r\nTrailer: X-Sum, X-Gatemesh-Identity\r\n"} {
		conn := dial()
		_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\n"+admitted+announced+"Transfer-Encoding: chunked\r\n\r\n"+
			"5\r\nhello\r\n0\r\nX-Sum: 5\r\nX-Gatemesh-Identity: forged\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		r := <-got
		assert.Equal(t, "hello", r.body)
		assert.Empty(t, r.trailer)
		assert.NotContains(t, r.header, gatemesh.IdentityHeader)
		assert.Equal(t, []string{"127.0.0.1"}, r.header["X-Forwarded-For"])
	}
}

// What carries traces goes on from trusted proxies alone, and no more of it than
// a service has to take.
func TestTraceFields(t *testing.T) {
	fields := "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nBaggage: " + strings.Repeat("k=v,", 10_000) + "k=v\r\n" + strings.Repeat("Tracestate: k=v\r\n", 500)
	for _, trusted := range []bool{false, true} {
		t.Run(fmt.Sprintf("trusted %v", trusted), func(t *testing.T) {
			var args []string
			if trusted {
				args = []string{"-trusted-proxies", "127.0.0.1/32"}
			}
			dial, got := behindKeys(t, args...)
			conn := dial()
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n"+admitted+fields+"\r\n")
			require.NoError(t, err)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.Equal(t, 200, resp.StatusCode)
			h := (<-got).header
			assert.NotContains(t, h, "Tracestate")
			if trusted {
				assert.Contains(t, h, "Traceparent")
				assert.Equal(t, []string{strings.TrimSuffix(strings.Repeat("k=v,", 64), ",")}, h["Baggage"])
			} else {
				assert.NotContains(t, h, "Traceparent")
				assert.NotContains(t, h, "Baggage")
			}
		})
	}
}
