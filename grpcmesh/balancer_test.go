package grpcmesh

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// fakeConn is grpc's side of the balancer.
type fakeConn struct {
	balancer.ClientConn
	state balancer.State
	subs  []*fakeSub
}

func (c *fakeConn) NewSubConn(_ []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	s := &fakeSub{tell: opts.StateListener}
	c.subs = append(c.subs, s)
	return s, nil
}

func (c *fakeConn) UpdateState(s balancer.State) { c.state = s }

func (c *fakeConn) pick(t *testing.T) (balancer.PickResult, error) {
	t.Helper()
	return c.state.Picker.Pick(balancer.PickInfo{Ctx: t.Context()})
}

type fakeSub struct {
	balancer.SubConn
	tell     func(balancer.SubConnState)
	connects int
	shut     bool
}

func (s *fakeSub) Connect()  { s.connects++ }
func (s *fakeSub) Shutdown() { s.shut = true }
func (s *fakeSub) is(state connectivity.State) {
	s.tell(balancer.SubConnState{ConnectivityState: state, ConnectionError: errors.New("refused")})
}

// listed returns a pool of addresses and its endpoints.
func listed(t *testing.T, addrs ...string) (p *pool.Pool, list []*pool.Endpoint) {
	t.Helper()
	p = gatemesh.Must(pool.New(pool.Config{Name: "callee", Resolver: pool.Static(addrs...)}))
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	p.Watch(func(l []*pool.Endpoint) { list = l })()
	return p, list
}

func give(t *testing.T, b balancer.Balancer, g *given) {
	t.Helper()
	require.NoError(t, b.UpdateClientConnState(balancer.ClientConnState{
		ResolverState: resolver.State{Attributes: attributes.New(givenKey{}, g)},
	}))
}

// TestBalancerStates: calls wait while there is something to wait for.
func TestBalancerStates(t *testing.T) {
	t.Parallel()
	cc := &fakeConn{}
	b := builder{}.Build(cc, balancer.BuildOptions{})
	p, list := listed(t, "127.0.0.1:1", "127.0.0.1:2")
	wait := func() {
		t.Helper()
		_, err := cc.pick(t)
		assert.Equal(t, balancer.ErrNoSubConnAvailable, err)
		assert.Equal(t, connectivity.Connecting, cc.state.ConnectivityState)
	}
	refused := func(text string) {
		t.Helper()
		_, err := cc.pick(t)
		assert.ErrorContains(t, err, text)
		assert.Equal(t, connectivity.TransientFailure, cc.state.ConnectivityState)
	}
	serves := func(s *fakeSub) {
		t.Helper()
		r, err := cc.pick(t)
		require.NoError(t, err)
		assert.Same(t, s, r.SubConn)
		assert.Equal(t, connectivity.Ready, cc.state.ConnectivityState)
		r.Done(balancer.DoneInfo{BytesSent: true, BytesReceived: true})
	}
	assert.Equal(t, balancer.ErrBadResolverState, b.UpdateClientConnState(balancer.ClientConnState{}))
	give(t, b, &given{pool: p})
	refused("the pool has no endpoint")
	give(t, b, &given{pool: p, endpoints: list})
	wait()
	first, second := cc.subs[0], cc.subs[1]
	first.is(connectivity.Connecting)
	first.is(connectivity.TransientFailure)
	wait() // for the second
	second.is(connectivity.TransientFailure)
	refused("no endpoint can be reached: refused")
	first.is(connectivity.Idle)
	assert.Equal(t, 2, first.connects)
	first.is(connectivity.Connecting)
	refused("no endpoint can be reached")
	first.is(connectivity.Ready)
	serves(first)
	first.is(connectivity.Idle) // lost
	assert.Equal(t, 3, first.connects)
	wait()
	first.is(connectivity.Ready)
	give(t, b, &given{pool: p, endpoints: list[1:]})
	assert.True(t, first.shut)
	refused("no endpoint can be reached")
	first.is(connectivity.Shutdown)
	second.is(connectivity.Ready)
	serves(second)
	give(t, b, &given{pool: p})
	assert.True(t, second.shut)
	refused("the pool has no endpoint")
	b.Close()
	second.is(connectivity.Shutdown)
}

// TestBalancerAddressComesBack: an address that the pool lost and found again
// has a new connection and its old endpoint, with the calls that are still under
// way on the old connection and with its ejection.
func TestBalancerAddressComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cc := &fakeConn{}
		b := builder{}.Build(cc, balancer.BuildOptions{})
		const stays, flaps = "127.0.0.1:1", "127.0.0.1:2"
		p, _ := listed(t, stays, flaps)
		update := func(addrs ...string) {
			t.Helper()
			require.NoError(t, p.Update(pool.Config{Name: "callee", Resolver: pool.Static(addrs...)}))
		}
		defer p.Watch(func(l []*pool.Endpoint) { give(t, b, &given{pool: p, endpoints: l}) })()
		pick := func() balancer.PickResult {
			t.Helper()
			r, err := cc.pick(t)
			require.NoError(t, err)
			return r
		}
		done := balancer.DoneInfo{BytesSent: true}
		cc.subs[1].is(connectivity.Ready)
		call := pick()
		cc.subs[0].is(connectivity.Ready)
		cc.subs[1].is(connectivity.TransientFailure)
		until := p.Endpoints()[1].EjectedUntil
		require.NotZero(t, until)

		update(stays)
		time.Sleep(time.Second)
		update(stays, flaps)
		require.Len(t, cc.subs, 3)
		cc.subs[2].is(connectivity.Ready)
		assert.Equal(t, 1, p.Endpoints()[1].InFlight)
		assert.Equal(t, until, p.Endpoints()[1].EjectedUntil)
		for range 100 {
			r := pick()
			assert.Same(t, cc.subs[0], r.SubConn, "it is still out")
			r.Done(done)
		}
		assert.False(t, cc.subs[1].shut)
		call.Done(done)
		synctest.Wait()
		assert.True(t, cc.subs[1].shut)
		assert.Zero(t, p.Endpoints()[1].InFlight)

		time.Sleep(time.Until(until))
		busy, r := pick(), pick()
		assert.Same(t, cc.subs[2], r.SubConn, "the other one is busy")
		assert.Equal(t, 1, p.Endpoints()[1].InFlight, "and back, on the new connection")
		busy.Done(done)
		r.Done(done)
		assert.Zero(t, p.Endpoints()[1].InFlight)
	})
}

// TestBalancerNewEndpoint: the new endpoint of an address that has a connection
// counts from now on.
func TestBalancerNewEndpoint(t *testing.T) {
	t.Parallel()
	cc := &fakeConn{}
	b := builder{}.Build(cc, balancer.BuildOptions{})
	for range 2 {
		p, list := listed(t, "127.0.0.1:1")
		give(t, b, &given{pool: p, endpoints: list})
		require.Len(t, cc.subs, 1)
		cc.subs[0].is(connectivity.Ready)
		r, err := cc.pick(t)
		require.NoError(t, err)
		assert.Equal(t, 1, p.Endpoints()[0].InFlight)
		r.Done(balancer.DoneInfo{BytesSent: true})
		assert.Zero(t, p.Endpoints()[0].InFlight)
		assert.NotZero(t, p.Endpoints()[0].Latency)
		cc.subs[0].is(connectivity.TransientFailure)
		assert.Equal(t, 1, p.Endpoints()[0].Failures)
	}
}

// TestBalancerRetires: a connection that is not to be used any more is closed
// when the last call it was picked for has ended, and not before: grpc lets a
// call that has not begun its stream by then wait for all others on it.
func TestBalancerRetires(t *testing.T) {
	t.Parallel()
	done := balancer.DoneInfo{BytesSent: true}
	for _, retire := range []struct {
		name string
		with func(t *testing.T, b balancer.Balancer, g *given)
	}{
		{"its address is gone", func(t *testing.T, b balancer.Balancer, g *given) {
			give(t, b, &given{pool: g.pool})
		}},
		{"the trust changed", func(t *testing.T, b balancer.Balancer, g *given) {
			give(t, b, &given{pool: g.pool, endpoints: g.endpoints, creds: &mtls.Credentials{}})
		}},
		{"grpc closes", func(_ *testing.T, b balancer.Balancer, _ *given) { b.Close() }},
	} {
		t.Run(retire.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cc := &fakeConn{}
				b := builder{}.Build(cc, balancer.BuildOptions{})
				p, list := listed(t, "127.0.0.1:1")
				g := &given{pool: p, endpoints: list}
				give(t, b, g)
				sub := cc.subs[0]
				sub.is(connectivity.Ready)
				old := cc.state.Picker
				first, err := cc.pick(t)
				require.NoError(t, err)
				second, err := cc.pick(t)
				require.NoError(t, err)
				retire.with(t, b, g)
				_, err = old.Pick(balancer.PickInfo{Ctx: t.Context()})
				assert.Equal(t, balancer.ErrNoSubConnAvailable, err, "a call with the picker of before takes the next")
				assert.Equal(t, 2, p.Endpoints()[0].InFlight)
				first.Done(done)
				synctest.Wait()
				assert.False(t, sub.shut)
				sub.is(connectivity.Idle) // its connection is lost, and not made again
				assert.Equal(t, 1, sub.connects)
				second.Done(done)
				synctest.Wait()
				assert.True(t, sub.shut)
			})
		})
	}
}

// TestBalancerResult says what the ends of RPCs mean for an endpoint.
func TestBalancerResult(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	stream := context.WithValue(t.Context(), streamKey{}, true)
	fails := func(c codes.Code) error { return status.Error(c, "") }
	for _, test := range []struct {
		name string
		ctx  context.Context
		done balancer.DoneInfo
		want pool.Result
	}{
		{"not sent, the connection was gone", t.Context(), balancer.DoneInfo{}, pool.Neutral},
		{"not sent, the connection is closing", t.Context(), balancer.DoneInfo{Err: fails(codes.Unavailable)}, pool.Neutral},
		{"answered", t.Context(), balancer.DoneInfo{BytesSent: true}, pool.Success},
		{"stream", stream, balancer.DoneInfo{BytesSent: true}, pool.Streamed},
		{"answered an error", t.Context(), balancer.DoneInfo{BytesSent: true, Err: fails(codes.Internal)}, pool.Success},
		{"unavailable", t.Context(), balancer.DoneInfo{BytesSent: true, Err: fails(codes.Unavailable)}, pool.Failure},
		{"stream, unavailable", stream, balancer.DoneInfo{BytesSent: true, Err: fails(codes.Unavailable)}, pool.Failure},
		{"unavailable to somebody who left", gone, balancer.DoneInfo{BytesSent: true, Err: fails(codes.Unavailable)}, pool.Neutral},
		{"canceled", gone, balancer.DoneInfo{BytesSent: true, Err: fails(codes.Canceled)}, pool.Neutral},
		{"deadline", t.Context(), balancer.DoneInfo{BytesSent: true, Err: fails(codes.DeadlineExceeded)}, pool.TimedOut},
	} {
		assert.Equal(t, test.want, result(test.ctx, test.done), test.name)
	}
}
