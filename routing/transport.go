package routing

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// ownTransport takes requests to the upstream in their dispatch. For upstreams
// without a transport it has two of its own.
type ownTransport struct {
	http *http.Transport
	h2c  *http.Transport // gRPC needs HTTP/2, also where there is no TLS to negotiate it
	open atomic.Int64    // connections, and dials for one
}

func newTransport() *ownTransport {
	t := &ownTransport{}
	t.http, t.h2c = t.base(), t.base()
	t.h2c.Protocols = new(http.Protocols)
	t.h2c.Protocols.SetUnencryptedHTTP2(true)
	return t
}

func (t *ownTransport) base() *http.Transport {
	return &http.Transport{
		DialContext:         t.dial,
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
		// Else the transport would ask for gzip where the client did not, and
		// the upstream would see another request than the one that was judged.
		DisableCompression:     true,
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    128,
		IdleConnTimeout:        30 * time.Second, // below the usual minute of servers
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 1 << 20,
		HTTP2: &http.HTTP2Config{
			// What a slow client has not taken yet is kept for each stream: 4 MiB by default.
			MaxReceiveBufferPerStream: 1 << 20,
			// An upstream whose node is gone does not say goodbye.
			SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second,
		},
	}
}

var dialer = net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}

func (t *ownTransport) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	t.open.Add(1) // net/http may finish a dial whose request took another connection
	c, err := dialer.DialContext(ctx, network, addr)
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		t.open.Add(-1)
		return c, err
	}
	return &openConn{TCPConn: tcp, closed: sync.OnceFunc(func() { t.open.Add(-1) })}, nil
}

// openConn is a connection that counts until it is closed. It is a whole
// TCPConn: upgraded connections are closed by halves.
type openConn struct {
	*net.TCPConn
	closed func()
}

func (c *openConn) Close() error {
	c.closed()
	return c.TCPConn.Close()
}

// close closes the connections that are idle, or become so right away: HTTP/2
// takes a moment from the end of an answer until its stream is gone.
func (t *ownTransport) close() {
	for end := time.Now().Add(100 * time.Millisecond); ; time.Sleep(time.Millisecond) {
		t.http.CloseIdleConnections()
		t.h2c.CloseIdleConnections()
		if t.open.Load() == 0 || time.Now().After(end) {
			return
		}
	}
}

// RoundTrip implements http.RoundTripper behind the outbound gates.
func (t *ownTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if own := dispatchFrom(req.Context()).upstream.transport; own != nil {
		return own.RoundTrip(req)
	}
	return t.shared(req)
}

// shared carries the requests of upstreams without a transport of their own.
func (t *ownTransport) shared(req *http.Request) (*http.Response, error) {
	d := dispatchFrom(req.Context()) // nil for a request that a Balance makes by itself
	if d != nil && (d.upstream.h2c || d.call.Protocol() == gatemesh.GRPC) && req.URL.Scheme == "http" {
		return t.h2c.RoundTrip(req)
	}
	return t.http.RoundTrip(req)
}

// dispatch is where a call goes. It is the context of the request to the
// upstream, so that the one ReverseProxy serves all upstreams, and its body, so
// that it is known who is to blame when the request breaks off.
type dispatch struct {
	context.Context
	io.ReadCloser                                       // the body that the client sends, if there is one
	unreadable    atomic.Pointer[error]                 // why that body broke off
	answer        io.Closer                             // the body that the upstream sends, or nil
	rest          rest                                  // the same with its trailers
	inform        func(int, textproto.MIMEHeader) error // the client, of a 1xx answer
	informed      atomic.Int32
	call          *gatemesh.Call
	table         *table
	upstream      *upstream
	destination   gatemesh.Destination
	stages        stages
	forwarded     [3][1]string    // room for the fields about whom the request came from
	path          string          // to be sent
	copied        *gatemesh.Route // of a copy for a mirror
	limited       bool            // the route bounds how long the call takes
}

type dispatchKey struct{}

func (d *dispatch) Value(key any) any {
	if key == (dispatchKey{}) {
		return d
	}
	return d.Context.Value(key)
}

func (d *dispatch) Read(b []byte) (int, error) {
	n, err := d.ReadCloser.Read(b)
	if err != nil && err != io.EOF {
		why := err
		d.unreadable.Store(&why)
	}
	return n, err
}

func dispatchFrom(ctx context.Context) *dispatch {
	d, _ := ctx.Value(dispatchKey{}).(*dispatch)
	return d
}

// chosen tells the outbound gates that every request of the proxy goes to the
// mesh, whatever its upstream's address is.
func chosen(ctx context.Context, _ string) (gatemesh.Destination, bool) {
	return dispatchFrom(ctx).destination, true
}
