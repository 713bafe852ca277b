package grpcmesh

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

const (
	// firstByte is how long a client may take for its first byte where plain
	// text is taken, too; see [mtls.TLS.Sniff].
	firstByte = 10 * time.Second
	// grace is how long calls under way have, from the moment in which their
	// connection was told to go until it is cut.
	grace = 10 * time.Second
)

var errServerOnly = errors.New("grpcmesh: Credentials are for servers")

// Credentials returns the credentials of a gRPC server in the mesh, for
// [google.golang.org/grpc.Creds]. They do three things that those made of a
// [tls.Config] cannot:
//
//   - They take plain text beside TLS where the modes of m say so, as
//     [mtls.TLS.Listener] does for HTTP. Handlers see the security level in
//     the usual place, [peer.Peer.AuthInfo]; that is a [credentials.TLSInfo] with
//     TLS.
//   - A refusal that closes the connection, as the peer gate's are, sends a
//     GOAWAY behind it (RFC 9113 §6.8): what is under way goes on, and the next
//     call uses a new connection, with the certificate of the moment. After 10 s
//     the old one is cut, with what is under way still.
//   - So do streams whose consent has ended and cannot be renewed.
//
// Handshakes use cfg; nil is [mtls.TLS.ServerConfig]. The LocalAddr of peers is
// of a type of our own, and prints and compares as a string like the one below.
func Credentials(m *mtls.TLS, cfg *tls.Config) credentials.TransportCredentials {
	if cfg == nil {
		cfg = m.ServerConfig()
	}
	return &serverCreds{credentials.NewTLS(cfg), m}
}

type serverCreds struct {
	credentials.TransportCredentials // over TLS
	mesh                             *mtls.TLS
}

func (c *serverCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errServerOnly
}

func (c *serverCreds) Clone() credentials.TransportCredentials {
	return &serverCreds{c.TransportCredentials.Clone(), c.mesh}
}

func (c *serverCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), firstByte)
	defer cancel()
	below, isTLS, err := c.mesh.Sniff(ctx, raw)
	if err != nil {
		return nil, nil, err
	}
	creds := c.TransportCredentials
	if !isTLS {
		creds = insecure.NewCredentials()
	}
	inner, info, err := creds.ServerHandshake(below)
	if err != nil {
		return nil, nil, err
	}
	k := &conn{Conn: inner}
	k.local = &connAddr{inner.LocalAddr(), k}
	return k, info, nil
}

// conn is a connection of a gRPC server that can be told to go. It follows the
// frames that the server writes, as grpc-go has no way to say goodbye on one
// connection and a frame of ours must not fall into one of its own.
type conn struct {
	net.Conn
	local  *connAddr
	frames frames // of the one goroutine that writes
	going  atomic.Bool

	mu     sync.Mutex
	closed bool
	cut    *time.Timer
}

// connAddr is how an interceptor, which sees addresses, finds its connection.
type connAddr struct {
	net.Addr
	conn *conn
}

func (c *conn) LocalAddr() net.Addr { return c.local }

// goAway has the next write followed by a GOAWAY, unless the server has sent one
// for reasons of its own, and the connection closed some time later. It never
// waits.
func (c *conn) goAway() {
	if c.going.Swap(true) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.cut = time.AfterFunc(grace, func() { _ = c.Close() }) // the server finds it closed
	}
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	between := c.frames.pass(b[:n])
	if err == nil && between && !c.frames.goodbye && c.going.Load() {
		c.frames.goodbye = true
		_, err = c.Conn.Write(goAwayFrame)
	}
	return n, err
}

func (c *conn) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.cut != nil {
		c.cut.Stop()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// goAwayFrame is a GOAWAY without an error that lets every stream end (RFC 9113
// §6.8): 8 bytes of type 7 on stream 0, with the highest stream id.
var goAwayFrame = []byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}

const (
	frameHeader = 9 // bytes, RFC 9113 §4.1
	typeGoAway  = 0x7
	typeHeaders = 0x1  // HEADERS and
	typeMore    = 0x9  // CONTINUATION belong together until one of them has
	endHeaders  = 0x04 // this flag (RFC 9113 §6.10); gRPC servers push nothing
)

// frames finds the ends of HTTP/2 frames in a stream of bytes.
type frames struct {
	header  [frameHeader]byte
	got     int  // bytes of header
	payload int  // bytes that are left of the frame
	block   bool // a header block is not complete: nothing may come between
	goodbye bool // there was a GOAWAY; another one must not name a later stream
}

// pass goes on by b and reports whether another frame may follow.
func (f *frames) pass(b []byte) bool {
	for len(b) > 0 {
		if f.payload > 0 {
			n := min(f.payload, len(b))
			f.payload -= n
			b = b[n:]
			continue
		}
		n := copy(f.header[f.got:], b)
		f.got += n
		b = b[n:]
		if f.got == frameHeader {
			f.got = 0
			f.payload = int(binary.BigEndian.Uint32(f.header[:4]) >> 8)
			switch f.header[3] {
			case typeGoAway:
				f.goodbye = true
			case typeHeaders, typeMore:
				f.block = f.header[4]&endHeaders == 0
			}
		}
	}
	return f.payload == 0 && f.got == 0 && !f.block
}

// farewell tells the connection of a call to go if d says so, with the field
// that does it over HTTP. It never waits.
func farewell(ctx context.Context, d *gatemesh.Denial) {
	for _, f := range d.Header {
		if !strings.EqualFold(f.Name, "Connection") || !strings.EqualFold(f.Value, "close") {
			continue
		}
		if p, ok := peer.FromContext(ctx); ok {
			if a, ok := p.LocalAddr.(*connAddr); ok {
				a.conn.goAway()
			}
		}
		return
	}
}

// overHTTP reports whether net/http serves the call, by grpc.Server.ServeHTTP.
func overHTTP(ctx context.Context) bool { return ctx.Value(http.ServerContextKey) != nil }
