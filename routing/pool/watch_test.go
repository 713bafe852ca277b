package pool

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &book{err: errors.New("SERVFAIL")}
		p := newPool(t, b)
		var got [][]string
		stop := p.Watch(func(l []*Endpoint) {
			var addrs []string
			for i, e := range l {
				addrs = append(addrs, e.Address())
				l[i] = nil // the list is ours
			}
			got = append(got, addrs)
		})
		synctest.Wait()
		assert.Equal(t, [][]string{nil}, got, "the first lookup has failed")
		b.set("a:1")
		time.Sleep(10 * time.Second)
		b.set("b:1", "a:1")
		time.Sleep(10 * time.Second)
		b.fail(errors.New("SERVFAIL"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Equal(t, [][]string{nil, {"a:1"}, {"a:1", "b:1"}}, got, "once a change")

		late := make(chan int, 1)
		stopLate := p.Watch(func(l []*Endpoint) { late <- len(l) })
		assert.Equal(t, 2, <-late, "at once")
		stop()
		stop()
		stopLate()
		b.set("c:1")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Len(t, got, 3, "stopped")
		assert.Equal(t, []string{"c:1"}, known(p))
		assert.Empty(t, p.watchers)
	})
}

// The first call comes when the first lookup has ended, and not before.
func TestWatchWaitsForFirstLookup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, hanging{})
		var calls atomic.Int64
		defer p.Watch(func(l []*Endpoint) {
			calls.Add(1)
			assert.Empty(t, l)
		})()
		synctest.Wait()
		assert.Zero(t, calls.Load())
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.EqualValues(t, 1, calls.Load())
	})
}

// One call at a time, and none after stop, which waits for one under way.
func TestWatchIsSerial(t *testing.T) {
	t.Parallel()
	const soon = 20 * time.Millisecond // in which something that must not happen would
	p := newPool(t, Static("a:1"))
	entered, release := make(chan int, 10), make(chan struct{})
	stop := p.Watch(func(l []*Endpoint) {
		if l[0].Address() != "a:1" {
			entered <- len(l)
			<-release
		}
	})
	var wg sync.WaitGroup
	update := func(addrs ...string) {
		wg.Go(func() { assert.NoError(t, p.Update(Config{Name: "orders", Resolver: Static(addrs...)})) })
	}
	update("b:1")
	require.Equal(t, 1, <-entered)
	update("b:1", "c:1")
	update("b:1", "c:1")
	select {
	case <-entered:
		assert.Fail(t, "called twice at a time")
	case <-time.After(soon):
	}
	release <- struct{}{}
	require.Equal(t, 2, <-entered, "the latest list")
	stopped := make(chan struct{})
	wg.Go(func() {
		stop()
		close(stopped)
	})
	select {
	case <-stopped:
		assert.Fail(t, "stop did not wait")
	case <-time.After(soon):
	}
	close(release)
	wg.Wait()
	require.NoError(t, p.Update(Config{Name: "orders", Resolver: Static("d:1")}))
	assert.Empty(t, entered)
}

// A watcher that is stopped while others are told is not called any more.
func TestWatchStoppedMeanwhile(t *testing.T) {
	t.Parallel()
	for range 10 {
		p := newPool(t, Static("a:1"))
		entered, release := make(chan struct{}), make(chan struct{})
		first := true
		defer p.Watch(func([]*Endpoint) {
			if first {
				first = false
				return
			}
			close(entered)
			<-release
		})()
		var calls atomic.Int64
		var stops []func()
		for range 10 {
			stops = append(stops, p.Watch(func([]*Endpoint) { calls.Add(1) }))
		}
		var wg sync.WaitGroup
		wg.Go(func() { assert.NoError(t, p.Update(Config{Name: "orders", Resolver: Static("b:1")})) })
		<-entered
		for _, stop := range stops {
			stop()
		}
		before := calls.Load()
		close(release)
		wg.Wait()
		assert.Equal(t, before, calls.Load())
	}
}

// Whoever changes the list, watchers end with the latest one.
func TestWatchConcurrently(t *testing.T) {
	t.Parallel()
	p := newPool(t, Static("a:1"))
	var mu sync.Mutex
	var last []*Endpoint
	defer p.Watch(func(l []*Endpoint) {
		mu.Lock()
		defer mu.Unlock()
		last = l
	})()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				assert.NoError(t, p.Update(Config{Name: "orders", Resolver: Static(fmt.Sprintf("w%d-%d:1", w, i))}))
				p.Watch(func([]*Endpoint) {})()
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, p.state.Load().endpoints, last)
}
