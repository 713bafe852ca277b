//go:build race

package bench

// racing says that the race detector is on, under which a signature takes
// milliseconds.
const racing = true
