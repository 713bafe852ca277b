package routing_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gatemesh-go/gatemesh/routing"
)

// A wireForm is a way to carry HTTP over a connection.
type wireForm struct {
	name, scheme string
	http2, tls   bool
}

var wireForms = []wireForm{
	{"HTTP 1.1", "http", false, false},
	{"HTTP 2 over TLS", "https", true, true},
	{"h2c", "h2c", true, false},
}

// serve starts a server that speaks f alone, and returns its address and what
// a client needs to trust it.
func (f wireForm) serve(t testing.TB, h http.Handler) (addr string, trust *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.Protocols = f.protocols()
	if f.tls {
		s.Config.Protocols.SetHTTP1(true) // for websocket, as ALPN has it
		s.EnableHTTP2 = true
		s.StartTLS()
		trust = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		trust.NextProtos = nil
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), trust
}

func (f wireForm) protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(!f.http2)
	p.SetHTTP2(f.http2 && f.tls)
	p.SetUnencryptedHTTP2(f.http2 && !f.tls)
	return p
}

func (f wireForm) client(t testing.TB, trust *tls.Config) *http.Transport {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: trust, Protocols: f.protocols(), DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func (f wireForm) proto() string {
	if f.http2 {
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
}

// cell is one client form and one upstream form, with a gateway in between.
type cell struct {
	client, upstream wireForm
	url              string
	tr               *http.Transport
	trust            *tls.Config
}

// do sends a request to the gateway.
func (c *cell) do(t *testing.T, method, path string, body io.Reader, trace *httptrace.ClientTrace, change ...func(*http.Request)) *http.Response {
	t.Helper()
	ctx := t.Context()
	if trace != nil {
		ctx = httptrace.WithClientTrace(ctx, trace)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	require.NoError(t, err)
	for _, f := range change {
		f(r)
	}
	resp, err := c.tr.RoundTrip(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	assert.Equal(t, c.client.proto(), resp.Proto)
	return resp
}

// matrixUpstream does what each path says.
var matrixUpstream = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Seen-Proto", r.Proto)
	control := http.NewResponseController(w)
	switch r.URL.Path {
	case "/lines": // answers each line before the next one comes
		_ = control.EnableFullDuplex()
		for in := bufio.NewReader(r.Body); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, "got "+line)
			_ = control.Flush()
		}
	case "/trailers":
		w.Header().Set("Trailer", "Announced")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("Announced", "1")
		w.Header().Set(http.TrailerPrefix+"Surprise", "2")
	case "/no-body":
		w.Header().Set("Trailer", "Announced")
		w.WriteHeader(http.StatusOK)
		_ = control.Flush()
		w.Header().Set("Announced", "1")
	case "/took-trailers":
		_, _ = io.Copy(io.Discard, r.Body)
		for name := range r.Trailer {
			w.Header().Add("Took", name)
		}
	case "/hints":
		for _, link := range []string{"</a.css>", "</b.css>"} {
			w.Header().Set("Link", link)
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.Header().Del("Link")
		w.WriteHeader(http.StatusNoContent)
	case "/cut":
		_, _ = io.WriteString(w, strings.Repeat("half", 4096))
		_ = control.Flush()
		panic(http.ErrAbortHandler)
	default:
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Hop", strings.Join(r.Header["Connection"], "")+strings.Join(r.Header["Keep-Alive"], "")+strings.Join(r.Header["Proxy-Connection"], ""))
		if n > 0 {
			w.WriteHeader(http.StatusCreated)
		}
	}
})

// TestMatrix runs everything that HTTP can carry through the gateway, for each
// form of the client's connection and each of the upstream's.
func TestMatrix(t *testing.T) {
	t.Parallel()
	for _, client := range wireForms {
		for _, upstream := range wireForms {
			t.Run(client.name+" to "+upstream.name, func(t *testing.T) {
				t.Parallel()
				newCell := func(t *testing.T, h http.Handler) *cell {
					addr, trust := upstream.serve(t, h)
					us := at(upstream.scheme + "://" + addr)
					if upstream.tls { // the shared transport trusts the system's roots alone
						own := upstream.client(t, trust)
						own.Protocols.SetHTTP1(true)
						us[0].Transport = own
					}
					c := &cell{client: client, upstream: upstream}
					addr, c.trust = client.serve(t, gateway{cfg: routing.Config{Upstreams: us}}.handler(t))
					c.tr, c.url = client.client(t, c.trust), strings.Replace(client.scheme, "h2c", "http", 1)+"://"+addr
					return c
				}
				c := newCell(t, matrixUpstream)
				t.Run("body both ways", func(t *testing.T) {
					pr, pw := io.Pipe()
					go func() { _, _ = io.WriteString(pw, "0\n") }() // the answer begins with it
					resp := c.do(t, "POST", "/lines", pr, nil)
					assert.Equal(t, upstream.proto(), resp.Header.Get("Seen-Proto"))
					in := bufio.NewReader(resp.Body)
					for _, n := range []string{"0\n", "1\n", "2\n"} {
						got, err := in.ReadString('\n')
						require.NoError(t, err)
						require.Equal(t, "got "+n, got)
						_, err = io.WriteString(pw, strings.Map(func(r rune) rune {
							if r == '\n' {
								return r
							}
							return r + 1
						}, n))
						require.NoError(t, err)
					}
					require.NoError(t, pw.Close())
					_, err := io.ReadAll(in)
					require.NoError(t, err)
				})
				t.Run("trailers", func(t *testing.T) {
					resp := c.do(t, "GET", "/trailers", nil, nil)
					body, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					assert.Equal(t, "body", string(body))
					assert.Equal(t, http.Header{"Announced": {"1"}, "Surprise": {"2"}}, resp.Trailer)
					resp = c.do(t, "GET", "/no-body", nil, nil)
					_, err = io.ReadAll(resp.Body)
					require.NoError(t, err)
					assert.Equal(t, http.Header{"Announced": {"1"}}, resp.Trailer)
				})
				// Trailers come when everything has been judged. gRPC has none in
				// requests, so nobody needs them.
				t.Run("trailers of requests are not passed on", func(t *testing.T) {
					resp := c.do(t, "POST", "/took-trailers", io.MultiReader(strings.NewReader("x")), nil, func(r *http.Request) {
						r.Trailer = http.Header{"X-Admin": {"1"}}
					})
					assert.Equal(t, http.StatusOK, resp.StatusCode)
					assert.Empty(t, resp.Header["Took"])
				})
				t.Run("1xx", func(t *testing.T) {
					var hints []string
					resp := c.do(t, "GET", "/hints", nil, &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
						assert.Equal(t, http.StatusEarlyHints, code)
						hints = append(hints, h.Get("Link"))
						return nil
					}})
					assert.Equal(t, http.StatusNoContent, resp.StatusCode)
					assert.Equal(t, []string{"</a.css>", "</b.css>"}, hints)
					assert.Empty(t, resp.Header["Link"])
				})
				t.Run("100", func(t *testing.T) {
					var continues atomic.Int32
					resp := c.do(t, "POST", "/", strings.NewReader("x"), &httptrace.ClientTrace{Got100Continue: func() { continues.Add(1) }},
						func(r *http.Request) { r.Header.Set("Expect", "100-continue") })
					assert.Equal(t, http.StatusCreated, resp.StatusCode)
					assert.LessOrEqual(t, continues.Load(), int32(1))
				})
				t.Run("cut short", func(t *testing.T) {
					resp := c.do(t, "GET", "/cut", nil, nil)
					_, err := io.ReadAll(resp.Body)
					assert.Error(t, err)
				})
				t.Run("hop by hop", func(t *testing.T) {
					resp := c.do(t, "GET", "/", nil, nil, func(r *http.Request) {
						if !client.http2 {
							r.Header.Set("Connection", "keep-alive")
						}
						r.Header.Set("Proxy-Connection", "keep-alive")
						r.Header.Set("Keep-Alive", "timeout=5")
					})
					assert.Empty(t, resp.Header.Get("Hop"))
				})
				t.Run("HEAD", func(t *testing.T) {
					resp := c.do(t, "HEAD", "/", nil, nil)
					assert.Equal(t, http.StatusOK, resp.StatusCode)
				})
				if client.http2 {
					t.Run("gRPC", func(t *testing.T) { c.gRPC(t) })
				}
				t.Run("websocket", func(t *testing.T) { newCell(t, switching).websocket(t) })
			})
		}
	}
}

// gRPC goes to an upstream without TLS over HTTP/2, whatever its scheme says.
func (c *cell) gRPC(t *testing.T) {
	t.Helper()
	if c.upstream.tls {
		return // TestGRPCOverTLS
	}
	us := at(c.upstream.scheme + "://" + echoRPC(t))
	addr, trust := c.client.serve(t, gateway{cfg: routing.Config{Upstreams: us}}.handler(t))
	creds := insecure.NewCredentials()
	if trust != nil {
		creds = credentials.NewTLS(trust)
	}
	checkRPC(t, dialRPC(t, addr, grpc.WithTransportCredentials(creds), grpc.WithAuthority("example.com")))
}

func (c *cell) websocket(t *testing.T) {
	t.Helper()
	if c.client.http2 {
		// RFC 8441 needs a setting that net/http does not send, so that no client
		// tries; CONNECT alone is refused: it has no path.
		resp := c.do(t, http.MethodConnect, "/", nil, nil)
		assert.Equal(t, http.StatusBadRequest, resp.StatusCode)
		return
	}
	conn, br, resp := dialSocket(t, c.url, "")
	if c.upstream.http2 && !c.upstream.tls { // nobody to switch with
		assert.Equal(t, http.StatusNotImplemented, resp.StatusCode)
		return
	}
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	_, err := io.WriteString(conn, "hello\n")
	require.NoError(t, err)
	got, err := br.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "hello\n", got)
	require.NoError(t, conn.Close())
}

// TestGRPCOverTLS: an upstream with https is asked over the HTTP/2 that TLS has
// negotiated, by whatever way the call has come.
func TestGRPCOverTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	server.EnableHTTP2 = true
	server.StartTLS() // for its certificate
	trust := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	cert := server.TLS.Certificates
	server.Close()
	trust.NextProtos = nil
	upstream := echoRPC(t, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: cert})))
	for _, client := range wireForms[1:] {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			us := at("https://" + upstream)
			own := wireForms[1].client(t, trust.Clone())
			own.Protocols.SetHTTP1(true) // as an upstream may speak either
			us[0].Transport = own
			addr, clientTrust := client.serve(t, gateway{cfg: routing.Config{Upstreams: us}}.handler(t))
			creds := insecure.NewCredentials()
			if clientTrust != nil {
				creds = credentials.NewTLS(clientTrust)
			}
			checkRPC(t, dialRPC(t, addr, grpc.WithTransportCredentials(creds), grpc.WithAuthority("example.com")))
		})
	}
}
