package pool

import (
	"time"

	"github.com/gatemesh-go/gatemesh"
)

const (
	defaultInterval     = 2 * time.Second
	defaultTimeout      = 2 * time.Second
	defaultMaxStale     = 5 * time.Minute
	defaultCooldown     = 500 * time.Millisecond
	defaultMaxEndpoints = 1_000
	limitMaxEndpoints   = 10_000
	maxNameLen          = 253

	defaultFailures   = 5
	defaultBase       = 5 * time.Second
	defaultMax        = time.Minute
	defaultMaxPercent = 50

	defaultFailurePercent = 50
	defaultMinSamples     = 20
	defaultWindow         = 10 * time.Second
	defaultZoneLoad       = 140
)

// Config configures a [Pool]. The zero Config is invalid: Name and Resolver
// are required.
type Config struct {
	// Name names the pool in events and errors, such as "orders.shop".
	// Required; at most 253 bytes.
	Name string
	// Resolver says who serves. Required. See [Static] and [NewDNS].
	Resolver Resolver
	// Interval is the longest time between the end of a lookup and the begin
	// of the next. Lookups come up to a fifth earlier, so that replicas do not
	// march in step. Default: 2 s; 10 ms to 1 h. With it, a pod that joins a
	// headless service is seen within 5 s by those who ask the authoritative
	// server, and behind a cache within 5 s of the end of the record's TTL.
	Interval time.Duration
	// Timeout bounds a lookup, and the wait of the first requests for the
	// first one. Default: 2 s; 1 ms to 1 min.
	Timeout time.Duration
	// MaxStale is how long the last good endpoints are used while lookups fail
	// or find nobody. Default: 5 min, or Interval if that is more, which is
	// also its lower limit; at most 30 days.
	MaxStale time.Duration
	// Cooldown is the shortest time between the begins of two lookups, however
	// often connections fail. Default: 500 ms, or Interval if that is less,
	// which is also its upper limit; at least 1 ms.
	Cooldown time.Duration
	// MaxEndpoints bounds how many endpoints are used: the first ones in the
	// order of their addresses. The Observer hears when there are more. As many
	// are remembered of those that were lost; see [Ejection.Max].
	// Default: 1,000; at most 10,000.
	MaxEndpoints int
	// Selector leaves only the endpoints that have all of these labels, as a
	// subset of a DestinationRule does. Which labels an endpoint has, the
	// Resolver says, see [TargetResolver]; with a DNS none, so that nobody is
	// left and lookups have failed. Default: all endpoints. At most 16.
	Selector map[string]string
	// Balancer says by what an endpoint is chosen. Default: [P2C].
	Balancer Balancer
	// HashKey says what the endpoint of a call hangs on. Required with
	// [RingHash], and an error with the others.
	HashKey HashKey
	// Zone is the one that this process runs in, such as "eu-central-1a": calls
	// stay in it as far as its endpoints can carry them. Which zone an endpoint
	// is in, the Resolver says, see [TargetResolver]. Default: zones make no
	// difference. At most 253 bytes.
	Zone string
	// ZoneLoad is how much the endpoints of our zone may get before others help
	// out, in percent of what they would get if there were no preference. It is
	// reckoned as if as much came from every zone that has endpoints: of three
	// zones with 9 endpoints, one with 2 in it gets 140 % of 2/9 of everything,
	// which is 93 % of the third that comes from there. The other 7 % go to the
	// other zones in proportion. Default: 140; 100 to 1,000.
	ZoneLoad int
	// Warmup gives new endpoints a share that grows. Default: all of it at once.
	Warmup Warmup
	// Ejection says when an endpoint that fails is left alone for a while.
	Ejection Ejection
	// MinHealthPercent is the panic threshold: if a smaller share of endpoints
	// is in, in percent, all are used, whether they are ejected or have failed
	// their health checks: the few that are in could not carry the load. So they
	// are if none is in. Default: what Ejection.MaxPercent leaves in; 1 to 100.
	MinHealthPercent int
	// Health asks the endpoints whether they are well. Default: nobody does.
	Health Health
	// Observer hears of lookups that fail or work again, and of endpoints that
	// are ejected, unhealthy or back: of at most 20 changes of endpoints in 10
	// seconds, and then how many there were besides. It is called on a goroutine
	// of the pool. Default: nobody.
	Observer gatemesh.Observer
}

// Balancer is by what an endpoint is chosen among those that are in.
type Balancer uint8

// The balancers. Each of them gives endpoints shares by their weights.
const (
	// P2C draws two endpoints and takes the one that costs less: its latency, as
	// a peak EWMA, times the attempts in flight and the new one.
	P2C Balancer = iota
	// RoundRobin takes one after the other. Those that are out are passed over,
	// without anybody getting their share on top of its own.
	RoundRobin
	// LeastRequest draws two and takes the one with fewer attempts in flight.
	LeastRequest
	// Random draws one.
	Random
	// RingHash takes the one that [Config.HashKey] of the call leads to, or the
	// next on the ring if that is out. If one of n endpoints comes or goes, about
	// 1/n of the keys move. Calls without a key go as with P2C.
	RingHash
)

// HashKey says what the endpoint of a call hangs on. Exactly one of the first
// six is required. What callers send, callers choose: they can have all their
// calls go to one endpoint, and BoundedLoad limits what that does.
type HashKey struct {
	// Header is the name of a field of the request, or of gRPC metadata. Of
	// several values the first counts.
	Header string
	// Cookie is the name of a cookie. Nobody sets it who has none.
	Cookie string
	// Query is the name of a parameter of the query; gRPC has none.
	Query string
	// ClientAddress is [gatemesh.Call.Client] of the received call that the call
	// is made for.
	ClientAddress bool
	// Principal is who that call is from: issuer and subject, or the consumer if
	// there is no subject.
	Principal bool
	// Consumer is the application or customer that it is from.
	Consumer bool
	// BoundedLoad bounds the attempts in flight at an endpoint, in percent of
	// its share of all that are, rounded up: beyond it the next on the ring is
	// taken. Default: no bound; 101 to 1,000.
	BoundedLoad int
}

// Warmup configures the slow start of endpoints that are new, or back from an
// ejection or from failed health checks. So long, the weight of an endpoint is
// (passed/Duration)^(1/Aggression) of what it will be, and not less than
// MinimumPercent. Every balancer goes by it but RingHash, where a key belongs to
// its endpoint at once. The endpoints of the first lookup have no slow start.
type Warmup struct {
	// Duration of the slow start. Default: 0, which is none; at most 1 h.
	Duration time.Duration
	// MinimumPercent is what an endpoint has at once. Default: 10; 1 to 100.
	MinimumPercent int
	// Aggression above 1 lets the weight grow faster in the beginning, below 1
	// slower. Default: 1; 0.1 to 10.
	Aggression float64
}

// Ejection configures passive outlier ejection: endpoints are judged by how
// the attempts at them end. The zero Ejection has the documented defaults.
//
// How they end is not up to the endpoint alone: a client may have requests that
// bring forth a [Failure] wherever they go. While more than half of the
// endpoints have failed the last time, a Failure ejects none: a client who is
// alone, or has most of the load, ejects nobody once its attempts have gone to
// more than half. One among others still can: it takes Failures attempts of its
// own at an endpoint in a row, with no success of another client between them,
// while the last attempt at half of the endpoints was no failure. Whatever a
// client does, no more than MaxPercent are out, each for no longer than Max at a
// time, and those that are in get the load. Where that is too much, choose a
// lower MaxPercent, more Failures, or Disable. [Unreachable] counts always: a
// client brings it forth only by what ends the process of an endpoint, or keeps
// it from accepting connections.
type Ejection struct {
	// Disable keeps endpoints in, however they fail.
	Disable bool
	// Failures is how many attempts in a row have to end in [Failure]. One
	// [Unreachable] is enough, whatever Failures says and others show. Default:
	// 5; 1 to 1,000.
	Failures int
	// Base is how long an endpoint is left alone the first time. Each repeat
	// doubles it. An endpoint that comes back is out again at its next failure,
	// until an attempt succeeds. Default: 5 s, or Max if that is less; at least
	// 1 ms.
	Base time.Duration
	// Max bounds the time. An endpoint that was in for that long without a
	// break starts over with Base, and one whose address lookups have not found
	// for that long is forgotten. Default: 1 min, or Base if that is more, which
	// is also its lower limit; at most 1 h.
	Max time.Duration
	// MaxPercent bounds the share of endpoints that are out, in percent,
	// rounded down; one may be out whatever the share, as with Envoy, and one
	// always stays in. Those that have failed their
	// health checks count as out, but are not held in by it. If a larger share
	// is out, because others have left or these have come back, it is
	// [Config.MinHealthPercent] that decides.
	// Default: 50; 1 to 100. Above 50, only [Unreachable] adds to it.
	MaxPercent int
	// Server5xx makes every HTTP status from 500 a [Failure], as Istio's
	// consecutive5xxErrors does, and not only 502, 503 and 504, its
	// consecutiveGatewayErrors. A service may answer 500 to what one client
	// sends to all its endpoints. Default: off.
	Server5xx bool
	// FailurePercent ejects an endpoint also without Failures in a row, if that
	// many of its attempts have failed of late, and it is at least twice the
	// share of those at all other endpoints together. Default: 50; 1 to 100.
	FailurePercent int
	// MinSamples is how many attempts that takes, at the endpoint and at the
	// others together. Default: 20; 1 to 10,000.
	MinSamples int
	// Window is of late: attempts that ended within it count, or within half of
	// it when it has just begun anew. Default: 10 s; 1 s to 1 h.
	Window time.Duration
}
