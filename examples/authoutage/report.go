package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// row is one fact: what was expected in a phase, and what was seen.
type row struct {
	phase, gateway, what, expected, seen string
	pass                                 bool
}

type report struct{ rows []row }

func (r *report) add(phase, gateway, what, expected, seen string, pass bool) {
	r.rows = append(r.rows, row{phase, gateway, what, expected, seen, pass})
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

// print writes the table and a closing line.
func (r *report) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\tPHASE\tGATEWAY\tWHAT\tEXPECTED\tSEEN")
	for _, row := range r.rows {
		verdict := "pass"
		if !row.pass {
			verdict = "FAIL"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", verdict, row.phase, row.gateway, row.what, row.expected, row.seen)
	}
	_ = tw.Flush() // w is standard output
	fmt.Fprintf(w, "%d passed, %d failed\n", len(r.rows)-r.failed(), r.failed())
}
