//go:build !race

package routing_test

// streamed is how much TestPX07 sends each way.
const streamed = 1 << 30

const racing = 0
