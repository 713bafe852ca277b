package gatemesh_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh"
)

// rules is a gate with Istio's simplest forms: DENY a prefix, ALLOW a prefix.
func rules(deny, allow string) gatemesh.Layer {
	no := gatemesh.Deny(gatemesh.PermissionDenied, "rules", "Not allowed.")
	return gate("rules", func(_ context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
		if deny != "" && strings.HasPrefix(c.MatchPath(), deny) || !strings.HasPrefix(c.MatchPath(), allow) {
			return gatemesh.Admission{}, no
		}
		return gatemesh.Admission{}, nil
	})
}

// TestAZ01_RawTargets sends what clients and proxies would repair, byte by
// byte, to a server that denies /admin* and to one that allows /public/ alone.
// The handler must never see any of it.
func TestAZ01_RawTargets(t *testing.T) {
	t.Parallel()
	const bad, denied, passes = http.StatusBadRequest, http.StatusForbidden, http.StatusOK
	for _, test := range []struct {
		target string
		status int
	}{
		{"//admin", bad},
		{"/./admin", bad},
		{"/public/../admin", bad},
		{"/public/%2e%2e/admin", bad},
		{"/public/.%2E/admin", bad},
		{"/public/..%2fadmin", bad},
		{"/public/..", bad},
		{"/public//admin", bad},
		{"/%61dmin", denied},
		{"/%61%64%6d%69%6E", denied},
		{"/admin%2f", bad},
		{"/admin/", denied},
		{"/admin/.", bad},
		{"/admin;a=b", bad},
		{"/admin%3Ba=b", bad},
		{"/public/..;/admin", bad},
		{"/public/..;x=1/admin", bad},
		{"/public/..%3B/admin", bad},
		{"/public/%2e%2e%3bx/admin", bad},
		{"/public/.;/admin", bad},
		{"/admin#frag", bad},
		{"/admin%23x", denied},
		{"/admin%3fx", denied},
		{"/admin\\", bad},
		{"/public\\..\\admin", bad},
		{"/public/%2E%2E%5cadmin", bad},
		{"/admin%20", denied},
		{"/admin%09", bad},
		{"/admin|x", denied},
		{"/public/x?y#z", bad},
		{"/admin?/public/x", denied},
		{"http://api.example.com/admin", bad},
		{"http:/admin", bad},
		{"http:///admin", bad},
		{"x:/admin", bad},
		{"x:admin", bad},
		{"*", bad},
		{"admin", bad},
		{"/public/x", passes},
		{"/public/%78", passes},
	} {
		for name, layer := range map[string]gatemesh.Layer{"deny": rules("/admin", "/"), "allow": rules("", "/public/")} {
			t.Run(name+" "+test.target, func(t *testing.T) {
				t.Parallel()
				var handled atomic.Int32
				s := serve(t, chain(gatemesh.EntryConfig{}, layer).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
					handled.Add(1)
				})))
				resp := rawHTTP(t, s, "GET "+test.target+" HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
				assert.Equal(t, test.status, resp.StatusCode)
				assert.Equal(t, test.status == passes, handled.Load() == 1)
			})
		}
	}
}

func TestAZ02_Escapes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		target string
		status int
		seen   string
	}{
		{target: "/a%00", status: 400},
		{target: "/a%0d%0ab", status: 400},
		{target: "/a%7f", status: 400},
		{target: "/%zz", status: 400},
		{target: "/a%", status: 400},
		{target: "/a%2", status: 400},
		{target: "/%c0%af", status: 400},
		{target: "/%ff", status: 400},
		{target: "/%ed%a0%80", status: 400},
		{target: "/\x80", status: 400},
		{target: "/caf\xc3\xa9", status: 400},
		{target: "/a\tb", status: 400},
		{target: "/caf%c3%a9", status: 200, seen: "/caf%C3%A9"},
		{target: "/%252e%252e/admin", status: 200, seen: "/%252e%252e/admin"},
		{target: "/%25%32%65/admin", status: 200, seen: "/%252e/admin"},
		{target: "/a%252Fb", status: 200, seen: "/a%252Fb"},
	} {
		t.Run(test.target, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Value
			s := serve(t, chain(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				assert.Equal(t, r.RequestURI, r.URL.EscapedPath())
				assert.Equal(t, gatemesh.FromContext(r.Context()).Path(), r.URL.EscapedPath())
				seen.Store(r.URL.EscapedPath())
			})))
			resp := rawHTTP(t, s, "GET "+test.target+" HTTP/1.1\r\nHost: h\r\n\r\n")
			assert.Equal(t, test.status, resp.StatusCode)
			if test.seen != "" {
				assert.Equal(t, test.seen, seen.Load())
			}
		})
	}
}

// TestAZ03_JudgedIsForwarded compares what was judged with the request line
// that an upstream behind a reverse proxy receives.
func TestAZ03_JudgedIsForwarded(t *testing.T) {
	t.Parallel()
	upstream := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, _, _ := strings.Cut(r.RequestURI, "?")
		_, _ = io.WriteString(w, r.Method+" "+path+" "+r.Host)
	}))
	to, err := url.Parse(upstream.URL)
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(to)
		p.Out.Host = p.In.Host
	}}
	front := serve(t, chain(gatemesh.EntryConfig{KeepEncodedSlash: true}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := gatemesh.FromContext(r.Context())
		w.Header().Set("X-Judged", c.Method()+" "+c.Path()+" "+c.Host())
		proxy.ServeHTTP(w, r)
	})))
	for _, target := range pathSeeds {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			resp := rawHTTP(t, front, "GET "+target+" HTTP/1.1\r\nHost: API.Example.com.:80\r\n\r\n")
			if resp.StatusCode == http.StatusBadRequest {
				return
			}
			assert.Equal(t, resp.Header.Get("X-Judged"), bodyOf(t, resp))
		})
	}
}

func TestAZ04_HostSpellings(t *testing.T) {
	t.Parallel()
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s %s", gatemesh.FromContext(r.Context()).Host(), r.Host, r.URL)
	})
	for _, test := range []struct {
		name, text string
		allow      bool // AllowAbsoluteForm
		status     int
		body       string
	}{
		{name: "plain", text: "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", status: 200, body: "api.example.com api.example.com /"},
		{name: "case", text: "GET / HTTP/1.1\r\nHost: API.EXAMPLE.COM\r\n\r\n", status: 200, body: "api.example.com api.example.com /"},
		{name: "dot", text: "GET / HTTP/1.1\r\nHost: api.example.com.\r\n\r\n", status: 200, body: "api.example.com api.example.com /"},
		{name: "default port", text: "GET / HTTP/1.1\r\nHost: api.example.com:80\r\n\r\n", status: 200, body: "api.example.com api.example.com /"},
		{name: "default port, zeros", text: "GET / HTTP/1.1\r\nHost: api.example.com:0080\r\n\r\n", status: 200, body: "api.example.com api.example.com /"},
		{name: "dot and empty port", text: "GET / HTTP/1.1\r\nHost: api.example.com.:\r\n\r\n", status: 200, body: "api.example.com api.example.com /"},
		{name: "other port", text: "GET / HTTP/1.1\r\nHost: Api.Example.com.:443\r\n\r\n", status: 200, body: "api.example.com api.example.com:443 /"},
		{name: "IPv6", text: "GET / HTTP/1.1\r\nHost: [2001:DB8:0::1]:80\r\n\r\n", status: 200, body: "2001:db8::1 [2001:db8::1] /"},
		{name: "none", text: "GET / HTTP/1.0\r\n\r\n", status: 200, body: "  /"},
		{name: "none in 1.1", text: "GET / HTTP/1.1\r\n\r\n", status: 400},
		{name: "two", text: "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", status: 400},
		{name: "two dots", text: "GET / HTTP/1.1\r\nHost: a..\r\n\r\n", status: 400},
		{name: "user", text: "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", status: 400},
		{name: "comma", text: "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", status: 400},
		{name: "percent", text: "GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", status: 400},
		{name: "port word", text: "GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", status: 400},
		{name: "port 0", text: "GET / HTTP/1.1\r\nHost: a:0\r\n\r\n", status: 400},
		{name: "zone", text: "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n", status: 400},
		{name: "absolute form", text: "GET http://evil/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", status: 400},
		{name: "absolute form, same host", text: "GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", status: 400},
		{name: "absolute form allowed", text: "GET http://Evil:80/x?q HTTP/1.1\r\nHost: api.example.com\r\n\r\n", allow: true, status: 200, body: "evil evil /x?q"},
		{name: "scheme alone allowed", text: "GET http:/x HTTP/1.1\r\nHost: a\r\n\r\n", allow: true, status: 200, body: "a a /x"},
		{name: "CONNECT", text: "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", status: 400},
		{name: "CONNECT allowed", text: "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", allow: true, status: 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, chain(gatemesh.EntryConfig{AllowAbsoluteForm: test.allow}).Handler(echo))
			resp := rawHTTP(t, s, test.text)
			assert.Equal(t, test.status, resp.StatusCode)
			if test.body != "" {
				assert.Equal(t, test.body, bodyOf(t, resp))
			}
		})
	}
}

// TestAZ04_HTTP2Authority speaks HTTP/2 by hand, because no client sends an
// :authority and a host that differ (RFC 9113 §8.3.1).
func TestAZ04_HTTP2Authority(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(chain(gatemesh.EntryConfig{}).Handler(noContent))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)

	const status204, status400 = 0x89, 0x8c // HPACK, RFC 7541 Appendix A
	for _, test := range []struct {
		name   string
		fields []string
		want   byte
	}{
		{"authority", []string{":authority", "api.example.com"}, status204},
		{"host alone", []string{"host", "api.example.com"}, status204},
		{"equal", []string{":authority", "api.example.com", "host", "API.example.com."}, status204},
		{"conflict", []string{":authority", "api.example.com", "host", "admin.example.com"}, status400},
		{"port conflict", []string{":authority", "api.example.com", "host", "api.example.com:81"}, status400},
		{"malformed host", []string{":authority", "api.example.com", "host", "a,b"}, status400},
		{"two hosts", []string{":authority", "a", "host", "a", "host", "b"}, status400},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fields := append([]string{":method", "GET", ":scheme", "http", ":path", "/"}, test.fields...)
			block := h2Request(t, s.Listener.Addr().String(), fields)
			require.NotEmpty(t, block)
			assert.Equal(t, test.want, block[0])
		})
	}
}

// h2Request sends one HEADERS frame and returns the first byte and on of the
// answer's header block, which is its status.
func h2Request(t *testing.T, addr string, fields []string) []byte {
	t.Helper()
	var block []byte
	for i := 0; i < len(fields); i += 2 { // literals without indexing or Huffman
		block = append(block, 0, byte(len(fields[i])))
		block = append(block, fields[i]...)
		block = append(block, byte(len(fields[i+1])))
		block = append(block, fields[i+1]...)
	}
	const headers, settings, ack, endStreamAndHeaders = 1, 4, 1, 0x5
	frame := func(kind, flags byte, stream uint32, payload []byte) []byte {
		n := len(payload)
		b := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
		return append(binary.BigEndian.AppendUint32(b, stream), payload...)
	}
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	out := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	out = append(out, frame(settings, 0, 0, nil)...)
	out = append(out, frame(headers, endStreamAndHeaders, 1, block)...)
	_, err = conn.Write(out)
	require.NoError(t, err)
	for {
		var head [9]byte
		_, err := io.ReadFull(conn, head[:])
		require.NoError(t, err)
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		_, err = io.ReadFull(conn, payload)
		require.NoError(t, err)
		switch {
		case head[3] == headers:
			return payload
		case head[3] == settings && head[4] != ack:
			_, err = conn.Write(frame(settings, ack, 0, nil))
			require.NoError(t, err)
		}
	}
}

func TestAZ05_Methods(t *testing.T) {
	t.Parallel()
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %v", r.Method, r.Header["X-Http-Method-Override"])
	})
	s := serve(t, chain(trusting).Handler(echo))
	for method, status := range map[string]int{
		"GET": 200, "FOO": 200, "M-SEARCH": 200, "X_Y": 200,
		"get": 400, "GeT": 400, "-GET": 400, "G3T": 400, "G!": 400, strings.Repeat("A", 33): 400,
	} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, status, rawHTTP(t, s, method+" / HTTP/1.1\r\nHost: h\r\n\r\n").StatusCode)
		})
	}
	for _, name := range []string{"X-HTTP-Method-Override", "x-http-method", "X-Method-Override", "X_Http_Method_Override"} {
		for _, cfg := range []gatemesh.EntryConfig{{}, trusting, {KeepUnderscores: true}} {
			r := request("/")
			r.Header[http.CanonicalHeaderKey(name)] = []string{"DELETE"}
			call, seen, _ := judge(cfg, r)
			assert.Equal(t, "GET", call.Method())
			assert.Empty(t, seen.Header, name)
		}
	}
}

func TestEntryOptionsAsterisk(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(chain(gatemesh.EntryConfig{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, gatemesh.FromContext(r.Context()).Path()+" "+r.URL.Path+" "+r.RequestURI)
	})))
	s.Config.DisableGeneralOptionsHandler = true
	s.Start()
	t.Cleanup(s.Close)
	resp := rawHTTP(t, s, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
	assert.Equal(t, "* * *", bodyOf(t, resp))
	assert.Equal(t, 400, rawHTTP(t, s, "GET * HTTP/1.1\r\nHost: h\r\n\r\n").StatusCode)
}
