package auth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
)

// JWKS is a [KeySource] that follows an issuer's JSON Web Key Set (RFC 7517).
// One goroutine fetches it, at intervals and when a token names a key that is
// not there; see [JWKSConfig] for what bounds that. Make one with [NewJWKS] and
// close it; it is safe for concurrent use. The zero JWKS has no keys.
//
// Fails closed: without keys, tokens are refused. A document that cannot be
// fetched or read, or has no usable key, counts as a failed fetch, and the last
// good keys stay until MaxStale. Single keys that cannot be used are left out:
// unknown types, RSA below 2048 bits, private keys, and secrets, which do not
// belong into a published document.
type JWKS struct {
	version atomic.Pointer[jwksVersion]
	current atomic.Pointer[fetchedKeys]
	plan    plan // says when to fetch
	wake    chan struct{}

	ctx     context.Context
	cancel  context.CancelFunc
	stopped chan struct{}

	// mu makes one step of what an Update changes, and one of what the end of a
	// fetch does, so that no fetch ends for a version it was not made for.
	mu      sync.Mutex
	failing bool // the last fetch failed

	fetches [len(fetchEnds)]atomic.Uint64 // for metrics

	// Of the fetching goroutine alone.
	place   place  // that the last good fetch, or New, read
	badKeys string // in it
	from    string // where its keys were discovered, without what may be secret
}

// jwksVersion is one version of the configuration, made ready. It is immutable.
type jwksVersion struct {
	cfg     JWKSConfig
	name    string           // of the source, in events
	breaker *breaker.Breaker // may say "not yet", and that callers should not wait for a fetch

	// Versions that fetch alike share what follows. The context ends with the
	// last of them, and with it a fetch under way.
	load   func(context.Context) (document, error)
	idle   func() // closes connections of our own
	ctx    context.Context
	cancel context.CancelFunc
}

// maxFailures is how many fetches must fail in a row for callers not to wait
// for the next one.
const maxFailures = 3

var (
	errJWKSUnset  = errors.New("auth: the JWKS was not made by NewJWKS")
	errJWKSClosed = errors.New("auth: the JWKS is closed")
)

// fetchedKeys is a set and when it was last seen at its issuer.
type fetchedKeys struct {
	keys *Keys
	seen time.Time
}

// NewJWKS returns a JWKS that has begun to fetch its keys. It does not wait for
// them: until they are there, tokens wait for the first fetch and are then
// refused. JWKS.Keys(time.Now()).Len() says whether there are any. It reports
// every fault of cfg at once.
func NewJWKS(cfg JWKSConfig) (*JWKS, error) {
	v, err := newJWKSVersion(cfg)
	if err != nil {
		return nil, err
	}
	j := &JWKS{wake: make(chan struct{}, 1), stopped: make(chan struct{}), place: v.place()}
	j.plan = plan{cooldown: v.cfg.Cooldown, missing: map[string]time.Time{}}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	if err := v.complete(j.ctx, nil); err != nil {
		j.cancel()
		return nil, err
	}
	j.version.Store(v)
	go j.run()
	return j, nil
}

// newJWKSVersion does what needs no other version: it validates cfg, and reads
// the File.
func newJWKSVersion(cfg JWKSConfig) (*jwksVersion, error) {
	cfg = cfg.withDefaults()
	name, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	v := &jwksVersion{cfg: cfg, name: name}
	v.load, v.idle = cfg.loader()
	if cfg.File != "" {
		if _, err := v.load(context.Background()); err != nil {
			return nil, fmt.Errorf("auth: JWKSConfig.File: %w", err)
		}
	}
	return v, nil
}

// complete gives v what it has in common with old, which is nil for the first.
func (v *jwksVersion) complete(ctx context.Context, old *jwksVersion) (err error) {
	cfg := breaker.Config{
		Name: "key set " + v.name, Observer: v.cfg.Observer,
		Policy: breaker.Policy{Failures: maxFailures, Delay: min(v.cfg.Cooldown, time.Minute)}, // a Retry-After may be longer
	}
	if old != nil && v.place() == old.place() {
		v.breaker, err = old.breaker, old.breaker.Update(cfg)
	} else { // failures of one place say nothing of another
		v.breaker, err = breaker.New(cfg)
	}
	if err != nil {
		return err
	}
	if old != nil && v.cfg.fetchesLike(&old.cfg) {
		v.load, v.idle, v.ctx, v.cancel = old.load, old.idle, old.ctx, old.cancel
	} else {
		v.ctx, v.cancel = context.WithCancel(ctx)
	}
	return nil
}

// place is where keys come from. It may be secret.
type place struct{ url, file, discovery string }

func (v *jwksVersion) place() place { return place{v.cfg.URL, v.cfg.File, v.cfg.Discovery} }

// again is in how long after a fetch to make the next one.
func (v *jwksVersion) again(failed bool) time.Duration {
	if failed {
		return earlier(min(v.cfg.RefreshInterval, 2*v.cfg.Cooldown))
	}
	return earlier(v.cfg.RefreshInterval)
}

// earlier is up to a tenth less than d, and never more, so that limits hold.
func earlier(d time.Duration) time.Duration { return d - rand.N(d/10) }

// Update replaces the configuration, all of it at once. If cfg is invalid, its
// File cannot be used, or the JWKS is closed, the old one stays.
//
// Another URL, Discovery or File is read at once, whatever the Cooldown, and with a breaker
// that has not failed yet. Tokens with keys that we do not have wait for that
// fetch, those that waited for one from the old place included. The keys of the
// old place go as soon as the new one was read; until then they stay, up to
// MaxStale, as in any outage, so that a new address with a fault in it costs
// nobody his token. To have them gone at once, because the old place is not to
// be trusted any more, make a new JWKS and give it to [Authenticator.Update].
//
// Nothing that a fetch finds is used after an Update that changes what it was
// made with: the place, Client, FetchTimeout, MaxBody or Cooldown; or, with
// Discovery, InsecureHTTP or RefreshInterval. It begins anew. An Update that changes none of them does not disturb it.
func (j *JWKS) Update(cfg JWKSConfig) error {
	if j.version.Load() == nil {
		return errJWKSUnset
	}
	v, err := newJWKSVersion(cfg)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ctx.Err() != nil {
		return errJWKSClosed
	}
	old := j.version.Load()
	if err := v.complete(j.ctx, old); err != nil {
		return err
	}
	j.version.Store(v)
	j.plan.update(v.cfg.Cooldown, v.again(j.failing))
	if v.place() != old.place() {
		j.plan.restart()
	}
	if v.ctx != old.ctx {
		old.cancel()
	}
	j.poke()
	return nil
}

// Close ends the fetching and waits for it. The keys stay until MaxStale.
// Closing twice is harmless.
func (j *JWKS) Close() error {
	if j.version.Load() == nil {
		return nil
	}
	j.mu.Lock() // no Update is half done
	j.cancel()
	j.mu.Unlock()
	<-j.stopped
	return nil
}

// Keys returns the last good keys, or nil if they are older than MaxStale.
func (j *JWKS) Keys(now time.Time) *Keys {
	f := j.current.Load()
	if f == nil || now.Sub(f.seen) > j.version.Load().cfg.MaxStale {
		return nil
	}
	return f.keys
}

// Refresh waits for the fetch under way, or for a new one if none was begun
// within the cool-down, and returns the keys. During the cool-down, for ids
// that were missing from a recent fetch, and while the breaker is open, it
// returns at once.
func (j *JWKS) Refresh(ctx context.Context, kid string) *Keys {
	v, now := j.version.Load(), time.Now()
	if v == nil {
		return nil
	}
	if v.breaker.State() != breaker.Closed { // the goroutine probes on its own
		return j.Keys(now)
	}
	done, wake := j.plan.ask(now, kid)
	if wake {
		j.poke()
	}
	if done != nil {
		ctx, cancel := context.WithTimeout(ctx, v.cfg.FetchTimeout)
		select {
		case <-done:
		case <-ctx.Done():
		case <-j.stopped:
		}
		cancel()
	}
	return j.Keys(time.Now())
}

// Failing reports whether the last fetch failed, or none has ended yet, so that
// a key may be unknown for that reason.
func (j *JWKS) Failing() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failing || j.current.Load() == nil
}

func (j *JWKS) poke() {
	select {
	case j.wake <- struct{}{}:
	default: // it will look at the plan anyway
	}
}

func (j *JWKS) run() {
	defer close(j.stopped)
	last := j.version.Load()
	defer func() { last.idle() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-j.ctx.Done():
			return
		case <-timer.C:
		case <-j.wake:
		}
		v, due := j.begin()
		if v.ctx != last.ctx {
			last.idle()
		}
		last = v
		if due {
			j.fetch(v)
		}
		timer.Reset(max(j.plan.wait(time.Now()), j.version.Load().breaker.Remaining()))
	}
}

// begin reports whether a fetch is due, with the version to make it with, and
// begins it.
func (j *JWKS) begin() (v *jwksVersion, due bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	v = j.version.Load()
	// After a Retry-After, the breaker lets nobody through when the plan would.
	return v, v.breaker.Remaining() == 0 && j.plan.begin(time.Now())
}

// fetch makes one fetch with v. If v is replaced meanwhile, it is as if there had
// been none: one is still due.
func (j *JWKS) fetch(v *jwksVersion) {
	permit, err := v.breaker.Acquire(j.ctx)
	if err != nil {
		return
	}
	defer permit.Close()
	ctx, cancel := context.WithTimeout(v.ctx, v.cfg.FetchTimeout)
	defer cancel()
	doc, err := v.load(ctx)
	if err != nil {
		doc.keys = nil
	}
	switch {
	case v.ctx.Err() != nil: // closed or replaced, which says nothing of the place
		permit.Neutral()
		return
	case err == nil:
		permit.Success()
	default:
		var answer *statusError
		var after time.Duration
		if errors.As(err, &answer) {
			after = answer.after
		}
		permit.Failure(after)
	}
	if recovered, ok := j.end(v, doc.keys); ok {
		j.report(v, doc, err, recovered)
	}
}

// end ends a fetch with v: it stores the keys that were found, nil if it
// failed, and lets go who waits. It does nothing if v was replaced.
func (j *JWKS) end(v *jwksVersion, found *Keys) (recovered, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if v.ctx.Err() != nil {
		return false, false
	}
	now := time.Now()
	if found == nil {
		j.fetches[1].Add(1)
	} else {
		j.fetches[0].Add(1)
		if old := j.current.Load(); old != nil && old.keys.equal(found) {
			found = old.keys // the same pointer: what was verified needs no second look
		}
		j.current.Store(&fetchedKeys{found, now})
	}
	recovered, j.failing = j.failing, found == nil
	j.plan.end(now, found, j.version.Load().again(j.failing))
	return recovered && found != nil, true
}

// report tells the Observer what has changed since the last fetch.
func (j *JWKS) report(v *jwksVersion, doc document, err error, recovered bool) {
	moved, bad := v.place() != j.place, errors.Join(doc.bad...)
	e := gatemesh.Event{Layer: "auth"}
	if err != nil {
		e.Kind, e.Err, e.Message = gatemesh.EventFault, err, "key set "+v.name+" cannot be fetched"
		if j.Keys(time.Now()) != nil {
			e.Message += "; the last good keys stay in use"
		}
	} else {
		badKeys := ""
		if bad != nil {
			badKeys = bad.Error()
		}
		switch {
		case bad != nil && (moved || badKeys != j.badKeys):
			e.Kind, e.Err, e.Message = gatemesh.EventFault, bad, "key set "+v.name+" has keys that cannot be used"
		case j.from != "" && doc.from != j.from && !moved:
			e.Kind, e.Message = gatemesh.EventNotice, fmt.Sprintf("key set %s is read from %q now, as its issuer says", v.name, cut(doc.from))
		case moved:
			e.Kind, e.Message = gatemesh.EventNotice, "key set "+v.name+" is in use"
		case recovered:
			e.Kind, e.Message = gatemesh.EventNotice, "key set "+v.name+" can be fetched again"
		}
		j.place, j.badKeys, j.from = v.place(), badKeys, doc.from
	}
	if o := j.version.Load().cfg.Observer; e.Kind != 0 && o != nil {
		o.Observe(j.ctx, e)
	}
}

// Format prints where the keys come from, whatever the verb.
func (j *JWKS) Format(f fmt.State, _ rune) {
	if j == nil {
		fmt.Fprint(f, "<nil JWKS>")
		return
	}
	v := j.version.Load()
	if v == nil {
		fmt.Fprint(f, "unset JWKS")
		return
	}
	fmt.Fprintf(f, "JWKS %s", v.name)
}
