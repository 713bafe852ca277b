package grpcmesh

import (
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"

	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

const scheme = "gatemesh"

// endpoints is the resolver of one grpc.ClientConn: it passes the endpoints of
// a pool on to the balancer, and again when our credentials change.
type endpoints struct {
	pool *pool.Pool
	tls  *mtls.TLS // nil for plain text

	made atomic.Pointer[mtls.Credentials] // what the balancer knows of

	mu   sync.Mutex
	cc   resolver.ClientConn // nil before Build and after Close
	told bool                // whether the pool has told list
	list []*pool.Endpoint
}

// given is what the balancer gets.
type given struct {
	pool      *pool.Pool
	endpoints []*pool.Endpoint
	creds     *mtls.Credentials // nil for plain text
}

type givenKey struct{} // in the Attributes of a resolver.State

// Scheme implements resolver.Builder.
func (e *endpoints) Scheme() string { return scheme }

// Build implements resolver.Builder. grpc builds again after it was idle.
func (e *endpoints) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	e.mu.Lock()
	e.cc, e.told, e.list = cc, false, nil
	e.mu.Unlock()
	b := &built{e: e, cc: cc}
	b.stop = e.pool.Watch(func(list []*pool.Endpoint) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.cc == cc {
			e.told, e.list = true, list
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
		b.e.cc, b.e.told, b.e.list = nil, false, nil
	}
}

// renew tells the balancer of our credentials if they have changed. When it
// returns, no call is given to a connection that it should not use any more.
func (e *endpoints) renew() {
	if e.tls == nil || e.tls.Credentials() == e.made.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.told && e.tls.Credentials() != e.made.Load() {
		e.update()
	}
}

// update passes the list on. The caller holds mu, so that no older list
// follows; grpc calls nothing back that takes it before UpdateState returns.
func (e *endpoints) update() {
	g := &given{pool: e.pool, endpoints: e.list}
	if e.tls != nil {
		g.creds = e.tls.Credentials()
	}
	// The balancer takes every list, an empty one included.
	_ = e.cc.UpdateState(resolver.State{Attributes: attributes.New(givenKey{}, g)})
	e.made.Store(g.creds) // afterwards: who sees it need not wait
}
