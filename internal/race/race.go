// Package race tells tests whether the race detector is on, under which
// everything takes five to ten times as long. What has to hold a number of
// times, tests do that often without the detector; with it, a part of that shows
// the same races.
package race

// Fewer returns n, and a quarter of it with the race detector.
func Fewer(n int) int {
	if Enabled {
		return max(1, n/4)
	}
	return n
}
