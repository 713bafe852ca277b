package routing_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

const handshake = "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"

// switching is an upstream that switches to any protocol, and then echoes.
var switching = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		echo(w, r)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + r.Header.Get("Upgrade") +
		"\r\nX-Request-Id: theirs\r\n\r\n")
	_ = rw.Flush()
	_, _ = io.Copy(conn, rw)
})

// finished is an Observer for waiting for the end of a call.
type finished chan gatemesh.Outcome

func (f finished) Observe(_ context.Context, e gatemesh.Event) {
	if e.Kind == gatemesh.EventFinished {
		f <- e.Outcome
	}
}

func TestPX03_Websocket(t *testing.T) {
	t.Parallel()
	ended := make(finished, 1)
	url := gateway{upstream: serve(t, switching), entry: gatemesh.EntryConfig{Observer: ended}}.start(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, strings.ReplaceAll("GET / HTTP/1.1\nHost: h\n"+handshake+"\n", "\n", "\r\n"))
	require.NoError(t, err)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	assert.Equal(t, "websocket", resp.Header.Get("Upgrade"))
	assert.NotEqual(t, "theirs", resp.Header.Get("X-Request-Id"))
	for _, msg := range []string{"one\n", "two\n"} {
		_, err = io.WriteString(conn, msg)
		require.NoError(t, err)
		got, err := br.ReadString('\n')
		require.NoError(t, err)
		assert.Equal(t, msg, got)
	}
	require.NoError(t, conn.Close())
	assert.Equal(t, http.StatusSwitchingProtocols, (<-ended).Status, "the call ends with its connection")
}

func TestPX02_OnlyWebsocketIsUpgraded(t *testing.T) {
	t.Parallel()
	url := gateway{upstream: serve(t, switching)}.start(t)
	tests := []struct{ name, request string }{
		{"h2c", "GET / HTTP/1.1\nHost: h\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\n\n"},
		{"h2c, settings not nominated", "GET / HTTP/1.1\nHost: h\nConnection: Upgrade\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\n\n"},
		{"TLS", "GET / HTTP/1.1\nHost: h\nConnection: Upgrade\nUpgrade: TLS/1.0\n\n"},
		{"not ASCII", "GET / HTTP/1.1\nHost: h\nConnection: Upgrade\nUpgrade: \xff\n\n"},
		{"websocket, wrong version", "GET / HTTP/1.1\nHost: h\n" + strings.Replace(handshake, "13", "8", 1) + "\n"},
		{"websocket, no key", "GET / HTTP/1.1\nHost: h\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\n"},
		{"websocket by POST", "POST / HTTP/1.1\nHost: h\nContent-Length: 0\n" + handshake + "\n"},
		{"websocket by HTTP/1.0", "GET / HTTP/1.0\nHost: h\n" + handshake + "\n"},
		{"websocket and h2c", "GET / HTTP/1.1\nHost: h\n" + strings.Replace(handshake, "websocket", "websocket, h2c", 1) + "\n"},
		{"websocket and another field", "GET / HTTP/1.1\nHost: h\nUpgrade: h2c\n" + handshake + "\n"},
		{"websocket and settings", "GET / HTTP/1.1\nHost: h\nHTTP2-Settings: AAMAAABk\n" + handshake + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := rawSeen(t, url, tt.request)
			for _, name := range []string{"Upgrade", "Connection", "Http2-Settings"} {
				assert.NotContains(t, got.Header, name)
			}
		})
	}
}

// TestUnasked101: an upstream must not take over a connection that the client
// did not offer.
func TestUnasked101(t *testing.T) {
	t.Parallel()
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_ = conn.Close()
	}))
	resp := raw(t, gateway{upstream: up}.start(t), "GET / HTTP/1.1\nHost: h\n\n")
	assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
}

// http2Client speaks unencrypted HTTP/2.
func http2Client() *http.Transport {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return tr
}

func TestTrailersAndGRPC(t *testing.T) {
	t.Parallel()
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Announced")
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Seen", r.Proto+" te="+r.Header.Get("Te"))
		_, _ = io.WriteString(w, "message")
		w.Header().Set("Announced", "1")
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}))
	url := gateway{upstream: up}.start(t)
	tests := []struct {
		name        string
		tr          *http.Transport
		contentType string
		want        string
	}{
		{"gRPC goes on by HTTP/2", http2Client(), "application/grpc+proto", "HTTP/2.0 te=trailers"},
		{"the rest by HTTP/1.1", http2Client(), "text/plain", "HTTP/1.1 te=trailers"},
		{"from HTTP/1.1", &http.Transport{}, "text/plain", "HTTP/1.1 te=trailers"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			defer tt.tr.CloseIdleConnections()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/pkg.Service/Method", strings.NewReader("x"))
			require.NoError(t, err)
			req.Header.Set("Content-Type", tt.contentType)
			req.Header.Set("Te", "trailers")
			resp, err := tt.tr.RoundTrip(req)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			assert.Equal(t, "message", string(body))
			assert.Equal(t, tt.want, resp.Header.Get("Seen"))
			assert.Equal(t, http.Header{"Announced": {"1"}, "Grpc-Status": {"0"}}, resp.Trailer)
		})
	}
}

func TestGRPCDenial(t *testing.T) {
	t.Parallel()
	tr := http2Client()
	defer tr.CloseIdleConnections()
	url := gateway{upstream: "http://127.0.0.1:1"}.start(t) // nobody listens on port 1
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/pkg.Service/Method", strings.NewReader("x"))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := tr.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	assert.Equal(t, "14", resp.Header.Get("Grpc-Status"))
}

func TestBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		for lines := bufio.NewReader(r.Body); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, "got "+line)
			_ = http.NewResponseController(w).Flush()
		}
	}))
	tr := http2Client()
	defer tr.CloseIdleConnections()
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, gateway{upstream: up}.start(t)+"/pkg.Service/Bidi", pr)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/grpc")
	go func() { _, _ = io.WriteString(pw, "0\n") }() // the answer begins with the first message
	resp, err := tr.RoundTrip(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		got, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "got "+strconv.Itoa(i)+"\n", got)
		_, err = io.WriteString(pw, strconv.Itoa(i+1)+"\n")
		require.NoError(t, err)
	}
	require.NoError(t, pw.Close())
	_, err = io.ReadAll(lines)
	require.NoError(t, err)
}
