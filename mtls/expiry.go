package mtls

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Status is what operators watch, as gauges and counters of whatever they use.
//
// A certificate that nobody renews is also told to [Config.Observer], once a
// step: as a notice when a quarter of its life is left, as a fault when a tenth
// is, and as a fault when it has ended. Sources that renew at half or at two
// thirds of the life, as SPIRE, cert-manager and package devca do, get there
// only if they fail. No goroutine watches it: handshakes, calls and
// [TLS.Status] do.
type Status struct {
	// ID is who we are. It is zero if the Source has no credentials.
	ID ID
	// NotBefore and NotAfter say when all certificates that we present are
	// valid together.
	NotBefore, NotAfter time.Time
	// PlainText counts the calls that were admitted in plain text. Once it
	// stands still, ModeStrict is safe.
	PlainText uint64
	// Missing counts the calls that were refused because they came without a
	// certificate on a live connection, as after a change to ModeStrict.
	// Handshakes that fail are not calls.
	Missing uint64
}

// Status returns the state of the moment.
func (t *TLS) Status() Status {
	out := Status{PlainText: t.plain.admitted.Load(), Missing: t.plain.refused.Load()}
	s := t.latest()
	if creds := s.Source.Credentials(); creds != nil {
		e := t.watch(s, creds, time.Now())
		out.ID, out.NotBefore, out.NotAfter = creds.ID, e.since, e.until
	}
	return out
}

// steps are the shares of its life that are left of a certificate when
// something is said about it.
var steps = [...]struct {
	left    int64 // one part of so many; 0 is none
	kind    gatemesh.EventKind
	message string
}{
	{4, gatemesh.EventNotice, "our certificate should have been renewed"},
	{10, gatemesh.EventFault, "our certificate expires soon"},
	{0, gatemesh.EventFault, "our certificate has expired"},
}

// expiry follows one certificate of ours.
type expiry struct {
	creds        *Credentials
	since, until time.Time
	told         *told
	before       []*told // of the certificates before it
}

// told is what was said about a certificate. Credentials that differ in their
// bundles alone share it.
type told struct {
	cert  []byte
	steps atomic.Int64 // how many
	next  atomic.Int64 // when there is more to say, in Unix nanoseconds
}

// maxTold bounds the certificates that are remembered, so that a call which
// comes late with an old one has nothing said twice.
const maxTold = 4

// watch says what is due about our certificate. Nothing almost always is.
func (t *TLS) watch(s *Config, creds *Credentials, now time.Time) *expiry {
	e := t.expires.Load()
	if e == nil || e.creds != creds {
		e = t.follow(e, creds)
	}
	if now.UnixNano() >= e.told.next.Load() {
		e.tell(s.Observer, now)
	}
	return e
}

func (t *TLS) follow(old *expiry, creds *Credentials) *expiry {
	for {
		e := newExpiry(old, creds)
		if t.expires.CompareAndSwap(old, e) {
			return e
		}
		if old = t.expires.Load(); old.creds == creds {
			return old // somebody else was faster
		}
	}
}

func newExpiry(old *expiry, creds *Credentials) *expiry {
	e := &expiry{creds: creds}
	certs := chain(creds)
	if len(certs) == 0 { // not made by NewCredentials; handshakes will fail
		e.told = &told{}
		e.told.next.Store(math.MaxInt64)
		return e
	}
	e.since, e.until = window(certs)
	if old != nil {
		e.before = append([]*told{old.told}, old.before[:min(len(old.before), maxTold-1)]...)
	}
	for _, b := range e.before {
		if bytes.Equal(b.cert, certs[0].Raw) {
			e.told = b
			return e
		}
	}
	e.told = &told{cert: certs[0].Raw}
	e.told.next.Store(e.due(0))
	return e
}

// chain returns the certificates that we present, without those that peers
// could not read either.
func chain(creds *Credentials) []*x509.Certificate {
	if creds.Certificate.Leaf == nil || len(creds.Certificate.Certificate) == 0 {
		return nil
	}
	out := []*x509.Certificate{creds.Certificate.Leaf}
	for _, der := range creds.Certificate.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// due returns when a step is.
func (e *expiry) due(step int) int64 {
	if step >= len(steps) {
		return math.MaxInt64
	}
	if left := steps[step].left; left > 0 {
		return e.until.Add(-e.until.Sub(e.since) / time.Duration(left)).UnixNano()
	}
	return e.until.UnixNano() + 1 // valid until then, inclusive
}

// tell says the latest step that is due; those before it are no news any more.
func (e *expiry) tell(o gatemesh.Observer, now time.Time) {
	for {
		before := e.told.steps.Load()
		after := before
		for now.UnixNano() >= e.due(int(after)) {
			after++
		}
		if after == before {
			return
		}
		if !e.told.steps.CompareAndSwap(before, after) {
			continue
		}
		e.told.next.Store(e.due(int(after)))
		if o != nil {
			step := steps[after-1]
			o.Observe(context.Background(), gatemesh.Event{
				Kind: step.kind, Layer: layerName, Message: step.message,
				Err: fmt.Errorf("mtls: the certificate of %s is valid until %s", e.creds.ID, e.until.UTC().Format(time.RFC3339)),
			})
		}
		return
	}
}
