// Authoutage replays an incident. A payments gateway asked its auth service
// about the token of every request. One day the answers took 200 ms, the
// gateway became several times slower, and six services behind it, with which
// nothing was wrong, were down for their callers.
//
// Two gateways run side by side, with the same load, on the same machine, at
// the same time:
//
//   - naive asks the auth service about every request (token introspection,
//     RFC 7662). It does that properly: it keeps its connections, has a timeout
//     of 400 ms, stops asking when a client leaves, and lets nothing pass that
//     it could not verify. It has no cache and no breaker.
//   - ours is gatemesh's package auth with the same introspection and timeout,
//     which remembers what it has verified, has a breaker around the auth
//     service, and knows its three replicas: routing/pool says which one is
//     asked, and breaker.Retry asks another one where there was no answer. Naive
//     has a virtual address of all three, as most have.
//
// Everything else is equal: the reverse proxy, the number of workers, and six
// services behind each gateway, which take 20 to 40 ms for a request. A lookup
// at the auth service takes 10 ms when it is well. Clients give up after 500 ms.
// One request in ten carries a token that its gateway has not seen before.
//
// # Why 200 ms are enough
//
// A gateway has a bounded number of workers: threads, a connection limit, a
// quota of CPU or memory, whatever runs out first. Requests beyond it wait in
// line. Here there are four times as many workers as a healthy day needs. A
// request to naive then occupies a worker for 40 ms on average: 10 for the
// lookup, 30 for the service. When the lookup takes 200 ms, it is 230 ms, more
// than five times as long, and the workers no longer suffice. The line grows
// until requests wait for so long that their clients leave before the answer
// comes: the workers are then busy with requests that nobody waits for, and
// hardly anyone gets through, to whichever service. Naive's own timeout does
// not help, as a lookup is slow and does not fail. With ours, nine requests in
// ten have no lookup, and the tenth occupies its worker for 230 ms: less than
// half of the workers are busy.
//
// # The story
//
// The auth service is healthy, then takes 200 ms for a lookup, then takes
// requests and never answers, then refuses connections, and is well again. Then
// one of its replicas is down and another takes 200 ms, which nobody notices who
// calls ours. A
// phase begins when all requests of the one before have ended, so that each
// request and each call of the auth service belongs to one phase. It lasts
// longer than it should, within limits, if what is expected of it has not come
// yet: a breaker that opens or closes, on a machine that is busy.
//
// Arrivals do not wait for answers, their gaps are exponential, and latencies
// count from when a request was due, so that a gateway that stalls neither gets
// less load nor hides its delays. Who gives up counts with the time that it waited.
//
// What is printed last are facts: statuses, counts and calls of the auth
// service. On a machine that stands still for longer than clients wait, nobody is
// answered; -patience lets them wait longer. Latencies fail the program with
// -strict only. The chart shows them over time, and below them the share of requests
// that passed: a gateway that refuses everybody has excellent latencies.
//
// -break cache, -break breaker and -break retry take a guard away from ours, and
// show that the facts then fail.
package main
