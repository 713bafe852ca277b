package ratelimit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/gatemesh-go/gatemesh"
)

// maxKeyLen bounds what the table stores of a key. Longer ones are stored as
// their SHA-256, which no two are known to share.
const maxKeyLen = 256

// errNobody is for calls that have nobody to charge.
var errNobody = gatemesh.Deny(gatemesh.Unauthenticated, "unauthenticated", "Authentication is required.")

// Key says whom a call is charged to. [ByClient], [ByConsumer] and [ByFunc]
// return one; the zero Key is invalid. Keys are immutable and safe for
// concurrent use.
type Key struct {
	kind     keyKind
	bits     int
	fn       func(*gatemesh.Call) (string, error)
	needs    []gatemesh.Fact
	perRoute bool
}

type keyKind uint8

const (
	keyNone keyKind = iota
	keyClient
	keyConsumer
	keyFunc
)

// ByClient charges the address of the client, see [gatemesh.Call.Client]: IPv4
// by the whole address, IPv6 by its first ipv6PrefixBits bits, because one
// customer's line usually has a /64 or more of them. 0 stands for 64; 32 to
// 128 are valid. IPv6 forms of IPv4 addresses count as IPv4, see
// [gatemesh.ClientNetwork]. Calls whose address is unknown, as on Unix sockets,
// share one key.
//
// The layer gives [gatemesh.FactClientLimit].
func ByClient(ipv6PrefixBits int) Key {
	if ipv6PrefixBits == 0 {
		ipv6PrefixBits = 64
	}
	return Key{kind: keyClient, bits: ipv6PrefixBits}
}

// ByConsumer charges the authenticated principal: its consumer id, else its
// subject, in both cases within its issuer, so that no issuer's users can use
// up another's quota. An application that authenticates through two issuers
// is therefore charged as two.
//
// The layer needs [gatemesh.FactPrincipal] and gives
// [gatemesh.FactConsumerLimit]. Fails closed: a call without a principal, or
// with one that names neither consumer nor subject, is Unauthenticated.
func ByConsumer() Key { return Key{kind: keyConsumer} }

// ByFunc charges what f returns, which may be any string; a constant makes one
// limit for all calls together. f must be fast and safe for concurrent use.
// The layer needs the facts that f relies on.
//
// Fails closed: an error refuses the call, as the [*gatemesh.Denial] that it
// is, else as Internal. A key of which callers can choose any number limits
// nobody: do not charge an unverified header field.
func ByFunc(f func(c *gatemesh.Call) (string, error), needs ...gatemesh.Fact) Key {
	return Key{kind: keyFunc, fn: f, needs: slices.Clone(needs)}
}

// PerRoute returns k charged for each route apart, by [gatemesh.Route.Name].
// The layer then needs [gatemesh.FactRoute] as well. Calls without a route are
// charged together.
func (k Key) PerRoute() Key {
	k.perRoute = true
	return k
}

// layer returns the facts that a limiter with this key needs and gives.
func (k Key) layer() (l gatemesh.Layer) {
	l.Needs = slices.Clone(k.needs)
	switch k.kind {
	case keyClient:
		l.Gives = []gatemesh.Fact{gatemesh.FactClientLimit}
	case keyConsumer:
		l.Needs = append(l.Needs, gatemesh.FactPrincipal)
		l.Gives = []gatemesh.Fact{gatemesh.FactConsumerLimit}
	}
	if k.perRoute {
		l.Needs = append(l.Needs, gatemesh.FactRoute)
	}
	return l
}

func (k Key) fault() error {
	switch {
	case k.kind == keyNone:
		return errors.New("ratelimit: Config.Key is required")
	case k.kind == keyClient && (k.bits < 32 || k.bits > 128):
		return fmt.Errorf("ratelimit: Config.Key: an IPv6 prefix of %d bits is not between 32 and 128", k.bits)
	case k.kind == keyFunc && k.fn == nil:
		return errors.New("ratelimit: Config.Key: the function of ByFunc is required")
	}
	return nil
}

// sameFacts reports whether a layer with k may stand wherever one with o may.
func (k Key) sameFacts(o Key) bool {
	return k.kind == o.kind && k.perRoute == o.perRoute && slices.Equal(k.needs, o.needs)
}

// Each kind of identity begins with a byte of its own, and every part but the
// last is preceded by its length, so that no two identities share a key.
const (
	tagIPv4     = '4'
	tagIPv6     = '6'
	tagUnknown  = '?'
	tagConsumer = 'c'
	tagSubject  = 's'
	tagFunc     = 'f'
	tagLong     = 'l'
)

// append appends the key of c to dst, which is empty.
func (k *Key) append(dst []byte, c *gatemesh.Call) ([]byte, error) {
	if k.perRoute {
		route := ""
		if r := c.Route(); r != nil {
			route = r.Name
		}
		dst = appendPart(dst, route)
	}
	switch k.kind {
	case keyClient:
		dst = appendClient(dst, c.Client(), k.bits)
	case keyConsumer:
		p := c.Principal()
		if p == nil {
			return nil, errNobody
		}
		tag, id := byte(tagConsumer), p.Consumer()
		if id == "" {
			tag, id = tagSubject, p.Subject()
		}
		if id == "" {
			return nil, errNobody
		}
		dst = appendPart(append(dst, tag), p.Issuer())
		dst = append(dst, id...)
	case keyFunc:
		id, err := k.fn(c)
		if err != nil {
			return nil, err
		}
		dst = append(append(dst, tagFunc), id...)
	}
	if len(dst) > maxKeyLen {
		sum := sha256.Sum256(dst)
		dst = append(append(dst[:0], tagLong), sum[:]...)
	}
	return dst, nil
}

func appendPart(dst []byte, part string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(part))), part...)
}

// appendClient appends the network that stands for a client.
func appendClient(dst []byte, a netip.Addr, bits int) []byte {
	n := gatemesh.ClientNetwork(a, bits)
	switch {
	case !n.IsValid():
		return append(dst, tagUnknown)
	case n.Addr().Is4():
		b := n.Addr().As4()
		return append(append(dst, tagIPv4), b[:]...)
	}
	b := n.Addr().As16()
	return append(append(append(dst, tagIPv6), b[:(bits+7)/8]...), byte(bits))
}
