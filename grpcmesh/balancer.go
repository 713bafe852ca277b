package grpcmesh

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

const (
	scheme       = "gatemesh"
	balancerName = "gatemesh_pool"
)

func init() {
	// base keeps a connection to every endpoint and tells when one is ready.
	balancer.Register(base.NewBalancerBuilder(balancerName, pickerBuilder{}, base.Config{}))
}

// endpoints is the resolver of one connection: it passes the endpoints of a
// pool on to grpc, and new ones of the same addresses when our credentials
// change, so that grpc connects anew.
type endpoints struct {
	pool *pool.Pool
	tls  *mtls.TLS // nil for plain text

	made atomic.Pointer[mtls.Credentials] // what the connections are made with

	mu   sync.Mutex
	cc   resolver.ClientConn // nil before Build and after Close
	stop func()
	list []*pool.Endpoint
}

// Scheme implements resolver.Builder.
func (e *endpoints) Scheme() string { return scheme }

// Build implements resolver.Builder. grpc builds again after it was idle.
func (e *endpoints) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	e.mu.Lock()
	e.cc = cc
	e.mu.Unlock()
	b := &built{e: e, cc: cc}
	b.stop = e.pool.Watch(func(list []*pool.Endpoint) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.cc == cc {
			e.list = list
			e.update()
		}
	})
	return b, nil
}

// built is the resolver between a Build and its Close.
type built struct {
	e    *endpoints
	cc   resolver.ClientConn
	stop func()
}

// ResolveNow implements resolver.Resolver: grpc has lost a connection.
func (b *built) ResolveNow(resolver.ResolveNowOptions) { b.e.pool.Refresh() }

// Close implements resolver.Resolver.
func (b *built) Close() {
	b.stop()
	b.e.mu.Lock()
	defer b.e.mu.Unlock()
	if b.e.cc == b.cc {
		b.e.cc, b.e.list = nil, nil
	}
}

// renew has grpc connect anew if our credentials have changed.
func (e *endpoints) renew() {
	if e.tls == nil || e.tls.Credentials() == e.made.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cc != nil && e.list != nil && e.tls.Credentials() != e.made.Load() {
		e.update()
	}
}

type (
	credentialsKey struct{} // in Attributes: part of what makes an address another one
	endpointKey    struct{} // in BalancerAttributes: not a part of it
	poolKey        struct{}
)

// update passes the list on. The caller holds mu.
func (e *endpoints) update() {
	var with *attributes.Attributes
	if e.tls != nil {
		creds := e.tls.Credentials()
		e.made.Store(creds)
		with = attributes.New(credentialsKey{}, creds)
	}
	if len(e.list) == 0 {
		e.cc.ReportError(errNoEndpoint)
		return
	}
	addrs := make([]resolver.Address, len(e.list))
	for i, ep := range e.list {
		addrs[i] = resolver.Address{
			Addr: ep.Address(), Attributes: with,
			BalancerAttributes: attributes.New(endpointKey{}, ep).WithValue(poolKey{}, e.pool),
		}
	}
	// An error would ask for another look, which comes anyway.
	_ = e.cc.UpdateState(resolver.State{Addresses: addrs})
}

var errNoEndpoint = errors.New("grpcmesh: the pool has no endpoint")

// pickerBuilder implements base.PickerBuilder.
type pickerBuilder struct{}

func (pickerBuilder) Build(info base.PickerBuildInfo) balancer.Picker {
	p := &picker{conns: make(map[*pool.Endpoint]balancer.SubConn, len(info.ReadySCs))}
	for sc, i := range info.ReadySCs {
		a := i.Address.BalancerAttributes
		ep, _ := a.Value(endpointKey{}).(*pool.Endpoint)
		of, _ := a.Value(poolKey{}).(*pool.Pool)
		if ep != nil && of != nil {
			p.pool = of
			p.ready = append(p.ready, ep)
			p.conns[ep] = sc
		}
	}
	if len(p.ready) == 0 {
		return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
	}
	return p
}

// picker chooses among the endpoints with a connection. It is immutable.
type picker struct {
	pool  *pool.Pool
	ready []*pool.Endpoint
	conns map[*pool.Endpoint]balancer.SubConn
}

// Pick implements balancer.Picker.
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	ep := p.pool.Choose(info.Ctx, p.ready)
	if ep == nil {
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	attempt := ep.Begin(info.Ctx, time.Now())
	return balancer.PickResult{SubConn: p.conns[ep], Done: func(d balancer.DoneInfo) {
		attempt.Done(time.Now(), result(info.Ctx, d))
	}}, nil
}

// result says what the end of an RPC says about its endpoint.
func result(ctx context.Context, d balancer.DoneInfo) pool.Result {
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
