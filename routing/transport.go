package routing

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// ownTransport takes requests to the upstream in their dispatch. For upstreams
// without a transport it has two of its own.
type ownTransport struct {
	http *http.Transport
	h2c  *http.Transport // gRPC needs HTTP/2, also where there is no TLS to negotiate it
}

func newTransport() *ownTransport {
	t := &ownTransport{http: baseTransport(), h2c: baseTransport()}
	t.h2c.Protocols = new(http.Protocols)
	t.h2c.Protocols.SetUnencryptedHTTP2(true)
	return t
}

func baseTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
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
	}
}

func (t *ownTransport) close() {
	t.http.CloseIdleConnections()
	t.h2c.CloseIdleConnections()
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
	if dispatchFrom(req.Context()).call.Protocol() == gatemesh.GRPC && req.URL.Scheme == "http" {
		return t.h2c.RoundTrip(req)
	}
	return t.http.RoundTrip(req)
}

// dispatch is where a call goes. It is the context of the request to the
// upstream, so that the one ReverseProxy serves all upstreams.
type dispatch struct {
	context.Context
	call        *gatemesh.Call
	table       *table
	upstream    *upstream
	destination gatemesh.Destination
}

type dispatchKey struct{}

func (d *dispatch) Value(key any) any {
	if key == (dispatchKey{}) {
		return d
	}
	return d.Context.Value(key)
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
