package auth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/breaker"
)

// JWKS is a [KeySource] that follows an issuer's JSON Web Key Set (RFC 7517).
// One goroutine fetches it, at intervals and when a token names a key that is
// not there; see [JWKSConfig] for what bounds that. Make one with [NewJWKS] and
// close it; it is safe for concurrent use.
//
// Fails closed: without keys, tokens are refused. A document that cannot be
// fetched or read, or has no usable key, counts as a failed fetch, and the last
// good keys stay until MaxStale. Single keys that cannot be used are left out:
// unknown types, RSA below 2048 bits, private keys, and secrets, which do not
// belong into a published document.
type JWKS struct {
	cfg  JWKSConfig
	name string
	load func(context.Context) ([]byte, error)
	idle func() // closes connections of our own

	current atomic.Pointer[fetchedKeys]
	plan    plan             // says when to fetch
	breaker *breaker.Breaker // may say "not yet", and that callers should not wait for a fetch
	wake    chan struct{}

	ctx     context.Context
	cancel  context.CancelFunc
	stopped chan struct{}

	// Of the fetching goroutine alone.
	failing bool
	badKeys string
}

// maxFailures is how many fetches must fail in a row for callers not to wait
// for the next one.
const maxFailures = 3

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
	cfg = cfg.withDefaults()
	name, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	j := &JWKS{cfg: cfg, name: name, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	j.plan = plan{cooldown: cfg.Cooldown, missing: map[string]time.Time{}}
	if j.breaker, err = breaker.New(breaker.Config{
		Name: "key set " + name, Observer: cfg.Observer,
		Policy: breaker.Policy{Failures: maxFailures, Delay: min(cfg.Cooldown, time.Minute)}, // a Retry-After may be longer
	}); err != nil {
		return nil, err
	}
	if cfg.File != "" {
		j.load, j.idle = readFile(cfg.File, cfg.MaxBody), func() {}
		data, err := j.load(context.Background())
		if err == nil {
			_, _, err = parseJWKS(data, false)
		}
		if err != nil {
			return nil, fmt.Errorf("auth: JWKSConfig.File: %w", err)
		}
	} else {
		j.load, j.idle = httpGet(cfg)
	}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	go j.run()
	return j, nil
}

// Close ends the fetching and waits for it. The keys stay until MaxStale.
// Closing twice is harmless.
func (j *JWKS) Close() error {
	j.cancel()
	<-j.stopped
	return nil
}

// Keys returns the last good keys, or nil if they are older than MaxStale.
func (j *JWKS) Keys(now time.Time) *Keys {
	f := j.current.Load()
	if f == nil || now.Sub(f.seen) > j.cfg.MaxStale {
		return nil
	}
	return f.keys
}

// Refresh waits for the fetch under way, or for a new one if none was begun
// within the cool-down, and returns the keys. During the cool-down, for ids
// that were missing from a recent fetch, and while the breaker is open, it
// returns at once.
func (j *JWKS) Refresh(ctx context.Context, kid string) *Keys {
	now := time.Now()
	if j.breaker.State() != breaker.Closed { // the goroutine probes on its own
		return j.Keys(now)
	}
	done, wake := j.plan.ask(now, kid)
	if wake {
		j.poke()
	}
	if done != nil {
		ctx, cancel := context.WithTimeout(ctx, j.cfg.FetchTimeout)
		select {
		case <-done:
		case <-ctx.Done():
		case <-j.stopped:
		}
		cancel()
	}
	return j.Keys(time.Now())
}

func (j *JWKS) poke() {
	select {
	case j.wake <- struct{}{}:
	default: // it will look at the plan anyway
	}
}

func (j *JWKS) run() {
	defer close(j.stopped)
	defer j.idle()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-j.ctx.Done():
			return
		case <-timer.C:
		case <-j.wake:
		}
		// After a Retry-After, the breaker lets nobody through when the plan would.
		if j.breaker.Remaining() == 0 && j.plan.begin(time.Now()) {
			found, again := j.fetch()
			j.plan.end(time.Now(), found, again)
		}
		timer.Reset(max(j.plan.wait(time.Now()), j.breaker.Remaining()))
	}
}

// fetch returns the keys it found, or nil if it failed, and in how long to
// fetch again.
func (j *JWKS) fetch() (found *Keys, again time.Duration) {
	permit, err := j.breaker.Acquire(j.ctx)
	if err != nil {
		return nil, j.breaker.Remaining()
	}
	defer permit.Close()
	ctx, cancel := context.WithTimeout(j.ctx, j.cfg.FetchTimeout)
	defer cancel()
	data, err := j.load(ctx)
	var bad []error
	if err == nil {
		found, bad, err = parseJWKS(data, false)
	}
	if j.ctx.Err() != nil { // closed
		permit.Neutral()
		return nil, 0
	}
	if err != nil {
		var answer *statusError
		var after time.Duration
		if errors.As(err, &answer) {
			after = answer.after
		}
		permit.Failure(after)
		j.report(err, nil)
		return nil, earlier(min(j.cfg.RefreshInterval, 2*j.cfg.Cooldown))
	}
	if old := j.current.Load(); old != nil && old.keys.equal(found) {
		found = old.keys // the same pointer: what was verified needs no second look
	}
	j.current.Store(&fetchedKeys{found, time.Now()})
	permit.Success()
	j.report(nil, errors.Join(bad...))
	return found, earlier(j.cfg.RefreshInterval)
}

// earlier is up to a tenth less than d, and never more, so that limits hold.
func earlier(d time.Duration) time.Duration { return d - rand.N(d/10) }

// report tells the Observer what has changed since the last fetch.
func (j *JWKS) report(err, bad error) {
	failed, badKeys := err != nil, ""
	if bad != nil {
		badKeys = bad.Error()
	}
	e := gatemesh.Event{Layer: "auth"}
	switch {
	case failed:
		e.Kind, e.Err, e.Message = gatemesh.EventFault, err, "key set "+j.name+" cannot be fetched"
		if j.Keys(time.Now()) != nil {
			e.Message += "; the last good keys stay in use"
		}
	case badKeys != j.badKeys && bad != nil:
		e.Kind, e.Err, e.Message = gatemesh.EventFault, bad, "key set "+j.name+" has keys that cannot be used"
	case j.failing:
		e.Kind, e.Message = gatemesh.EventNotice, "key set "+j.name+" can be fetched again"
	}
	j.failing = failed
	if !failed {
		j.badKeys = badKeys
	}
	if e.Kind != 0 && j.cfg.Observer != nil {
		j.cfg.Observer.Observe(j.ctx, e)
	}
}

// Format prints where the keys come from, whatever the verb.
func (j *JWKS) Format(f fmt.State, _ rune) {
	if j == nil {
		fmt.Fprint(f, "<nil JWKS>")
		return
	}
	fmt.Fprintf(f, "JWKS %s", j.name)
}
