package mtls

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

// tickets makes the keys of session tickets. crypto/tls would rotate its own,
// but for one tls.Config only, and here each certificate has another one, which
// comes and goes.
type tickets struct {
	current atomic.Pointer[ticketKeys]
	mu      sync.Mutex // for who replaces it
}

// ticketKeys are the keys of a period. They are immutable.
type ticketKeys struct {
	number  int64      // counts what was made
	begin   time.Time  // of the period
	secrets [][32]byte // that of the period, and that of the one before
}

func (k *ticketKeys) goodAt(now time.Time, period time.Duration) bool {
	return k != nil && now.Sub(k.begin) < period
}

// at returns the keys for now. Nobody has to call it in each period: keys that
// nobody saw the end of have ended nevertheless.
func (t *tickets) at(now time.Time, period time.Duration) *ticketKeys {
	if k := t.current.Load(); k.goodAt(now, period) {
		return k
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.current.Load()
	if old.goodAt(now, period) { // somebody else was faster
		return old
	}
	next, over := &ticketKeys{begin: now}, time.Duration(2)
	if old != nil {
		over = now.Sub(old.begin) / period // periods that have ended
		next.number, next.begin = old.number+1, old.begin.Add(over*period)
	}
	next.secrets = [][32]byte{random()}
	if over == 1 { // else nobody has a ticket that is still good
		next.secrets = append(next.secrets, old.secrets[0])
	}
	t.current.Store(next)
	return next
}

func random() (secret [32]byte) {
	_, _ = rand.Read(secret[:]) // never fails
	return secret
}

// of returns the keys for certificates with these names, which share sessions.
func (k *ticketKeys) of(names []string) [][32]byte {
	keys := make([][32]byte, len(k.secrets))
	for i, secret := range k.secrets {
		mac := hmac.New(sha256.New, secret[:])
		for _, name := range names {
			mac.Write([]byte(name))
			mac.Write([]byte{0}) // in no name
		}
		mac.Sum(keys[i][:0])
	}
	return keys
}
