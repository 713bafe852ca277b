package pool

import (
	"slices"
	"sync"
)

// watcher is somebody who is told the list of endpoints.
type watcher struct {
	fn func([]*Endpoint)

	mu      sync.Mutex // held while fn runs
	told    bool
	last    []*Endpoint
	stopped bool
}

// Watch calls fn with the endpoints, in the order of their addresses, and again
// after each change: at once if the first lookup has ended, else when it ends,
// with an empty list if it failed. fn owns the list it gets. It is never called
// twice at the same time, and not any more when stop has returned. If lists
// follow one another quickly, fn gets the latest alone.
//
// fn runs on the goroutine of Watch, of the lookups or of [Pool.Update], which
// waits for it: it must not block, and must not call stop, Update or Close. stop
// may be called more than once; a closed pool needs no stop.
func (p *Pool) Watch(fn func([]*Endpoint)) (stop func()) {
	w := &watcher{fn: fn}
	p.watching.Lock()
	if p.watchers != nil {
		p.watchers[w] = struct{}{}
	}
	p.watching.Unlock()
	p.tell(w)
	return func() {
		p.watching.Lock()
		delete(p.watchers, w)
		p.watching.Unlock()
		w.mu.Lock() // waits for a call under way
		w.stopped = true
		w.mu.Unlock()
	}
}

func (p *Pool) tellWatchers() {
	p.watching.Lock()
	all := make([]*watcher, 0, len(p.watchers))
	for w := range p.watchers {
		all = append(all, w)
	}
	p.watching.Unlock()
	for _, w := range all {
		p.tell(w)
	}
}

// tell reads the list under the lock of w, so that no older list follows.
func (p *Pool) tell(w *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped || p.first == nil || !p.looked() {
		return
	}
	list := p.state.Load().endpoints
	if w.told && slices.Equal(w.last, list) {
		return
	}
	w.told, w.last = true, list
	w.fn(slices.Clone(list))
}
