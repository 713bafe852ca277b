package trace

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/gatemesh-go/gatemesh"
)

const (
	maxMethods   = 1024
	maxMethodLen = 256
)

// methods remembers which gRPC methods exist. Anybody can call a method of any
// name, and the gates judge a call before the server has looked for its
// handler; so a name becomes one of a span only when a handler has answered to
// it. If too many have, as in front of a server that answers to every name, the
// rest has none.
type methods struct {
	known atomic.Pointer[map[string]struct{}] // copied on write
	mu    sync.Mutex                          // one writer at a time
}

func (m *methods) has(path string) bool {
	known := m.known.Load()
	if known == nil {
		return false
	}
	_, ok := (*known)[path]
	return ok
}

// learn notes the method of a call that a handler answered, and reports whether
// it is known now.
func (m *methods) learn(c *gatemesh.Call, o gatemesh.Outcome) bool {
	path := c.Path()
	if m.has(path) {
		return true
	}
	if !answered(c, o) || len(path) > maxMethodLen {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var known map[string]struct{}
	if k := m.known.Load(); k != nil {
		known = *k
	}
	if len(known) >= maxMethods {
		return false
	}
	known = maps.Clone(known)
	if known == nil {
		known = map[string]struct{}{}
	}
	known[path] = struct{}{}
	m.known.Store(&known)
	return true
}

// answered reports whether the outcome can only be that of a handler.
func answered(c *gatemesh.Call, o gatemesh.Outcome) bool {
	switch o.Code {
	case gatemesh.OK:
		if c.Outbound() {
			return o.Reached
		}
		return o.Status == 0 // a server of net/http says nothing about the gRPC status
	case gatemesh.Canceled, gatemesh.DeadlineExceeded, gatemesh.Unimplemented:
		return false
	case gatemesh.Unavailable, gatemesh.Unauthenticated, gatemesh.PermissionDenied, gatemesh.ResourceExhausted:
		if c.Outbound() {
			return false // a proxy or gate of the callee may have said so
		}
	}
	if c.Outbound() {
		return o.Status == 0 && o.Denial == nil && o.Reached
	}
	return o.Status == 0 && (o.Denial == nil || o.Panicked)
}
