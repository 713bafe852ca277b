package routing_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// rawUpstream answers each request by itself, on a connection of its own.
func rawUpstream(t *testing.T, answer func(io.Writer)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				answer(c)
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	return "http://" + l.Addr().String()
}

// transports are clients of either version.
func transports(t *testing.T) map[string]*http.Transport {
	one, two := &http.Transport{}, &http.Transport{Protocols: new(http.Protocols)}
	two.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(one.CloseIdleConnections)
	t.Cleanup(two.CloseIdleConnections)
	return map[string]*http.Transport{"HTTP/1.1": one, "HTTP/2": two}
}

const forbidden = "Content-Length: 7\r\nTransfer-Encoding: chunked\r\nX-Gatemesh-Identity: evil\r\nX_Gatemesh_Identity: evil\r\n" +
	"X-Request-Id: evil\r\nAccess-Control-Allow-Origin: *\r\nUpgrade: h2c\r\nKeep-Alive: timeout=1\r\nHost: evil\r\nContent-Type: text/html\r\nX-Ok: yes\r\n"

// TestID01_PX04_Trailers: behind an answer, an upstream can neither write fields
// that are ours nor those that frame messages, however it announces them.
func TestID01_PX04_Trailers(t *testing.T) {
	t.Parallel()
	for _, announced := range []string{"", "X-Ok", "X-Ok, X-Gatemesh-Identity, X-Request-Id, Set-Cookie"} {
		up := rawUpstream(t, func(w io.Writer) {
			head := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
			if announced != "" {
				head += "Trailer: " + announced + "\r\n"
			}
			_, _ = io.WriteString(w, head+"\r\n5\r\nhello\r\n0\r\n"+forbidden+"Set-Cookie: a=b\r\nConnection: close\r\n\r\n")
		})
		url := gateway{upstream: up}.start(t)
		for version, tr := range transports(t) {
			req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
			require.NoError(t, err)
			req.Header.Set("Te", "trailers")
			resp, err := tr.RoundTrip(req)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err, "%s: %s", version, announced)
			_ = resp.Body.Close()
			assert.Equal(t, "hello", string(body))
			assert.Equal(t, http.Header{"X-Ok": {"yes"}}, resp.Trailer, "%s: %s", version, announced)
			assert.Len(t, resp.Header["X-Request-Id"], 1)
		}
	}
}

// TestID01_PX04_Interim: nor before it.
func TestID01_PX04_Interim(t *testing.T) {
	t.Parallel()
	up := rawUpstream(t, func(w io.Writer) {
		_, _ = io.WriteString(w, "HTTP/1.1 103 Early Hints\r\nConnection: x-hop\r\nX-Hop: 1\r\nLink: </a>\r\nTrailer: X-A\r\n"+forbidden+
			"\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	})
	url := gateway{upstream: up}.start(t)
	for version, tr := range transports(t) {
		var got []textproto.MIMEHeader
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			got = append(got, h)
			return nil
		}})
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		require.NoError(t, err)
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err, version)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		_ = resp.Body.Close()
		assert.Equal(t, "hello", string(body))
		assert.Equal(t, []textproto.MIMEHeader{{"Link": {"</a>"}, "X-Ok": {"yes"}}}, got, version)
	}
}

// TestF10_InterimFlood: an upstream that sends 1xx answers without end is one that
// cannot be reached.
func TestF10_InterimFlood(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ sends, status int }{{32, 200}, {33, 502}, {1 << 30, 502}} {
		up := rawUpstream(t, func(w io.Writer) {
			for range c.sends {
				if _, err := io.WriteString(w, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"); err != nil {
					return
				}
			}
			_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		})
		got := 0
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
			got++
			return nil
		}})
		req, err := http.NewRequestWithContext(ctx, "GET", gateway{upstream: up}.start(t), nil)
		require.NoError(t, err)
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err)
		_ = resp.Body.Close()
		assert.Equal(t, c.status, resp.StatusCode)
		assert.Equal(t, 32, got)
	}
}

// Trailers of gRPC and of services come through.
func TestTrailersPass(t *testing.T) {
	t.Parallel()
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = fmt.Fprint(w, "hello")
		w.Header().Set("X-Sum", "5")
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"My-Content-Length", "5")
	}))
	for version, tr := range transports(t) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", gateway{upstream: up}.start(t), nil)
		require.NoError(t, err)
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		_ = resp.Body.Close()
		assert.Equal(t, http.Header{"X-Sum": {"5"}, "Grpc-Status": {"0"}, "My-Content-Length": {"5"}}, resp.Trailer, version)
		for name := range resp.Header {
			assert.False(t, gatemesh.CarriesIdentity(name) || strings.HasPrefix(name, "Grpc"), name)
		}
	}
}
