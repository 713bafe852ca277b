package pool

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/gatemesh-go/gatemesh"
)

// Chooser chooses among endpoints of a pool: among all of them for HTTP, among
// those with a connection for gRPC. Its methods are safe for concurrent use.
// Make it with [Pool.Chooser].
type Chooser struct {
	pool *Pool
	list []*Endpoint
	// turn counts the picks of round robin, in our zone and in others.
	near, far atomic.Uint64
	view      atomic.Pointer[view]
	viewing   atomic.Bool // somebody makes the next view
}

// Chooser returns a Chooser for candidates, which [Pool.Watch] has told of. It
// keeps a copy. It follows changes of the configuration, but not of the list.
func (p *Pool) Chooser(candidates []*Endpoint) *Chooser {
	c := &Chooser{pool: p, list: slices.Clone(candidates)}
	c.near.Store(uint64(rand.Uint32())) // replicas do not begin with the same endpoint
	c.far.Store(uint64(rand.Uint32()))
	return c
}

// Choose returns the endpoint that the next attempt of the call in ctx should go
// to, or nil if there are none: as [Config.Balancer] says, from those that are
// in, and of these from those that the call has not tried yet, as far as there
// are any. See the package documentation. r is what a HashKey may be in.
//
// It takes no lock, does not allocate but after a change, and changes nothing
// but whose turn it is: [Endpoint.Begin] must follow.
func (c *Chooser) Choose(ctx context.Context, r Request) *Endpoint {
	switch len(c.list) {
	case 0:
		return nil
	case 1:
		return c.list[0]
	}
	v := c.current()
	var again context.Context // of a call that is tried again
	call := gatemesh.FromContext(ctx)
	if call != nil && call.Attempt() > 1 {
		again = ctx
	}
	if v.ring != nil {
		if key, ok := v.ring.key.of(call, r); ok {
			return v.ring.pick(key, v.nearShare, again)
		}
	}
	first, second, turn, turn2 := v.near, v.far, &c.near, &c.far
	if s := v.nearShare; s < 1 && (s == 0 || rand.Float64() >= s) {
		first, second, turn, turn2 = second, first, turn2, turn
	}
	if e := first.pick(v.balancer, turn, again); e != nil {
		return e
	}
	if e := second.pick(v.balancer, turn2, again); e != nil {
		return e
	}
	// All were tried, but are not known to be bad.
	if e := first.pick(v.balancer, turn, nil); e != nil {
		return e
	}
	return second.pick(v.balancer, turn2, nil)
}

// current returns the view of now, or the last one while another goroutine
// makes it. It reads the clock, which costs more than all the rest of a choice,
// only if time alone makes the view old.
func (c *Chooser) current() *view {
	v := c.view.Load()
	if v != nil && v.changes == c.pool.changes.Load() && (v.until == math.MaxInt64 || c.pool.now() < v.until) {
		return v
	}
	if v != nil && !c.viewing.CompareAndSwap(false, true) {
		return v
	}
	changes := c.pool.changes.Load() // first: what comes after it is seen the next time
	n := newView(c.pool.state.Load(), changes, c.pool.now(), c.list)
	c.view.Store(n)
	if v != nil {
		c.viewing.Store(false)
	}
	return n
}

// ByHeader reports whether Choose looks at the fields of its Request.
func (c *Chooser) ByHeader() bool {
	s := c.pool.state.Load()
	return s != nil && (s.version.HashKey.Header != "" || s.version.HashKey.Cookie != "")
}
