package ratelimit

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/gatemesh-go/gatemesh"
)

// clients returns calls from n networks, so that a table of any size is
// walked through and not one hot entry measured.
func clients(b *testing.B, n int) []*gatemesh.Call {
	b.Helper()
	calls := make([]*gatemesh.Call, n)
	for i := range calls {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		calls[i] = from(b, a.String())
	}
	return calls
}

// BenchmarkAdmit measures a decision; without fields it is to stay within
// 200 ns and no allocation, with fields within two.
func BenchmarkAdmit(b *testing.B) {
	for _, bm := range []struct {
		name, limit string
		keys        int
		fields      bool
	}{
		{"quota/keys=1", "1000000000/1m", 1, false},
		{"quota/keys=10000", "1000000000/1m", 10_000, false},
		{"quota/keys=10000/fields", "1000000000/1m", 10_000, true},
		{"quota/refused", "1/1h", 1, true},
		{"bucket/keys=1", "1000000000/1m,burst=1000", 1, false},
		{"bucket/keys=10000", "1000000000/1m,burst=1000", 10_000, false},
		{"bucket/keys=10000/fields", "1000000000/1m,burst=1000", 10_000, true},
		{"bucket/refused", "1/1h,burst=1", 1, true},
	} {
		calls := clients(b, bm.keys)
		b.Run(strings.TrimSuffix(bm.name, "/"), func(b *testing.B) {
			l := newLimiter(b, bm.limit, func(c *Config) { c.DisableFields = !bm.fields })
			ctx := b.Context()
			for _, c := range calls {
				_, _ = l.Admit(ctx, c)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				_, _ = l.Admit(ctx, calls[i])
				if i++; i == len(calls) {
					i = 0
				}
			}
		})
	}
}

// BenchmarkAdmitParallel measures many cores on many keys.
func BenchmarkAdmitParallel(b *testing.B) {
	calls := clients(b, 10_000)
	for _, limit := range []string{"1000000000/1m", "1000000000/1m,burst=1000"} {
		b.Run(limit, func(b *testing.B) {
			l := newLimiter(b, limit, func(c *Config) { c.DisableFields = true })
			ctx := b.Context()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					_, _ = l.Admit(ctx, calls[i%len(calls)])
				}
			})
		})
	}
}

// BenchmarkNewKey measures a flood: every call has a key of its own and the
// table is full.
func BenchmarkNewKey(b *testing.B) {
	n := 0
	l := newLimiter(b, "10/1h", func(c *Config) {
		c.DisableFields = true
		c.Key = ByFunc(func(*gatemesh.Call) (string, error) { n++; return string(numbered(n)), nil })
	})
	c, ctx := from(b, "192.0.2.1"), b.Context()
	for range defaultMaxKeys {
		_, _ = l.Admit(ctx, c)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = l.Admit(ctx, c)
	}
}
