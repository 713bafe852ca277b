package grpcmesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

const balancerName = "gatemesh_pool"

func init() { balancer.Register(builder{}) }

// builder implements balancer.Builder.
type builder struct{}

func (builder) Name() string { return balancerName }

func (builder) Build(cc balancer.ClientConn, _ balancer.BuildOptions) balancer.Balancer {
	return &connections{cc: cc, given: &given{}}
}

// connections is the balancer of one grpc.ClientConn: it keeps a connection to
// every endpoint and has the pool choose among those that are ready. grpc calls
// it, and the listeners of its connections, one at a time.
//
// grpc's balancer/base would not do. It keeps the connections to endpoints that
// have all vanished, refuses calls while it connects to the first endpoints
// after there were none, and cannot replace a connection without a gap.
type connections struct {
	cc    balancer.ClientConn
	given *given
	conns map[string]*connection // by address
	ready int                    // how many of them calls can use
	cause error                  // why a connection could not be made, last
}

// connection is a connection to an endpoint, or the attempt to make one.
type connection struct {
	endpoint *pool.Endpoint
	creds    *mtls.Credentials
	sc       balancer.SubConn
	// state stays TransientFailure until the connection is ready: else a
	// callee that is down would let calls wait at every new attempt.
	state connectivity.State
	// before serves calls until this one is ready, or is nil.
	before *connection
	// uses is how many calls it was picked for that have not ended, and retired
	// once no further one may be.
	uses atomic.Int64
	shut atomic.Bool
}

const retired = 1 << 62

// take notes that a call will use c, or reports that none may any more.
func (c *connection) take() bool {
	if c.uses.Add(1) < retired {
		return true
	}
	c.leave()
	return false
}

// leave notes that a call which used c has ended.
func (c *connection) leave() {
	if c.uses.Add(-1) == retired && c.shut.CompareAndSwap(false, true) {
		go c.sc.Shutdown() // which may wait for the network, and a call should not
	}
}

// serves returns the connection that calls can use now, or nil.
func (c *connection) serves() *connection {
	switch {
	case c.state == connectivity.Ready:
		return c
	case c.before != nil && c.before.state == connectivity.Ready:
		return c.before
	}
	return nil
}

// retire gives c no further calls and closes it when those on it have ended.
//
// SubConn.Shutdown would wait for streams, too. But a call that was picked for
// the connection and has not begun its stream by then waits in grpc (v1.85,
// http2Client.NewStream) until all other streams have ended, which can be for
// ever: grpc tells such calls of a GOAWAY and of a connection that is closed,
// not of one that it drains itself.
func (c *connection) retire() {
	if c.before != nil {
		c.before.retire()
		c.before = nil
	}
	if c.uses.Or(retired) == 0 && c.shut.CompareAndSwap(false, true) {
		c.sc.Shutdown()
	}
}

// outlives reports whether calls may go on with a connection made with the
// credentials old until the one made with creds is ready. Where the trust has
// changed they wait, as the callee may not trust old any more.
func outlives(old, creds *mtls.Credentials, now time.Time) bool {
	return old != nil && creds != nil && old.Bundles == creds.Bundles && now.Before(old.Certificate.Leaf.NotAfter)
}

// UpdateClientConnState implements balancer.Balancer.
func (b *connections) UpdateClientConnState(s balancer.ClientConnState) error {
	g, ok := s.ResolverState.Attributes.Value(givenKey{}).(*given)
	if !ok {
		return balancer.ErrBadResolverState // somebody else's resolver
	}
	old := b.conns
	b.given, b.conns = g, make(map[string]*connection, len(g.endpoints))
	for _, ep := range g.endpoints {
		addr := ep.Address()
		c := old[addr]
		if c == nil || c.creds != g.creds {
			c = b.connect(ep, c)
		}
		if c == nil {
			continue // grpc is closing
		}
		c.endpoint = ep // a new one if the pool is, or had forgotten the address
		b.conns[addr] = c
		delete(old, addr)
	}
	for _, c := range old {
		c.retire()
	}
	b.publish()
	return nil
}

// connect makes a connection to ep, in the place of old unless that is nil.
func (b *connections) connect(ep *pool.Endpoint, old *connection) *connection {
	c := &connection{endpoint: ep, creds: b.given.creds, state: connectivity.Idle}
	//lint:ignore SA1019 one address is what it gets, and there is no other way
	sc, err := b.cc.NewSubConn([]resolver.Address{{Addr: ep.Address()}}, balancer.NewSubConnOptions{
		StateListener: func(s balancer.SubConnState) { b.changed(c, s) },
	})
	if err != nil {
		return nil
	}
	c.sc = sc
	if old != nil {
		if by := old.serves(); by != nil && outlives(by.creds, c.creds, time.Now()) {
			c.before = by
			if by != old {
				old.before = nil
			}
		}
		if c.before != old {
			old.retire()
		}
	}
	sc.Connect()
	return c
}

// changed takes in what has become of c.
func (b *connections) changed(c *connection, s balancer.SubConnState) {
	current := b.conns[c.endpoint.Address()]
	if current == nil || current != c && current.before != c {
		return // it was retired
	}
	before := current.serves()
	switch s.ConnectivityState {
	case connectivity.Idle:
		c.sc.Connect()
	case connectivity.TransientFailure:
		b.cause = s.ConnectionError
		now := time.Now()
		c.endpoint.Begin(context.Background(), now).Done(now, pool.Unreachable)
	}
	if c.state != connectivity.TransientFailure || s.ConnectivityState == connectivity.Ready {
		c.state = s.ConnectivityState
	}
	if old := current.before; old != nil && (current.state == connectivity.Ready || old.state != connectivity.Ready) {
		current.before = nil
		old.retire()
	}
	if b.ready == 0 || current.serves() != before {
		b.publish()
	}
}

// publish gives grpc a picker for what there is now.
func (b *connections) publish() {
	p := &picker{conns: make(map[*pool.Endpoint]*connection, len(b.conns))}
	waiting, ready := false, make([]*pool.Endpoint, 0, len(b.conns))
	for _, ep := range b.given.endpoints {
		c := b.conns[ep.Address()]
		if c == nil {
			continue
		}
		if by := c.serves(); by != nil {
			ready = append(ready, ep)
			p.conns[ep] = by
		}
		waiting = waiting || c.state != connectivity.TransientFailure
	}
	p.choose = b.given.pool.Chooser(ready)
	b.ready = len(ready)
	s := balancer.State{ConnectivityState: connectivity.Ready, Picker: p}
	switch {
	case b.ready > 0:
	case waiting:
		s = balancer.State{ConnectivityState: connectivity.Connecting, Picker: refuses{balancer.ErrNoSubConnAvailable}}
	case len(b.given.endpoints) == 0:
		s = balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: refuses{errNoEndpoint}}
	default:
		err := fmt.Errorf("grpcmesh: no endpoint can be reached: %w", b.cause)
		s = balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: refuses{err}}
	}
	b.cc.UpdateState(s)
}

var errNoEndpoint = errors.New("grpcmesh: the pool has no endpoint")

// ResolverError implements balancer.Balancer. Our resolver reports none.
func (*connections) ResolverError(error) {}

// UpdateSubConnState implements balancer.Balancer. Listeners are told instead.
func (*connections) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// ExitIdle implements balancer.Balancer. Connections do not stay idle.
func (*connections) ExitIdle() {}

// Close implements balancer.Balancer.
func (b *connections) Close() {
	for _, c := range b.conns {
		c.retire()
	}
	b.conns = nil
}

// refuses is a picker for when there is no connection.
type refuses struct{ err error }

// Pick implements balancer.Picker.
func (r refuses) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, r.err
}

// picker chooses among the endpoints with a connection. It is immutable.
type picker struct {
	choose *pool.Chooser // among those with a connection
	conns  map[*pool.Endpoint]*connection
}

// Pick implements balancer.Picker.
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	md, _ := metadata.FromOutgoingContext(info.Ctx)
	ep := p.choose.Choose(info.Ctx, pool.Request{Header: md})
	c := p.conns[ep]
	if !c.take() {
		// This picker is about to be replaced, or was just now.
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	attempt := ep.Begin(info.Ctx, time.Now())
	return balancer.PickResult{SubConn: c.sc, Done: func(d balancer.DoneInfo) {
		c.leave()
		attempt.Done(time.Now(), result(info.Ctx, d))
	}}, nil
}

// result says what the end of an RPC says about its endpoint.
func result(ctx context.Context, d balancer.DoneInfo) pool.Result {
	if !d.BytesSent {
		// The connection was about to close, as after a change of credentials:
		// grpc looks for another one.
		return pool.Neutral
	}
	success := pool.Success
	if ctx.Value(streamKey{}) != nil {
		success = pool.Streamed
	}
	if d.Err == nil || errors.Is(d.Err, io.EOF) {
		return success
	}
	switch status.Code(d.Err) {
	case codes.Canceled:
		return pool.Neutral
	case codes.DeadlineExceeded:
		return pool.TimedOut
	case codes.Unavailable:
		if ctx.Err() != nil {
			return pool.Neutral
		}
		return pool.Failure
	}
	return success // it answered, whatever it says
}
