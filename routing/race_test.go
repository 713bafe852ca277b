//go:build race

package routing_test

// racing says that the race detector is on, which makes everything ten times as
// slow and has pools throw away half of what they get.
const racing = true
