// Package follow keeps up with files that others replace while we run. It looks
// at contents and not at times or inodes, so that the swap of a ..data link by
// Kubernetes is a change like any other.
package follow

import (
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed is what a change after Close gets.
var ErrClosed = errors.New("is closed")

// Version identifies contents.
type Version = [sha256.Size]byte

// Contents are what was read together. The zero Version is that of no contents.
type Contents[T any] struct {
	Version Version
	// Make judges the contents as of now and returns what is made of them, last
	// itself if that stays in use. If some of the contents are of no use, it
	// may return a value for the rest besides the error; Begin, where last is
	// that of another configuration or nil, accepts none.
	Make func(last *T, now time.Time) (*T, error)
}

// News is what there is to tell after a look.
type News uint8

// The kinds of News.
const (
	Loaded   News = iota + 1 // something new is in use
	Faulty                   // there is a fault, or another one than before
	Restored                 // the fault is gone, and all is as it was
)

// Config says what is followed.
type Config[T any] struct {
	// Interval is the time between two looks.
	Interval time.Duration
	// Read reads everything anew.
	Read func() (Contents[T], error)
	// Tell is called without a lock. It may be nil.
	Tell func(News, error)
}

// Watch is what one Config has come to. Its methods must not run at the same
// time, but for Current.
type Watch[T any] struct {
	cfg     Config[T]
	current atomic.Pointer[T]
	loaded  Version // of current, zero if that is not all that was read
	failed  string  // the fault that was told last
}

// Begin returns a Watch for cfg that takes the place of before, which may be
// nil, and reports whether anything is other than it was. Contents that have
// not changed are judged again, as time may have changed them, but what was
// made of them stays.
func Begin[T any](cfg Config[T], before *Watch[T], now time.Time) (w *Watch[T], changed bool, err error) {
	c, err := cfg.Read()
	if err != nil {
		return nil, false, err
	}
	var last *T
	if before != nil {
		last = before.Current()
	}
	made, err := c.Make(last, now)
	if err != nil {
		return nil, false, err
	}
	if before != nil && c.Version == before.loaded {
		made = last
	}
	w = &Watch[T]{cfg: cfg, loaded: c.Version}
	w.current.Store(made)
	return w, made != last, nil
}

// Current returns what is in use.
func (w *Watch[T]) Current() *T { return w.current.Load() }

// Look reads again, and returns what is left to do without a lock.
func (w *Watch[T]) Look(now time.Time) (tell func()) {
	before := w.failed
	changed, err := w.load(now)
	if err != nil {
		w.failed = err.Error()
	}
	news := err != nil && w.failed != before // else it has been said
	restored := !changed && before != "" && w.failed == ""
	return func() {
		if w.cfg.Tell == nil {
			return
		}
		if changed {
			w.cfg.Tell(Loaded, nil)
		}
		if news {
			w.cfg.Tell(Faulty, err)
		}
		if restored {
			w.cfg.Tell(Restored, nil)
		}
	}
}

func (w *Watch[T]) load(now time.Time) (changed bool, err error) {
	c, err := w.cfg.Read()
	if err != nil {
		return false, err
	}
	if c.Version == w.loaded {
		w.failed = ""
		return false, nil
	}
	// What is being replaced right now is left for the next look.
	if again, err := w.cfg.Read(); err != nil || again.Version != c.Version {
		return false, nil
	}
	last := w.Current()
	made, err := c.Make(last, now)
	if made == nil {
		return false, err
	}
	w.loaded = Version{}
	if err == nil {
		w.loaded, w.failed = c.Version, ""
	}
	w.current.Store(made)
	return made != last, err
}

// Loop calls a function again and again, one call at a time, until it is closed.
type Loop struct {
	tick *time.Ticker
	look func(now time.Time) (tell func())
	stop chan struct{}
	done chan struct{}

	mu       sync.Mutex
	interval time.Duration
	closed   bool
}

// Start returns a Loop that calls look with its lock held, and then what look
// returned without it.
func Start(interval time.Duration, look func(now time.Time) (tell func())) *Loop {
	l := &Loop{
		tick: time.NewTicker(interval), look: look, interval: interval,
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go l.run()
	return l
}

func (l *Loop) run() {
	defer close(l.done)
	defer l.tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-l.tick.C:
			l.mu.Lock()
			tell := l.look(time.Now())
			l.mu.Unlock() // whoever is told may change something
			tell()
		}
	}
}

// Do calls f with the lock held, unless l is closed.
func (l *Loop) Do(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	return f()
}

// Every changes the interval, inside of Do. If it is the same, the next look is
// not put off.
func (l *Loop) Every(interval time.Duration) {
	if interval != l.interval {
		l.interval = interval
		l.tick.Reset(interval)
	}
}

// Close ends the goroutine and waits for it, and for what Do does. It may be
// called more than once.
func (l *Loop) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.stop)
	}
	l.mu.Unlock()
	<-l.done
}

// Follower is a Watch with a Loop of its own. Make it with New.
type Follower[T any] struct {
	watch atomic.Pointer[Watch[T]]
	loop  *Loop
}

// New returns a Follower of cfg.
func New[T any](cfg Config[T]) (*Follower[T], error) {
	w, _, err := Begin(cfg, nil, time.Now())
	if err != nil {
		return nil, err
	}
	f := &Follower[T]{}
	f.watch.Store(w)
	f.loop = Start(cfg.Interval, func(now time.Time) func() { return f.watch.Load().Look(now) })
	return f, nil
}

// Current returns what is in use.
func (f *Follower[T]) Current() *T { return f.watch.Load().Current() }

// Update follows cfg from now on, and tells it what has changed. If there is an
// error, everything stays; it is ErrClosed after Close.
func (f *Follower[T]) Update(cfg Config[T]) error {
	var changed bool
	err := f.loop.Do(func() error {
		w, news, err := Begin(cfg, f.watch.Load(), time.Now())
		if err != nil {
			return err
		}
		changed = news
		f.watch.Store(w)
		f.loop.Every(cfg.Interval)
		return nil
	})
	if changed && cfg.Tell != nil {
		cfg.Tell(Loaded, nil)
	}
	return err
}

// Close stops looking, and waits for the goroutine. What is in use stays.
func (f *Follower[T]) Close() { f.loop.Close() }
