package auth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// JWKSConfig configures a [JWKS]. The zero JWKSConfig is invalid: one of URL
// and File is required.
type JWKSConfig struct {
	// URL is where the issuer publishes its keys, with https. Redirects are
	// not followed: the keys would be somebody else's.
	URL string
	// File is read instead of URL. It must be readable and valid from the
	// start, while an endpoint may still be down.
	File string
	// InsecureHTTP allows a URL with http to other hosts than this one.
	// Whoever is on the way can then put in keys of his own.
	InsecureHTTP bool
	// Client makes the requests. Its CheckRedirect is not used. Default: a
	// client of its own, with the proxies of the environment.
	Client *http.Client
	// RefreshInterval is the longest time between two successful fetches, and
	// so the time after which a withdrawn key is refused. Fetches come up to a
	// tenth earlier, so that replicas do not march in step. Default: 5 minutes.
	RefreshInterval time.Duration
	// FetchTimeout bounds a fetch and every wait for one. Default: 2 seconds.
	FetchTimeout time.Duration
	// MaxStale is how long the last good keys are used when no fetch succeeds.
	// Default: 1 hour. Not shorter than RefreshInterval.
	MaxStale time.Duration
	// Cooldown is the shortest time between two fetches, whatever key ids
	// callers invent. After a failed fetch, the next one follows within two
	// cool-downs. Default: 10 seconds, or RefreshInterval if that is less, which
	// is also its upper limit.
	Cooldown time.Duration
	// MaxBody bounds the document in bytes. Default: 1 MiB.
	MaxBody int64
	// Observer hears of fetches that failed or work again, and of keys that
	// cannot be used. Default: nobody.
	Observer gatemesh.Observer
}

func (cfg JWKSConfig) withDefaults() JWKSConfig {
	if cfg.RefreshInterval == 0 {
		cfg.RefreshInterval = 5 * time.Minute
	}
	if cfg.FetchTimeout == 0 {
		cfg.FetchTimeout = 2 * time.Second
	}
	if cfg.MaxStale == 0 {
		cfg.MaxStale = time.Hour
	}
	if cfg.Cooldown == 0 {
		cfg.Cooldown = min(10*time.Second, cfg.RefreshInterval)
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 1 << 20
	}
	return cfg
}

// validate returns how to name the source in events, without what may be secret.
func (cfg *JWKSConfig) validate() (name string, err error) {
	var f faults
	switch {
	case (cfg.URL == "") == (cfg.File == ""):
		f.add("JWKSConfig needs either URL or File")
	case cfg.File != "":
		name = cfg.File
	default:
		u, err := url.Parse(cfg.URL)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			f.add("JWKSConfig.URL is not an absolute https URL")
		case u.Scheme == "http" && !cfg.InsecureHTTP && !isLoopback(u.Hostname()):
			f.add("JWKSConfig.URL is not https; InsecureHTTP would allow it")
		default:
			name = u.Scheme + "://" + u.Host + u.EscapedPath()
		}
	}
	checkRange(&f, "JWKSConfig.RefreshInterval", cfg.RefreshInterval, time.Second, 24*time.Hour)
	checkRange(&f, "JWKSConfig.FetchTimeout", cfg.FetchTimeout, time.Millisecond, time.Minute)
	checkRange(&f, "JWKSConfig.MaxStale", cfg.MaxStale, cfg.RefreshInterval, 30*24*time.Hour)
	checkRange(&f, "JWKSConfig.Cooldown", cfg.Cooldown, 100*time.Millisecond, cfg.RefreshInterval)
	if cfg.MaxBody < 1 || cfg.MaxBody > 64<<20 {
		f.add("JWKSConfig.MaxBody %d is not between 1 and 64 MiB", cfg.MaxBody)
	}
	return name, errors.Join(f...)
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

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
	plan    plan
	wake    chan struct{}

	ctx     context.Context
	cancel  context.CancelFunc
	stopped chan struct{}

	// Of the fetching goroutine alone.
	failing bool
	badKeys string
}

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
// within the cool-down, and returns the keys. During the cool-down, and for ids
// that were missing from a recent fetch, it returns at once.
func (j *JWKS) Refresh(ctx context.Context, kid string) *Keys {
	now := time.Now()
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
		if j.plan.begin(time.Now()) {
			found, again := j.fetch()
			j.plan.end(time.Now(), found, again)
		}
		timer.Reset(j.plan.wait(time.Now()))
	}
}

// fetch returns the keys it found, or nil if it failed, and in how long to
// fetch again.
func (j *JWKS) fetch() (found *Keys, again time.Duration) {
	ctx, cancel := context.WithTimeout(j.ctx, j.cfg.FetchTimeout)
	defer cancel()
	data, err := j.load(ctx)
	var bad []error
	if err == nil {
		found, bad, err = parseJWKS(data, false)
	}
	if j.ctx.Err() != nil { // closed
		return nil, 0
	}
	j.report(err, errors.Join(bad...))
	again = j.cfg.RefreshInterval
	if err != nil {
		found, again = nil, min(again, 2*j.cfg.Cooldown)
	} else {
		if old := j.current.Load(); old != nil && old.keys.equal(found) {
			found = old.keys // the same pointer: what was verified needs no second look
		}
		j.current.Store(&fetchedKeys{found, time.Now()})
	}
	// Only ever earlier, so that RefreshInterval holds.
	return found, again - time.Duration(rand.Int64N(int64(again)/10))
}

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
