package manifest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// WatcherConfig configures a [Watcher]. The zero WatcherConfig is invalid: Dir
// and Apply are required.
type WatcherConfig struct {
	// Dir is the folder, which is read as by [LoadDir]. Required.
	Dir string
	// Apply puts a Set in use, all of it or nothing: with one [gatemesh.Apply] of
	// the Changes of all components, so that no call sees a part of it. If it
	// returns an error, what was in use has to stay in use; a panic is an error,
	// too. It is called on the Watcher's own goroutine, one call at a time, with
	// Sets that loaded without a fault; it must return, and must not call Close,
	// which waits for it. Required.
	Apply func(*Set) error
	// Current is the Set of Dir that is in use already, so that Apply is not
	// called for it. What has changed in the folder since it was loaded is seen.
	// Default: none; the first Set goes to Apply.
	Current *Set
	// Interval is how often the folder is read. A change is in use when two
	// readings in a row have found the same, so after one to two intervals.
	// Default: 5 s. Must not be negative.
	Interval time.Duration
	// Observer receives a notice for every Set that is put in use, and a fault
	// for a folder that cannot be: once, until it can be or is faulty in another
	// way. Default: nobody.
	Observer gatemesh.Observer
}

// maxAgain is the longest time between two tries to put one Set in use.
const maxAgain = time.Minute

// Watcher follows a folder of manifests. It compares contents, so that the swap
// of a ..data link by Kubernetes is seen like any other change, and takes
// nothing that it has not found twice, so that what is still being written, or
// read in the middle of a swap, is not taken for what the folder says. Whoever
// writes should still write another file and rename it, or swap a link: a writer
// that pauses for an interval between two files is taken for done.
//
// What is in use stays in use while the folder is missing, empty or unreadable,
// or has a fault in any file, and while Apply refuses it; there is no age limit.
// What Apply refused is offered again, after an interval and then ever later,
// up to a minute. The work of a look is bounded by what [LoadDir] takes.
//
// A Watcher owns a goroutine, which [Watcher.Close] ends. It is safe for
// concurrent use. The zero Watcher follows nothing; make one with [NewWatcher].
type Watcher struct {
	cfg  WatcherConfig
	stop context.CancelFunc // nil for the zero Watcher
	done chan struct{}

	// Of the goroutine alone.
	used    [sha256.Size]byte // what is in use
	seen    [sha256.Size]byte // what the last look found
	refused [sha256.Size]byte // what cannot be used
	again   time.Time         // when to offer it to Apply again; zero is never
	wait    time.Duration     // how long that was put off
	failed  string            // the fault that was reported last
	moving  int               // how many looks in a row have found something else
}

// maxMoving is how many of them it takes until somebody should know.
const maxMoving = 10

var errMoving = errors.New("manifest: every look finds something else")

// NewWatcher returns a Watcher that follows cfg.Dir. It does not wait for the
// folder, which need not be there yet. It reports every fault of cfg.
func NewWatcher(cfg WatcherConfig) (*Watcher, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 5 * time.Second
	}
	var errs []error
	if cfg.Dir == "" {
		errs = append(errs, errors.New("manifest: WatcherConfig.Dir is required"))
	}
	if cfg.Apply == nil {
		errs = append(errs, errors.New("manifest: WatcherConfig.Apply is required"))
	}
	if cfg.Interval < 0 {
		errs = append(errs, errors.New("manifest: WatcherConfig.Interval must not be negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &Watcher{cfg: cfg, stop: stop, done: make(chan struct{})}
	if cfg.Current != nil {
		w.used = cfg.Current.read
	}
	w.cfg.Current = nil // it may go when another one is in use
	go w.follow(ctx, time.NewTicker(cfg.Interval))
	return w, nil
}

// Close stops following, and waits for an Apply that is under way. What is in
// use stays. It may be called more than once.
func (w *Watcher) Close() error {
	if w.stop != nil {
		w.stop()
		<-w.done
	}
	return nil
}

func (w *Watcher) follow(ctx context.Context, tick *time.Ticker) {
	defer close(w.done)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look(time.Now())
		}
	}
}

// look reads the folder, and puts in use what it finds for the second time.
func (w *Watcher) look(now time.Time) {
	read, err := readFS(os.DirFS(w.cfg.Dir), w.cfg.Dir)
	before := w.seen
	w.seen = read.sum // zero if it could not be read
	if w.moving++; read.sum == before {
		w.moving = 0
	}
	switch {
	case err != nil:
		w.refused = [sha256.Size]byte{} // to be told again once it can be read
		w.fault("manifests cannot be read, the last good ones stay", err)
	case w.moving >= maxMoving:
		w.fault("manifests keep changing, the last good ones stay", errMoving)
	case read.sum != before: // somebody may be writing
	case read.sum == w.used:
		w.refused = [sha256.Size]byte{}
		if w.failed != "" {
			w.failed = ""
			w.report(gatemesh.EventNotice, "manifests can be used again, and are as they were", nil)
		}
	case read.sum != w.refused || !w.again.IsZero() && !now.Before(w.again):
		w.use(read, now)
	}
}

// use puts in use what was read.
func (w *Watcher) use(read files, now time.Time) {
	if read.sum != w.refused {
		w.wait = 0
	}
	w.refused, w.again = read.sum, time.Time{}
	set, err := loaded(read, nil)
	if err != nil {
		w.fault("manifests cannot be used, the last good ones stay", err)
		return
	}
	if err := w.apply(set); err != nil {
		w.wait = min(max(2*w.wait, w.cfg.Interval), maxAgain)
		w.again = now.Add(w.wait)
		w.fault("manifests are refused, those from before stay", err)
		return
	}
	w.used, w.refused, w.failed = read.sum, [sha256.Size]byte{}, ""
	w.report(gatemesh.EventNotice, "manifests are in use", nil)
}

// apply is Apply, whose panic refuses set: an edited file must not end a process
// that works with what it has.
func (w *Watcher) apply(set *Set) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("manifest: Apply panicked: %v", v)
		}
	}()
	return w.cfg.Apply(set)
}

// fault reports err unless it was the last thing that was reported.
func (w *Watcher) fault(message string, err error) {
	if err.Error() != w.failed {
		w.failed = err.Error()
		w.report(gatemesh.EventFault, message, err)
	}
}

func (w *Watcher) report(kind gatemesh.EventKind, message string, err error) {
	if o := w.cfg.Observer; o != nil {
		o.Observe(context.Background(), gatemesh.Event{
			Kind: kind, Layer: "manifest", Message: fmt.Sprintf("%s: %s", w.cfg.Dir, message), Err: err,
		})
	}
}
