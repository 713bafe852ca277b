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
)

// Revocation says which credentials are refused from now on although nothing
// else speaks against them. Exactly one of Credential, Subject and KeyID names
// them.
type Revocation struct {
	// Issuer is whose tokens it is about, as in [Issuer.Issuer]. Required, but
	// for API keys, which have none.
	Issuer string
	// Credential is the id of one credential: the jti of a token, or the id of an
	// API key.
	Credential string
	// Subject is a user, all of whose tokens from before IssuedBefore end: those
	// with an earlier iat, and those without one.
	Subject      string
	IssuedBefore time.Time
	// KeyID is the kid of a signing key, whose tokens all end.
	KeyID string
	// Until is when it may be forgotten, which is when the last credential it is
	// about has expired. Required.
	Until time.Time
}

func (r *Revocation) validate() error {
	var f faults
	named := 0
	for _, name := range []string{r.Credential, r.Subject, r.KeyID} {
		if name != "" {
			named++
		}
	}
	if named != 1 {
		f.add("Revocation needs exactly one of Credential, Subject and KeyID")
	}
	if r.Issuer == "" && r.Credential == "" {
		f.add("Revocation.Issuer is required")
	}
	if (r.Subject != "") == r.IssuedBefore.IsZero() {
		f.add("Revocation.IssuedBefore is required with Subject, and an error without")
	}
	if r.Until.IsZero() {
		f.add("Revocation.Until is required")
	}
	return errors.Join(f...)
}

// RevocationLog shares revocations among the replicas of a service. It must be
// safe for concurrent use.
type RevocationLog interface {
	// Append adds r. When it returns without an error, r will reach all that
	// follow.
	Append(ctx context.Context, r Revocation) error
	// Follow calls apply first with all revocations that there are, none
	// included, and then with those that come, until ctx is over. An error says
	// that it missed some, or may have; Follow is then called again. Revocations
	// may come twice.
	Follow(ctx context.Context, apply func([]Revocation)) error
}

// RevocationsConfig configures [Revocations]. The zero RevocationsConfig is
// valid: revocations of this process alone.
type RevocationsConfig struct {
	// Log shares them with other replicas. Default: nobody.
	Log RevocationLog
	// MaxBlind is for how long credentials are accepted while the Log cannot be
	// followed, by the revocations known until then. After that, and before the
	// Log was read for the first time, they are refused as
	// [Config.UnavailableStatus] says. Required with Log, and an error without.
	// 1 second to 24 hours.
	MaxBlind time.Duration
	// MaxEntries bounds how many are kept. A further one is an error of Revoke;
	// from the Log, it is as if that could not be followed. 1 to 10,000,000.
	// Default: 100,000.
	MaxEntries int
	// Observer hears when the Log cannot be followed (EventFault), and when it
	// can be again (EventNotice). Default: nobody.
	Observer gatemesh.Observer
}

// Revocations are the credentials that an [Authenticator] refuses before they
// expire. They concern remembered tokens at once. Streams that are open stay. It
// is safe for concurrent use. Make one with [NewRevocations] and close it, after
// the Authenticator's last use. It can serve several.
type Revocations struct {
	cfg    RevocationsConfig
	cancel context.CancelFunc
	done   chan struct{}

	// changes counts what was added, so that a token that was looked at need not
	// be looked up again until there is something new.
	changes atomic.Uint64
	blind   atomic.Int64 // Unix ns from when on nothing is known of the Log; 0 while it is followed

	mu       sync.RWMutex
	entries  map[revocationKey]revoked
	sweepAt  int       // the number of entries at which to look for those that are over
	earliest time.Time // no entry is over before
}

type revocationKey struct {
	kind         byte // 'c', 's' or 'k'
	issuer, name string
}

type revoked struct {
	before time.Time // of subjects
	until  time.Time
}

// longAgo is a time from which on everything is too long ago.
const longAgo = 1

// NewRevocations returns Revocations that have begun to follow cfg.Log. It
// reports every invalid field at once.
func NewRevocations(cfg RevocationsConfig) (*Revocations, error) {
	if cfg.MaxEntries == 0 {
		cfg.MaxEntries = 100_000
	}
	var f faults
	checkRange(&f, "RevocationsConfig.MaxEntries", cfg.MaxEntries, 1, 10_000_000)
	switch {
	case cfg.Log == nil && cfg.MaxBlind != 0:
		f.add("RevocationsConfig.MaxBlind has a meaning only with Log")
	case cfg.Log != nil && isNil(cfg.Log):
		f.add("RevocationsConfig.Log is nil")
	case cfg.Log != nil:
		checkRange(&f, "RevocationsConfig.MaxBlind", cfg.MaxBlind, time.Second, 24*time.Hour)
	}
	if err := errors.Join(f...); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Revocations{cfg: cfg, cancel: cancel, done: make(chan struct{}), entries: map[revocationKey]revoked{}, sweepAt: 1024}
	r.changes.Store(rand.Uint64()) // what others have looked at counts for nothing here
	if cfg.Log == nil {
		close(r.done)
		return r, nil
	}
	r.blind.Store(longAgo)
	go r.follow(ctx)
	return r, nil
}

// Close ends the following and waits for it. What is known stays, and MaxBlind
// begins. Closing twice is harmless.
func (r *Revocations) Close() error {
	if r.cancel != nil {
		r.cancel()
		<-r.done
	}
	return nil
}

var errRevocationsUnset = errors.New("auth: the Revocations were not made by NewRevocations")

// Revoke refuses credentials from now on, here at once, and at other replicas
// when the Log brings it there. If it returns an error of the Log, it holds here
// alone, and may be tried again.
func (r *Revocations) Revoke(ctx context.Context, rev Revocation) error {
	if r.entries == nil {
		return errRevocationsUnset
	}
	if err := rev.validate(); err != nil {
		return err
	}
	if !r.add([]Revocation{rev}) {
		return fmt.Errorf("auth: there are already %d revocations (MaxEntries)", r.cfg.MaxEntries)
	}
	if r.cfg.Log == nil {
		return nil
	}
	if err := r.cfg.Log.Append(ctx, rev); err != nil {
		return fmt.Errorf("auth: the revocation holds here alone: %w", err)
	}
	return nil
}

// Len returns how many revocations are kept, some of which may be over.
func (r *Revocations) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.entries)
}

// add adds revocations, and reports whether there was room for all.
func (r *Revocations) add(list []Revocation) (all bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	all, swept := true, false
	for i := range list {
		rev := &list[i]
		if !now.Before(rev.Until) {
			continue
		}
		k := revocationKey{'c', rev.Issuer, rev.Credential}
		switch {
		case rev.Subject != "":
			k = revocationKey{'s', rev.Issuer, rev.Subject}
		case rev.KeyID != "":
			k = revocationKey{'k', rev.Issuer, rev.KeyID}
		}
		old, there := r.entries[k]
		if !there && len(r.entries) >= min(r.sweepAt, r.cfg.MaxEntries) && !swept && !now.Before(r.earliest) {
			swept = true
			r.sweep(now)
		}
		if !there && len(r.entries) >= r.cfg.MaxEntries {
			all = false
			continue
		}
		if !there && (len(r.entries) == 0 || rev.Until.Before(r.earliest)) {
			r.earliest = rev.Until
		}
		r.entries[k] = revoked{later(old.before, rev.IssuedBefore), later(old.until, rev.Until)}
	}
	r.changes.Add(1) // afterwards, and before the lock is given back
	return all
}

// sweep forgets the entries that are over. It is worth it only when there are
// twice as many as after the last time, or no room.
func (r *Revocations) sweep(now time.Time) {
	r.earliest = time.Time{}
	for k, e := range r.entries {
		switch {
		case !now.Before(e.until):
			delete(r.entries, k)
		case r.earliest.IsZero() || e.until.Before(r.earliest):
			r.earliest = e.until
		}
	}
	r.sweepAt = max(1024, 2*len(r.entries))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// lost reports whether too little is known of the Log to accept anything.
func (r *Revocations) lost(now time.Time) bool {
	since := r.blind.Load()
	return since != 0 && now.UnixNano()-since > int64(r.cfg.MaxBlind)
}

// bearing is what a revocation can name a credential by.
type bearing struct {
	issuer, credential, subject, keyID string
	issued                             int64 // Unix ns; 0, which is before all others, if unknown
}

// concern reports whether a revocation is about a credential.
func (r *Revocations) concern(b bearing, now time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	holds := func(kind byte, name string) (revoked, bool) {
		if name == "" {
			return revoked{}, false
		}
		e, ok := r.entries[revocationKey{kind, b.issuer, name}]
		return e, ok && now.Before(e.until)
	}
	if _, ok := holds('c', b.credential); ok {
		return true
	}
	if _, ok := holds('k', b.keyID); ok {
		return true
	}
	e, ok := holds('s', b.subject)
	return ok && b.issued < unixNano(e.before)
}

// follow keeps up with the Log.
func (r *Revocations) follow(ctx context.Context) {
	defer close(r.done)
	failed := false
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		full := false
		once, stop := context.WithCancel(ctx)
		err := r.followOnce(once, func(list []Revocation) {
			if full = full || !r.add(list); full {
				stop()
				return
			}
			r.blind.Store(0)
			pause = 100 * time.Millisecond
			if failed {
				failed = false
				r.observe(ctx, gatemesh.Event{Kind: gatemesh.EventNotice, Layer: "auth", Message: "the revocation log can be followed again"})
			}
		})
		stop()
		r.blind.CompareAndSwap(0, time.Now().UnixNano())
		if ctx.Err() != nil {
			return
		}
		if full {
			err = fmt.Errorf("there are more revocations than MaxEntries %d", r.cfg.MaxEntries)
		}
		if !failed {
			failed = true
			r.observe(ctx, gatemesh.Event{Kind: gatemesh.EventFault, Layer: "auth", Err: err, Message: "the revocation log cannot be followed"})
		}
		t := time.NewTimer(pause - rand.N(pause/4))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

var errLogEnded = errors.New("the log ended")

// followOnce ends when the Log does, or with ctx.
func (r *Revocations) followOnce(ctx context.Context, apply func([]Revocation)) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the log panicked: %v", v)
		}
	}()
	if err = r.cfg.Log.Follow(ctx, apply); err == nil {
		err = errLogEnded
	}
	return err
}

func (r *Revocations) observe(ctx context.Context, e gatemesh.Event) {
	if r.cfg.Observer != nil {
		r.cfg.Observer.Observe(ctx, e)
	}
}

// checkRevoked refuses a token that was found good.
func (s *state) checkRevoked(v *verified, now time.Time) *gatemesh.Denial {
	r := s.cfg.Revocations
	if r == nil {
		return nil
	}
	if r.lost(now) {
		return s.unavailable(errLogLost)
	}
	changes := r.changes.Load() // before the look, so that nothing is missed
	if v.cleared.Load() == changes {
		return nil
	}
	p := v.principal
	keyID := ""
	if v.key != nil { // not its kid, which it need not have
		keyID = v.key.id
	}
	if r.concern(bearing{p.Issuer(), p.Credential(), p.Subject(), keyID, v.issued}, now) {
		return s.deny.revoked
	}
	v.cleared.Store(changes)
	return nil
}

// checkKeyRevoked refuses an API key that was found good.
func (s *state) checkKeyRevoked(p *gatemesh.Principal, now time.Time) *gatemesh.Denial {
	r := s.cfg.Revocations
	switch {
	case r == nil:
		return nil
	case r.lost(now):
		return s.unavailable(errLogLost)
	case r.concern(bearing{credential: p.Credential()}, now):
		return s.deny.apiKeyRevoked.WithCause(errors.New("key id " + p.Credential()))
	}
	return nil
}

var errLogLost = errors.New("the revocation log could not be followed for longer than MaxBlind")
