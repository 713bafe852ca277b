package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// view shows who gets which share of the calls while they flow: on a terminal
// as a picture that is drawn over, and else as a line now and then.
type view struct {
	w     io.Writer
	lines int // of the picture that stands there; a terminal has one
	tty   bool
	begin time.Time
}

func newView(w io.Writer) *view {
	v := &view{w: w, begin: time.Now()}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		v.tty = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return v
}

// watch shows s until stop is called.
func (v *view) watch(s *story) (stop func()) {
	every := 2 * time.Second
	if v.tty {
		every = 200 * time.Millisecond
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-done:
				v.show(s)
				return
			}
			v.show(s)
		}
	})
	return func() { close(done); wg.Wait() }
}

func (v *view) show(s *story) {
	s.mu.Lock()
	at := s.at.name
	s.mu.Unlock()
	var b strings.Builder
	elapsed := time.Since(v.begin).Seconds()
	if !v.tty {
		fmt.Fprintf(&b, "%5.1f s  %-28s", elapsed, at)
		for _, c := range s.crowds {
			fmt.Fprintf(&b, "  %s: %s;", c.name, portions(c.shares()))
		}
		fmt.Fprintln(v.w, strings.TrimSuffix(b.String(), ";"))
		return
	}
	if v.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.lines)
	}
	v.lines = 0
	line := func(format string, args ...any) {
		fmt.Fprintf(&b, format+"\x1b[K\n", args...)
		v.lines++
	}
	line("%5.1f s  %s", elapsed, at)
	s.cluster.mu.Lock()
	all := s.cluster.all
	s.cluster.mu.Unlock()
	for _, c := range s.crowds {
		shares := c.shares()
		line("")
		line("%s, %s", c.name, c.what)
		for _, p := range all {
			line("  %-6s %-10s %3.0f %%  %s", p.name, p.ip, 100*shares[p.name], strings.Repeat("█", int(shares[p.name]*50+.5)))
		}
	}
	fmt.Fprint(v.w, b.String())
}
