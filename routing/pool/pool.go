package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errUnset  = errors.New("pool: the Pool was not made by New")
	errClosed = errors.New("pool: the Pool is closed")
	errNobody = errors.New("the answer is empty")
)

// Pool is the endpoints of one service, as a [Resolver] finds them, and the
// choice among them. One goroutine looks them up, at intervals and when
// connections fail. Make it with [New] and close it; it is safe for concurrent
// use. The zero Pool has no endpoints.
//
// A lookup that fails, or finds nobody, leaves the last good endpoints in use
// until [Config.MaxStale]. After that, and before the first good lookup, there
// are none, and calls are refused as Unavailable.
//
// An address that lookups lose and find again within [Ejection.Max] is the same
// endpoint, with its latency, its attempts in flight and its ejection; after
// that it is a new one. Of addresses that are lost, [Config.MaxEndpoints] are
// remembered, the last ones.
type Pool struct {
	epoch   time.Time // where the clock of all endpoints begins
	state   atomic.Pointer[state]
	changes atomic.Uint64 // counts what makes views old
	wake    chan struct{}
	first   chan struct{} // closed when the first lookup has ended
	ready   chan struct{} // closed when a lookup has found somebody

	mu      sync.Mutex     // guards what follows, and changes of state
	failing error          // of the last lookup
	crowded bool           // the last good lookup found more than MaxEndpoints
	seen    time.Time      // when the last good lookup ended
	lost    []lostEndpoint // at most MaxEndpoints, for at most Ejection.Max

	limit  changeLimit   // of what is told of endpoints
	counts counts        // for metrics
	outs   chan struct{} // somebody was ejected

	ejecting sync.Mutex // so that two ejections do not pass the ceiling together

	watching   sync.Mutex
	watchers   map[*watcher]struct{}
	transports map[*Transport]struct{}

	ctx      context.Context
	cancel   context.CancelFunc
	stopped  chan struct{}
	checking sync.WaitGroup
}

// state is the endpoints beside the configuration they are used with, so that
// an attempt sees one version of both. It is immutable.
type state struct {
	version   *version
	endpoints []*Endpoint // in the order of their addresses
	chooser   *Chooser    // among all of them
	ring      *ring       // nil unless the Balancer is RingHash
}

// use makes v and endpoints the state. Its callers hold p.mu.
func (p *Pool) use(v *version, endpoints []*Endpoint) {
	s := &state{version: v, endpoints: endpoints}
	if old := p.state.Load(); old != nil && slices.Equal(old.endpoints, endpoints) {
		s.chooser, s.ring = old.chooser, old.ring
	} else {
		s.chooser = p.Chooser(endpoints)
	}
	switch {
	case v.Balancer != RingHash:
		s.ring = nil
	case s.ring == nil:
		s.ring = newRing(endpoints)
	}
	p.state.Store(s)
	p.changes.Add(1)
}

// version is one version of the configuration. Its context ends when it is
// replaced.
type version struct {
	Config
	ctx    context.Context
	cancel context.CancelFunc
}

// New returns a Pool that has begun to look up its endpoints. It does not wait
// for them: requests do, and [Pool.WaitReady]. It reports every invalid field
// at once.
func New(cfg Config) (*Pool, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p := &Pool{
		epoch: time.Now(), wake: make(chan struct{}, 1), outs: make(chan struct{}, 1), first: make(chan struct{}), ready: make(chan struct{}),
		watchers: map[*watcher]struct{}{}, transports: map[*Transport]struct{}{}, stopped: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	v := p.newVersion(cfg)
	p.use(v, nil)
	if s, ok := cfg.Resolver.(static); ok {
		p.learn(v, s, nil, time.Now())
	}
	p.mu.Lock()
	p.watchHealth(v)
	p.mu.Unlock()
	go p.run()
	return p, nil
}

func (p *Pool) newVersion(cfg Config) *version {
	v := &version{Config: cfg}
	v.ctx, v.cancel = context.WithCancel(p.ctx)
	return v
}

// Update replaces the configuration and looks the endpoints up at once. If cfg
// is invalid or the pool is closed, the old one stays. Endpoints stay until the
// new Resolver has found somebody, and those whose address is found again keep
// what is known of them. Attempts under way are not disturbed.
func (p *Pool) Update(cfg Config) error {
	if p.state.Load() == nil {
		return errUnset
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return err
	}
	p.mu.Lock()
	if p.ctx.Err() != nil {
		p.mu.Unlock()
		return errClosed
	}
	old, v := p.state.Load(), p.newVersion(cfg)
	p.use(v, old.endpoints)
	p.watchHealth(v)
	p.mu.Unlock()
	if s, ok := cfg.Resolver.(static); ok {
		p.learn(v, s, nil, time.Now())
	}
	old.version.cancel() // ends a lookup under way, or the rest before the next
	return nil
}

// Close ends lookups and health checks and waits for their goroutines. The endpoints stay as
// they are, so that calls under way can be tried again; no watcher is called
// any more. Closing twice is harmless.
func (p *Pool) Close() error {
	if p.state.Load() == nil {
		return nil
	}
	p.mu.Lock() // no Update is half done
	p.cancel()
	p.mu.Unlock()
	<-p.stopped
	p.checking.Wait()
	return nil
}

// WaitReady blocks until a lookup has found somebody. If ctx or the pool ends
// before that, it returns an error that says why lookups failed.
func (p *Pool) WaitReady(ctx context.Context) error {
	if p.state.Load() == nil {
		return errUnset
	}
	select {
	case <-p.ready: // also if ctx or the pool has ended
		return nil
	default:
	}
	var err error
	select {
	case <-p.ready:
		return nil
	case <-p.ctx.Done():
		err = errClosed
	case <-ctx.Done():
		err = fmt.Errorf("pool: %s is not ready: %w", p.state.Load().version.Name, ctx.Err())
	}
	return errors.Join(err, p.fault())
}

// Refresh asks for a lookup because endpoints seem to have changed, as when a
// connection fails. It returns at once. The lookup begins when the last began
// [Config.Cooldown] ago.
func (p *Pool) Refresh() {
	select {
	case p.wake <- struct{}{}:
	default: // somebody asked already
	}
}

// clock returns now as the atomics of endpoints hold it: ns since epoch, which
// the wall clock cannot set back.
func (p *Pool) clock(now time.Time) int64 { return int64(now.Sub(p.epoch)) }

// now is clock of the time it is, for less than time.Now costs.
func (p *Pool) now() int64 { return int64(time.Since(p.epoch)) }

// fault returns why the last lookup failed, or nil.
func (p *Pool) fault() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failing
}

// looked reports whether the first lookup has ended.
func (p *Pool) looked() bool {
	select {
	case <-p.first:
		return true
	default:
		return false
	}
}

func (p *Pool) run() {
	defer close(p.stopped)
	timer, back := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	defer timer.Stop()
	defer back.Stop()
	for p.ctx.Err() == nil {
		v, began := p.state.Load().version, time.Now()
		p.look(v)
		p.rest(v, began, timer, back)
	}
}

// look makes one lookup with v.
func (p *Pool) look(v *version) {
	ctx, cancel := context.WithTimeout(v.ctx, v.Timeout)
	defer cancel()
	targets, err := resolve(ctx, v.Resolver)
	if v.ctx.Err() == nil { // else closed, or another version asks
		p.learn(v, targets, err, time.Now())
	}
}

// resolve asks r, whose panic must not end the process.
func resolve(ctx context.Context, r Resolver) (targets []Target, err error) {
	defer func() {
		if v := recover(); v != nil {
			targets, err = nil, fmt.Errorf("the resolver panicked: %v", v)
		}
	}()
	if t, ok := r.(TargetResolver); ok {
		return t.Targets(ctx)
	}
	addrs, err := r.Resolve(ctx)
	return asTargets(addrs), err
}

// rest returns when it is time for the next lookup. Until then it tells of
// endpoints that are back.
func (p *Pool) rest(v *version, began time.Time, timer, back *time.Timer) {
	due := time.Now().Add(v.Interval - rand.N(v.Interval/5))
	for {
		timer.Reset(time.Until(due))
		back.Reset(p.nextBack(v, time.Now()))
		select {
		case <-v.ctx.Done():
			return
		case <-timer.C:
			return
		case <-back.C:
		case <-p.outs:
		case <-p.wake:
			if soonest := began.Add(v.Cooldown); soonest.Before(due) {
				due = soonest
			}
		}
	}
}
