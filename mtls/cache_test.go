package mtls

import (
	"crypto/x509"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (c *cache) size() int {
	n := 0
	count := func(any, any) bool { n++; return true }
	if g := c.generations.Load(); g != nil {
		g.young.Range(count)
		if g.old != nil {
			g.old.Range(count)
		}
	}
	return n
}

// The cache forgets whom it has not seen for long, and only them.
func TestCache_Bounded(t *testing.T) {
	t.Parallel()
	c := &cache{}
	often, rarely := &x509.Certificate{}, &x509.Certificate{}
	require.Nil(t, c.get(often))
	kept := &verified{}
	c.put(often, kept)
	c.put(rarely, &verified{})
	for i := range 5 * maxVerified {
		c.put(&x509.Certificate{}, &verified{})
		if i%1000 == 0 {
			require.Same(t, kept, c.get(often), "in use, so remembered")
			require.LessOrEqual(t, c.size(), 2*maxVerified)
		}
	}
	assert.Nil(t, c.get(rarely))
	newer := &verified{}
	c.put(often, newer)
	assert.Same(t, newer, c.get(often))
}

func TestCache_Replaced(t *testing.T) {
	t.Parallel()
	c := &cache{}
	leaf, other := &x509.Certificate{}, &x509.Certificate{}
	c.put(other, &verified{})
	for range 3 * maxVerified { // one peer under changing bundles
		c.put(leaf, &verified{})
	}
	assert.Equal(t, 2, c.size())
	assert.NotNil(t, c.get(other))
}

func TestCache_Concurrent(t *testing.T) {
	t.Parallel()
	c := &cache{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range maxVerified {
				leaf, v := &x509.Certificate{}, &verified{}
				c.put(leaf, v)
				if got := c.get(leaf); got != nil {
					assert.Same(t, v, got)
				}
			}
		})
	}
	wg.Wait()
	// Writers that have seen room at the same moment may each take it.
	assert.LessOrEqual(t, c.size(), 2*(maxVerified+4))
}
