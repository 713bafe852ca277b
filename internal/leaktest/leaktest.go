// Package leaktest says whether components, once closed, have left goroutines
// or file descriptors behind. It is for tests that do not run in parallel with
// others: what these open would count.
package leaktest

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/goleak"

	"github.com/gatemesh-go/gatemesh/internal/race"
)

// Check runs cycle once, so that what is made once per process is there, and n
// times more, [race.Fewer] with the race detector. It returns an error if after a second there are other goroutines,
// or more file descriptors, than before those.
func Check(n int, cycle func()) error {
	n = race.Fewer(n)
	cycle()
	if err := settled(); err != nil {
		return err
	}
	files, goroutines := openFiles(), goleak.IgnoreCurrent()
	for range n {
		cycle()
	}
	if err := goleak.Find(goroutines); err != nil {
		return err
	}
	for end := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		now := openFiles()
		if now <= files {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("leaktest: %d file descriptors before %d cycles, %d after", files, n, now)
		}
	}
}

// settled waits until the number of file descriptors does not change: sockets
// of the first cycle, closed by one side, may still be open on the other.
func settled() error {
	last, since := openFiles(), time.Now()
	for end := since.Add(10 * time.Second); time.Since(since) < 20*time.Millisecond; time.Sleep(time.Millisecond) {
		if now := openFiles(); now != last {
			last, since = now, time.Now()
		}
		if time.Now().After(end) {
			return fmt.Errorf("leaktest: the number of file descriptors keeps changing")
		}
	}
	return nil
}

// openFiles returns how many file descriptors the process has, or 0 where the
// system does not say so.
func openFiles() int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(all)
}
