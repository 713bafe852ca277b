//go:build race

package routing_test

// racing is what the race detector adds to an allocation count.
const racing = 1
