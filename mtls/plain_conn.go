package mtls

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// sniffed is a connection whose first byte was read already.
type sniffed struct {
	net.Conn
	first []byte // nil once it was read again; only readers touch it
}

func (c *sniffed) Read(b []byte) (int, error) {
	if c.first == nil || len(b) == 0 {
		return c.Conn.Read(b)
	}
	b[0] = c.first[0]
	c.first = nil
	return 1, nil
}

// NetConn returns the connection that was accepted, as [tls.Conn.NetConn] does.
func (c *sniffed) NetConn() net.Conn { return c.Conn }

// ReadFrom keeps sendfile for net/http.
func (c *sniffed) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite lets net/http and proxies end one direction.
func (c *sniffed) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// plainNotice is how often it is said that callers come in plain text.
const plainNotice = time.Minute

// plainCalls counts calls without TLS.
type plainCalls struct {
	admitted, refused atomic.Uint64
	noticed           atomic.Int64 // when it was last said, in Unix nanoseconds
}

func (p *plainCalls) count(ctx context.Context, c *gatemesh.Call, o gatemesh.Observer) {
	p.admitted.Add(1)
	last, now := p.noticed.Load(), c.Received().UnixNano()
	if o == nil || last != 0 && now-last < int64(plainNotice) || !p.noticed.CompareAndSwap(last, now) {
		return
	}
	o.Observe(ctx, gatemesh.Event{
		Kind: gatemesh.EventNotice, Layer: layerName, Call: c, Message: "callers come in plain text: STRICT would refuse them",
	})
}
