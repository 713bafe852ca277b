// Command figures puts authentication under load and fault and prints what it
// measures beside what is demanded:
//
//	go run ./bench/figures           # the full sizes: some five minutes
//	go run ./bench/figures -once     # small sizes: within a minute
//
// It ends with 1 if a count does not hold. Times depend on the machine; they are
// printed, and count with -strict alone. Client, edge and issuer are this one
// process, on loopback TCP, so a full figure wants a machine of its own.
//
//	F-01  the issuer's key endpoint hangs, then is gone, while warm tokens flow
//	F-02  every token that was accepted once is answered from memory afterwards
//	F-03  the issuer rotates its keys under load
//	F-05  a flood of unknown key ids and garbage beside good tokens
//
// -break F-01 takes away what the figure proves, and must fail.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	once := flag.Bool("once", false, "small sizes, within a minute")
	strict := flag.Bool("strict", false, "fail on times, too")
	only := flag.String("only", "", "one figure, such as F-01; default all")
	broken := flag.String("break", "", "a figure to take the guard away from")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := &report{strict: *strict}
	for _, f := range figures {
		if *only != "" && *only != f.id {
			continue
		}
		if err := f.run(ctx, size{once: *once, broken: *broken == f.id}, r); err != nil {
			fmt.Fprintln(os.Stderr, f.id, err)
			os.Exit(2)
		}
	}
	r.print(os.Stdout)
	if r.failed() > 0 || len(r.rows) == 0 {
		os.Exit(1)
	}
}

// size is what a figure is run with.
type size struct{ once, broken bool }

func pick[T any](small bool, once, full T) T {
	if small {
		return once
	}
	return full
}

var figures = []struct {
	id  string
	run func(context.Context, size, *report) error
}{{"F-01", outage}, {"F-02", honesty}, {"F-03", rotation}, {"F-05", flood}}

// row is one line of the report.
type row struct {
	figure, what, demanded, measured string
	pass, time                       bool
}

type report struct {
	strict bool
	rows   []row
}

// count adds a figure that has to hold on any machine.
func (r *report) count(figure, what string, measured, of int) {
	r.rows = append(r.rows, row{figure, what, fmt.Sprint(of), fmt.Sprint(measured), measured == of, false})
}

// most adds a count that must not be larger.
func (r *report) most(figure, what string, measured, limit int) {
	r.rows = append(r.rows, row{figure, what, fmt.Sprint("<= ", limit), fmt.Sprint(measured), measured <= limit, false})
}

// within adds a time, which depends on the machine.
func (r *report) within(figure, what string, measured, limit time.Duration) {
	round := func(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
	r.rows = append(r.rows, row{figure, what, "<= " + round(limit), round(measured), measured <= limit, true})
}

func (r *report) failed() (n int) {
	for _, row := range r.rows {
		if !row.pass && (r.strict || !row.time) {
			n++
		}
	}
	return n
}

func (r *report) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\tFIGURE\tWHAT\tDEMANDED\tMEASURED")
	for _, row := range r.rows {
		verdict := "pass"
		switch {
		case !row.pass && row.time && !r.strict:
			verdict = "slow"
		case !row.pass:
			verdict = "FAIL"
		}
		fmt.Fprintln(tw, strings.Join([]string{verdict, row.figure, row.what, row.demanded, row.measured}, "\t"))
	}
	_ = tw.Flush() // w is standard output
	fmt.Fprintf(w, "%d figures, %d failed\n", len(r.rows), r.failed())
}
