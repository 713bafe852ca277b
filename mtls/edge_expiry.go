package mtls

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// EdgeStatus is what operators watch of one certificate.
//
// A certificate that nobody renews is also told to [EdgeConfig.Observer], once
// a step: as a notice when a quarter of its life is left, as a fault when a
// tenth is, and as a fault when it has ended or has not begun.
type EdgeStatus struct {
	// From is the path of the certificate, or its place in the EdgeConfig.
	From string
	// Names are the DNS names and IP addresses it is for, sorted.
	Names []string
	// NotBefore and NotAfter say when the certificate is valid, whatever else
	// its chain holds.
	NotBefore, NotAfter time.Time
}

// Status returns the certificates that are in use, in the order of the
// configuration.
func (e *Edge) Status() (all []EdgeStatus) {
	s := e.live.Latest()
	if s == nil {
		return nil
	}
	for _, c := range s.watch.Current().certs {
		all = append(all, EdgeStatus{From: c.from, Names: slices.Clone(c.names), NotBefore: c.since, NotAfter: c.until})
	}
	return all
}

// edgeExpiry remembers what was said about the certificates in use.
type edgeExpiry struct {
	mu   sync.Mutex
	told map[[sha256.Size]byte]int // steps, by leaf
}

// edgeSteps are said in this order.
var edgeSteps = []struct {
	kind    gatemesh.EventKind
	message string
}{
	{},
	{gatemesh.EventNotice, "an edge certificate should have been renewed"},
	{gatemesh.EventFault, "an edge certificate expires soon"},
	{gatemesh.EventFault, "an edge certificate is not valid"},
}

func (c *edgeCert) step(now time.Time) int {
	life, left := c.until.Sub(c.since), c.until.Sub(now)
	switch {
	case !c.validAt(now):
		return 3
	case left <= life/10:
		return 2
	case left <= life/4:
		return 1
	}
	return 0
}

// tell says what is due about the certificates of s.
func (x *edgeExpiry) tell(s *edgeState, now time.Time) {
	var due []gatemesh.Event
	x.mu.Lock()
	told := map[[sha256.Size]byte]int{}
	for _, c := range s.watch.Current().certs {
		leaf, step := sha256.Sum256(c.cert.Certificate[0]), c.step(now)
		if _, twice := told[leaf]; !twice && step > x.told[leaf] {
			due = append(due, gatemesh.Event{
				Kind: edgeSteps[step].kind, Layer: "mtls", Message: edgeSteps[step].message,
				Err: fmt.Errorf("mtls: %s: the certificate for %s is valid from %s to %s", c.from, strings.Join(c.names, ", "),
					c.since.UTC().Format(time.RFC3339), c.until.UTC().Format(time.RFC3339)),
			})
		}
		told[leaf] = step
	}
	x.told = told
	x.mu.Unlock() // whoever is told may call Update
	for _, e := range due {
		if s.cfg.Observer != nil {
			s.cfg.Observer.Observe(context.Background(), e)
		}
	}
}
