package pool

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// book is a Resolver whose answer changes.
type book struct {
	mu    sync.Mutex
	addrs []string
	err   error
	asked int
}

func (b *book) Resolve(context.Context) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	return slices.Clone(b.addrs), b.err
}

func (b *book) set(addrs ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addrs, b.err = addrs, nil
}

func (b *book) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *book) times() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

// recorder is an Observer that remembers.
type recorder struct {
	mu     sync.Mutex
	events []gatemesh.Event
}

func (r *recorder) Observe(_ context.Context, e gatemesh.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// list returns the events since the last take.
func (r *recorder) list() []gatemesh.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// take returns the messages since the last take, with "!" before faults.
func (r *recorder) take() (messages []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		m := e.Message
		if e.Kind == gatemesh.EventFault {
			m = "!" + m
		}
		messages = append(messages, m)
	}
	r.events = nil
	return messages
}

func newPool(t testing.TB, r Resolver, change ...func(*Config)) *Pool {
	t.Helper()
	cfg := Config{Name: "orders", Resolver: r}
	for _, c := range change {
		c(&cfg)
	}
	p, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	return p
}

func noEjection(cfg *Config) { cfg.Ejection.Disable = true }

// known returns the addresses of p's endpoints.
func known(p *Pool) (addrs []string) {
	for _, e := range p.Endpoints() {
		addrs = append(addrs, e.Address)
	}
	return addrs
}

// at returns the endpoint of p with an address.
func at(t testing.TB, p *Pool, addr string) *Endpoint {
	t.Helper()
	for _, e := range p.state.Load().endpoints {
		if e.addr == addr {
			return e
		}
	}
	require.Fail(t, "no endpoint "+addr)
	return nil
}

// statusOf returns what p knows of an address.
func statusOf(t testing.TB, p *Pool, addr string) EndpointStatus {
	t.Helper()
	return at(t, p, addr).status(time.Now())
}

// try makes an attempt at e that ends at once.
func try(t testing.TB, e *Endpoint, r Result) {
	t.Helper()
	e.Begin(t.Context(), time.Now()).Done(time.Now(), r)
}

// warm gives every endpoint of p the same latency, above those of the tests.
func warm(p *Pool) {
	for _, e := range p.state.Load().endpoints {
		e.latency.observe(p.clock(time.Now()), time.Minute)
	}
}

// tries counts how many of n choices fall on each address.
func tries(t testing.TB, p *Pool, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range n {
		got[p.state.Load().chooser.Choose(t.Context(), Request{}).Address()]++
	}
	return got
}

func ips(list ...string) (found []netip.Addr) {
	for _, a := range list {
		found = append(found, netip.MustParseAddr(a))
	}
	return found
}
