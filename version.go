package gatemesh

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// A version is the state of all configurations of the process between two
// changes. Calls hold on to the version they began in; what a change replaced
// hangs on the version that it ended, so that it can be found for those calls
// and is garbage as soon as the last of them lets go, or after maxPast.
type version struct {
	next     atomic.Pointer[version]      // nil while this is the latest
	replaced atomic.Pointer[replacements] // set before next is; nil once it is too old
}

type replacements map[any]any // *Live[T] → *T

// maxPast is how long a call can see what a change has replaced. Without a
// bound, a client that holds an upload would keep the configurations of all
// changes since in memory, and a withdrawn key in use.
const maxPast = time.Minute

var (
	latest   atomic.Pointer[version]
	changing sync.Mutex // one Apply at a time
)

func init() { latest.Store(new(version)) }

// pin is the version that a call sees, nil once it sees the latest.
type pin struct{ version atomic.Pointer[version] }

// Live is the configuration of a component, which [Apply] can replace while
// calls are in progress. Every call sees, in all components, the version that
// was current when it was accepted, until its response begins; so do the calls
// that are made for it. What goes on after that, as a stream does, sees the
// latest, and what takes longer sees no configuration a minute after it was
// replaced, but the next.
//
// The zero Live is empty. It is safe for concurrent use and must not be copied.
type Live[T any] struct{ current atomic.Pointer[T] }

// Latest returns the configuration for what belongs to no call, or nil if Live
// is empty.
func (l *Live[T]) Latest() *T { return l.current.Load() }

// For returns the configuration for c, which may be nil.
func (l *Live[T]) For(c *Call) *T {
	// Loaded first: as long as the walk below finds no newer version, nothing
	// had replaced it.
	t := l.current.Load()
	if c == nil || c.pin == nil {
		return t
	}
	for v := c.pin.version.Load(); v != nil; {
		next := v.next.Load()
		if next == nil {
			return t
		}
		if all := v.replaced.Load(); all != nil {
			if old, ok := (*all)[l]; ok {
				return old.(*T)
			}
		}
		v = next
	}
	return t
}

// Change is what one component does in an [Apply]. The components of this
// module return it from their Change methods.
type Change struct {
	live    any
	prepare func() (prepared, error)
	first   func() (made bool, err error) // makes the first configuration of an empty Live
}

// prepared is a change that cannot fail any more.
type prepared struct {
	old    any // nil if there was none
	commit func()
	done   func()
}

// NewChange returns a change of l. build makes the new configuration of the
// old one, which is nil for an empty l; it must have no other effect, as the
// change may not come about, and it must not call Apply or an Update, which
// would wait for it; a New it may call. done, which may be nil, is called after
// the change has come about.
// Changes are built one at a time, in no order.
func NewChange[T any](l *Live[T], build func(old *T) (*T, error), done func(old, now *T)) Change {
	first := func() (bool, error) {
		if l.current.Load() != nil {
			return false, nil
		}
		now, err := build(nil)
		if err != nil || !l.current.CompareAndSwap(nil, now) { // else somebody was faster
			return err != nil, err
		}
		if done != nil {
			done(nil, now)
		}
		return true, nil
	}
	return Change{live: l, first: first, prepare: func() (prepared, error) {
		old := l.current.Load()
		now, err := build(old)
		if err != nil {
			return prepared{}, err
		}
		p := prepared{commit: func() { l.current.Store(now) }, done: func() {}}
		if old != nil {
			p.old = old
		}
		if done != nil {
			p.done = func() { done(old, now) }
		}
		return p, nil
	}}
}

// Apply makes all changes at once, or none if one of them fails: then it
// returns the faults of all. No call sees some of the changes without the
// others. The Update method of a component is an Apply of its Change alone.
func Apply(changes ...Change) error {
	// What is new concerns nobody yet. So New needs no lock, and may be called
	// while something else is built.
	if len(changes) == 1 && changes[0].first != nil {
		if made, err := changes[0].first(); made {
			return err
		}
	}
	all, err := apply(changes)
	for _, p := range all {
		p.done()
	}
	return err
}

func apply(changes []Change) ([]prepared, error) {
	changing.Lock()
	defer changing.Unlock()
	all := make([]prepared, 0, len(changes))
	replaced := make(replacements, len(changes))
	seen := make(map[any]bool, len(changes))
	var errs []error
	for _, c := range changes {
		if c.prepare == nil || seen[c.live] {
			errs = append(errs, errors.New("gatemesh: Apply: an empty change, or two changes of one component"))
			continue
		}
		seen[c.live] = true
		p, err := c.prepare()
		if err != nil && len(changes) == 1 {
			return nil, err // as the component put it
		}
		errs = append(errs, err)
		if p.old != nil { // who is new is new to everybody
			replaced[c.live] = p.old
		}
		all = append(all, p)
	}
	if err := errors.Join(errs...); err != nil || len(all) == 0 {
		return nil, err
	}
	ended, next := latest.Load(), new(version)
	ended.replaced.Store(&replaced)
	old := weak.Make(ended) // which lives only as long as a call needs it
	time.AfterFunc(maxPast, func() {
		if v := old.Value(); v != nil {
			v.replaced.Store(nil)
		}
	})
	ended.next.Store(next) // from here on, calls of the ended version look at replaced
	for _, p := range all {
		p.commit()
	}
	latest.Store(next) // from here on, calls begin in the next version
	return all, nil
}
