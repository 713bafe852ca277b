package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one fact: what was expected, and what was seen.
type row struct {
	who, what, expected, seen string
	pass                      bool
}

type report struct {
	rows    []row
	clients []string // the lines of the table of clients
}

func (r *report) holds(who, what, expected, seen string, pass bool) {
	r.rows = append(r.rows, row{who, what, expected, seen, pass})
}

// failed returns how many facts did not hold.
func (r *report) failed() (n int) {
	for _, row := range r.rows {
		if !row.pass {
			n++
		}
	}
	return n
}

// print writes both tables and a closing line.
func (r *report) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CLIENT\t\tCALLS\tLOST\tP50\tP99\tNEW PODS ANSWERED AFTER")
	for _, l := range r.clients {
		fmt.Fprintln(tw, l)
	}
	fmt.Fprintln(tw)
	_ = tw.Flush() // w is standard output
	fmt.Fprintln(tw, "\tWHO\tWHAT\tEXPECTED\tSEEN")
	for _, row := range r.rows {
		verdict := "pass"
		if !row.pass {
			verdict = "FAIL"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", verdict, row.who, row.what, row.expected, row.seen)
	}
	_ = tw.Flush() // w is standard output
	fmt.Fprintf(w, "%d passed, %d failed\n", len(r.rows)-r.failed(), r.failed())
}

// table has a line for each client.
func (s *story) table(sums []summary) (lines []string) {
	for i, c := range s.crowds {
		var after []string
		for _, a := range s.added {
			for _, p := range a.pods {
				if t, ok := sums[i].first[p.name]; ok {
					after = append(after, fmt.Sprintf("%.1f s", max(t.Sub(a.at), 0).Seconds()))
				} else {
					after = append(after, "never")
				}
			}
		}
		lines = append(lines, fmt.Sprintf("%s\t%s\t%d\t%d\t%s\t%s\t%s", c.name, c.what, sums[i].calls, len(sums[i].failed), milli(sums[i].p50), milli(sums[i].p99), strings.Join(after, ", ")))
	}
	return lines
}

// portions writes shares in the order of their pods.
func portions(shares map[string]float64) string {
	var parts []string
	for _, pod := range slices.Sorted(maps.Keys(shares)) {
		parts = append(parts, fmt.Sprintf("%s %.0f %%", pod, 100*shares[pod]))
	}
	return strings.Join(parts, ", ")
}

// milli prints d as a person would.
func milli(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
