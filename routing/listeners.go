package routing

import (
	"net/http"

	"github.com/gatemesh-go/gatemesh"
)

// listeners finds the one that a call belongs to. What serves every port is in
// the groups of all ports.
type listeners struct {
	ports  map[portKey]*listenerGroup
	others [2]*listenerGroup // of ports that no listener names, plain and encrypted
}

type portKey struct {
	port      uint16
	encrypted bool
}

// listenerGroup are the listeners of one port that are all encrypted, or none.
type listenerGroup struct {
	exact   map[string]*listener
	wild    map[string]*listener // by what follows "*."
	longest int                  // of wild
	any     *listener
}

// listener is a compiled Listener.
type listener struct {
	name, hostname string
	port           uint16
	public         uint16 // 0 is the local port
	tls            bool
	hosts          *hosts
}

// denyMisdirected makes a client that reuses a connection for another name open
// one of its own (RFC 9110 §15.5.20).
var denyMisdirected = &gatemesh.Denial{
	Code: gatemesh.InvalidArgument, Status: http.StatusMisdirectedRequest,
	Reason: "misdirected", Detail: "The connection is for another host.",
}

// of returns the listener that c belongs to, or nil. A call that came on a
// connection for another one belongs nowhere.
func (l *listeners) of(c *gatemesh.Call) (*listener, error) {
	encrypted := c.Encrypted()
	g := l.ports[portKey{c.LocalPort(), encrypted}]
	if g == nil {
		g = l.others[index(encrypted)]
	}
	found := g.of(c.Host())
	if c.SNI() != "" { // on TLS connections alone
		name, _, err := gatemesh.CanonicalHost(c.SNI())
		if named := g.of(name); err == nil && named != nil && found != nil && named != found {
			return nil, denyMisdirected
		}
	}
	return found, nil
}

func index(encrypted bool) int {
	if encrypted {
		return 1
	}
	return 0
}

// of returns the listener with the most specific hostname that matches host, or nil.
func (g *listenerGroup) of(host string) *listener {
	if l := g.exact[host]; l != nil {
		return l
	}
	for host = parent(host, g.longest); host != ""; host = parent(host, g.longest) {
		if l := g.wild[host]; l != nil {
			return l
		}
	}
	return g.any
}

// newListeners puts the listeners together by what they have in common. Of two
// with the same hostname, the one with the port goes first.
func newListeners(all []*listener) *listeners {
	out := &listeners{ports: map[portKey]*listenerGroup{}}
	for _, encrypted := range [...]bool{false, true} {
		out.others[index(encrypted)] = newGroup(all, portKey{0, encrypted})
	}
	for _, l := range all {
		if key := (portKey{l.port, l.tls}); l.port != 0 && out.ports[key] == nil {
			out.ports[key] = newGroup(all, key)
		}
	}
	return out
}

func newGroup(all []*listener, key portKey) *listenerGroup {
	g := &listenerGroup{exact: map[string]*listener{}, wild: map[string]*listener{}}
	for _, port := range [...]uint16{0, key.port} { // the latter in place of the former
		for _, l := range all {
			if l.port == port && l.tls == key.encrypted {
				g.put(l)
			}
		}
	}
	return g
}

func (g *listenerGroup) put(l *listener) {
	suffix, isWild := wildcard(l.hostname)
	switch {
	case l.hostname == "":
		g.any = l
	case isWild:
		g.wild[suffix], g.longest = l, max(g.longest, len(suffix))
	default:
		g.exact[l.hostname] = l
	}
}
