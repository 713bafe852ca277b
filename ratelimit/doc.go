// Package ratelimit says how much: it charges every call to a key, such as the
// client's address or the authenticated consumer, and refuses calls of a key
// that is over its limit with ResourceExhausted (HTTP 429, RFC 6585 §4).
//
// A service at the edge has two limiters in its chain: one by address in front
// of authentication, which keeps floods away from the work of verifying
// credentials, and one by consumer behind it, which keeps the contract:
//
//	chain := gatemesh.Must(gatemesh.NewChain(entry, byClient.Layer(), auth.Layer(), byConsumer.Layer()))
//
// # Two algorithms
//
// [Limit] chooses the algorithm.
//
// A quota (Burst is zero) is for contracts and for protection by number: "1,000
// requests a minute" means that the first 1,000 pass however quickly they come,
// and that the 1,001st within the minute is refused, whenever the minute is
// taken to begin. A token bucket cannot promise that: a bucket of 1,000 that
// fills at 1,000 a minute lets 1,000 through at once and up to 999 more in the
// minute they need to come back, which is nearly twice the contract; with a
// small bucket it keeps the contract but refuses the burst that the contract
// allows. A fixed window has the same fault at its boundary.
//
// A token bucket (Burst is set) is for shaping: a steady rate, with bursts of a
// size that the service behind can take. Its calls come back one at a time and
// not a slice at a time, so that clients spread out by themselves. Over any
// period d it admits at most Burst + Requests*d/Per calls. It is
// golang.org/x/time/rate.
//
// The quota is a sliding window of slices. A key's calls are counted in at
// most eleven slices, each spanning less than Per/10; a slice is given back
// when the youngest call in it is Per old. The limit is therefore never
// exceeded, and a call comes back less than Per/10 after it could have.
//
// # What it keeps
//
// Counters live in memory: a restart forgets them, and every replica counts
// for itself. Keys are found by a seeded hash and compared whole, in a table
// of at most [Config.MaxKeys] entries that needs no goroutine. Entries whose
// calls have all come back are reused first. If a full table has none among
// the few that are looked at, the one with the fewest calls goes: a new key is
// always served, and a flood of them does not wipe out what an exhausted key
// has used.
//
// # What the caller sees
//
// Responses carry the fields of draft-ietf-httpapi-ratelimit-headers-11:
//
//	RateLimit-Policy: "consumer";q=1000;w=60
//	RateLimit: "consumer";r=999;t=60
//
// where r is how many calls are left and t after how many seconds, rounded up,
// there will be more. A refusal has r=0 and the same number of seconds in
// Retry-After (RFC 9110 §10.2.3). Policies of a window that is not a whole
// number of seconds have no w, and those of a token bucket name its size in
// gatemesh-burst. gRPC callers get the same as metadata.
//
// A stream is charged once, when it is opened.
package ratelimit
