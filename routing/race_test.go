//go:build race

package routing_test

// streamed is how much TestPX07 sends each way: less than without the race
// detector, which makes it ten times as slow.
const streamed = 32 << 20

// racing is what the race detector adds to an allocation count.
const racing = 1
