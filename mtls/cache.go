package mtls

import (
	"crypto/x509"
	"sync"
	"sync/atomic"
)

// What a generation holds at most: so many peers, and so many bytes of
// certificates. Only verified ones get in, so it is the size of the mesh that
// counts and not the zeal of strangers; but beside its own, a peer may send
// certificates that are part of no chain, 256 KiB of them.
const (
	maxVerified      = 4096
	maxVerifiedBytes = 16 << 20
)

// cache remembers verified clients by their leaf. The pointer is key enough:
// crypto/tls hands out one and the same for the life of a connection, and the
// cache holds on to it, so that the address cannot become another
// certificate's. When the young generation is full it becomes the old one, and
// what nobody asked for in the meantime is forgotten.
type cache struct {
	mu          sync.Mutex // serialises ageing
	generations atomic.Pointer[generations]
}

type generations struct {
	young sync.Map // *x509.Certificate → *verified
	count atomic.Int64
	bytes atomic.Int64
	old   *sync.Map // may be nil
}

func (c *cache) get(leaf *x509.Certificate) *verified {
	g := c.generations.Load()
	if g == nil {
		return nil
	}
	if v, ok := g.young.Load(leaf); ok {
		return v.(*verified)
	}
	if g.old != nil {
		if v, ok := g.old.Load(leaf); ok {
			c.put(leaf, v.(*verified))
			return v.(*verified)
		}
	}
	return nil
}

func (c *cache) put(leaf *x509.Certificate, v *verified) {
	g := c.generations.Load()
	if g == nil || g.count.Load() >= maxVerified || g.bytes.Load() >= maxVerifiedBytes {
		g = c.age(g)
	}
	if _, replaced := g.young.Swap(leaf, v); !replaced {
		g.count.Add(1)
		g.bytes.Add(v.bytes)
	}
}

// age starts a new generation unless somebody else just did.
func (c *cache) age(full *generations) *generations {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.generations.Load(); g != full {
		return g
	}
	g := &generations{}
	if full != nil {
		g.old = &full.young
	}
	c.generations.Store(g)
	return g
}
