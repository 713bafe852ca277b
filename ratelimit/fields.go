package ratelimit

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// The names are in the spelling of http.Header, which then need not make it.
const (
	fieldPolicy = "Ratelimit-Policy"
	fieldLimit  = "Ratelimit"
)

var errLimited = gatemesh.Deny(gatemesh.ResourceExhausted, "rate_limited", "Too many requests; try again later.")

// fields writes the response fields of a policy.
type fields struct {
	off    bool
	policy gatemesh.Field
	prefix string // of the field RateLimit
	// denials are the refusals by seconds to wait, from 1 on, made when they
	// are first needed. Refusing a flood should cost nothing.
	denials []atomic.Pointer[gatemesh.Denial]
}

// maxDenials bounds how many refusals are kept.
const maxDenials = 3600

func newFields(cfg *Config) *fields {
	return &fields{
		off: cfg.DisableFields, policy: policyField(cfg), prefix: `"` + cfg.Name + `";r=`,
		denials: make([]atomic.Pointer[gatemesh.Denial], min(maxDenials, seconds(cfg.Limit.Per))),
	}
}

func policyField(cfg *Config) gatemesh.Field {
	v := `"` + cfg.Name + `";q=` + strconv.Itoa(cfg.Limit.Requests)
	if cfg.Limit.Per%time.Second == 0 {
		v += ";w=" + strconv.FormatInt(int64(cfg.Limit.Per/time.Second), 10)
	}
	if cfg.Limit.Burst > 0 {
		v += ";gatemesh-burst=" + strconv.Itoa(cfg.Limit.Burst)
	}
	return gatemesh.Field{Name: fieldPolicy, Value: v}
}

// admitted returns the fields for a call that passed.
func (f *fields) admitted(v verdict) []gatemesh.Field {
	if f.off {
		return nil
	}
	return []gatemesh.Field{f.policy, f.limit(v.left, seconds(v.wait))}
}

// denial returns the refusal of a call that could pass after wait.
func (f *fields) denial(wait time.Duration) *gatemesh.Denial {
	s := seconds(wait)
	if s > int64(len(f.denials)) {
		return f.newDenial(s)
	}
	kept := &f.denials[s-1]
	d := kept.Load()
	if d == nil {
		d = f.newDenial(s)
		kept.Store(d) // it says the same as one stored meanwhile
	}
	return d
}

func (f *fields) newDenial(s int64) *gatemesh.Denial {
	d := errLimited.WithRetryAfter(time.Duration(s) * time.Second)
	if !f.off {
		d.Header = append(d.Header, f.policy, f.limit(0, s))
	}
	return d
}

func (f *fields) limit(left int, s int64) gatemesh.Field {
	var buf [maxNameLen + 48]byte
	b := append(buf[:0], f.prefix...)
	b = strconv.AppendInt(b, int64(left), 10)
	b = append(b, ";t="...)
	b = strconv.AppendInt(b, s, 10)
	return gatemesh.Field{Name: fieldLimit, Value: string(b)}
}

// seconds rounds up to whole seconds, at least one.
func seconds(d time.Duration) int64 {
	return max(1, int64((d+time.Second-1)/time.Second))
}
