package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// row is one line of the table: what an act expected and what it saw.
type row struct {
	act, what, expected, seen string
	pass                      bool
}

type report struct{ rows []row }

// same adds a row that passes if seen is what was expected.
func (r *report) same(act, what string, expected, seen any) {
	e, s := fmt.Sprint(expected), fmt.Sprint(seen)
	r.rows = append(r.rows, row{act, what, e, s, e == s})
}

// holds adds a row with a judgment of its own.
func (r *report) holds(act, what, expected, seen string, pass bool) {
	r.rows = append(r.rows, row{act, what, expected, seen, pass})
}

// failed returns how many rows of act did not pass; "" is every act.
func (r *report) failed(act string) (n int) {
	for _, row := range r.rows {
		if !row.pass && (act == "" || row.act == act) {
			n++
		}
	}
	return n
}

// print writes the table and a closing line.
func (r *report) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\tACT\tWHAT\tEXPECTED\tSEEN")
	for _, row := range r.rows {
		verdict := "pass"
		if !row.pass {
			verdict = "FAIL"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", verdict, row.act, row.what, short(row.expected, 56), short(row.seen, 240))
	}
	_ = tw.Flush() // w is standard output
	fmt.Fprintf(w, "%d passed, %d failed\n", len(r.rows)-r.failed(""), r.failed(""))
}

// short keeps a cell on one line, and its end, which says more than its start.
func short(s string, most int) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > most {
		s = "…" + string(r[len(r)-most+1:])
	}
	return s
}
