package ratelimit

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

// bucket is a token bucket for one key. Its times are made from the table's
// clock, which never goes backwards: rate.Limiter would refill twice for a
// period that it sees twice.
type bucket rate.Limiter

func newBucket(p *plan) *bucket { return (*bucket)(rate.NewLimiter(p.rate, p.limit.Burst)) }

func (b *bucket) take(now time.Duration, p *plan) verdict {
	ok := b.limiter().AllowN(at(now), 1)
	tokens := b.tokens(now)
	whole := math.Floor(tokens)
	missing := float64(p.limit.Burst) - tokens
	return verdict{
		ok:     ok,
		left:   int(whole),
		wait:   p.refill(1 - (tokens - whole)),
		spent:  int(math.Ceil(missing)),
		idleAt: now + p.refill(missing),
	}
}

func (b *bucket) adopt(now time.Duration, old, p *plan) counter {
	if p.limit.Burst == 0 {
		w := &window{}
		spent := math.Ceil(float64(old.limit.Burst) - b.tokens(now))
		if spent > 0 {
			w.charge(now, uint32(min(int(spent), p.limit.Requests)), p.slice)
		}
		return w
	}
	b.limiter().SetLimitAt(at(now), p.rate)
	b.limiter().SetBurstAt(at(now), p.limit.Burst)
	return b
}

// spend takes calls out of the bucket.
func (b *bucket) spend(now time.Duration, calls int) *bucket {
	b.limiter().AllowN(at(now), calls)
	return b
}

// tokens returns how many tokens there are. rate.Limiter rounds in favour of
// the caller by less than a nanosecond's worth, which must not show as -1.
func (b *bucket) tokens(now time.Duration) float64 { return max(0, b.limiter().TokensAt(at(now))) }

func (b *bucket) limiter() *rate.Limiter { return (*rate.Limiter)(b) }

// refill returns how long it takes for tokens to come.
func (p *plan) refill(tokens float64) time.Duration {
	const forever = 100 * 365 * 24 * time.Hour
	d := math.Ceil(tokens * float64(p.limit.Per) / float64(p.limit.Requests))
	return time.Duration(min(d, float64(forever)))
}

// at returns the time that stands for a reading of the table's clock.
func at(now time.Duration) time.Time { return time.Unix(0, int64(now)) }
