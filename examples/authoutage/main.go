package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "authoutage:", strings.ReplaceAll(err.Error(), "\n", "\nauthoutage: "))
		os.Exit(1)
	}
}

// errFailed ends the program after the table has said what failed.
var errFailed = errors.New("a fact did not hold")

// All phases together, with their overtime, may not last longer than verified
// tokens are remembered, which is five minutes.
const (
	shortest, longest = time.Second, 30 * time.Second
	hasty, stoical    = 400 * time.Millisecond, 10 * time.Second
	lowRate, highRate = 50, 2000
	oncePhase         = 5 * time.Second
)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("authoutage", flag.ContinueOnError)
	flags.SetOutput(stderr)
	once := flags.Bool("once", false, "be done within a minute: short phases, and the chart in a temporary folder unless -svg says where")
	broken := flags.String("break", "", "take the `guard` \"cache\", \"breaker\" or \"retry\" away from our gateway; the facts must then fail")
	strict := flags.Bool("strict", false, "fail also when latencies are not what they should be on a machine that has nothing else to do")
	rate := flags.Int("rate", 300, "requests a second to each gateway, 50 to 2000; the gateways are sized for four times that")
	length := flags.Duration("phase", 15*time.Second, "`duration` of each of the six phases, 1s to 30s; with -once 5s unless given")
	wait := flags.Duration("patience", 500*time.Millisecond, "`duration` after which clients give up, 400ms to 10s; the gateways wait four fifths of it for the auth service")
	svg := flags.String("svg", "authoutage.svg", "`file` that the chart is written to")
	if err := flags.Parse(args); err != nil {
		return err
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if *once && !given["phase"] {
		*length = oncePhase
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if flags.NArg() > 0 {
		fault("unexpected argument %q, see -h", flags.Arg(0))
	}
	if given["break"] && guards[*broken] == "" {
		fault("-break: there is no guard %q; the guards are cache, breaker and retry", *broken)
	}
	if *rate < lowRate || *rate > highRate {
		fault("-rate %d is not between %d and %d", *rate, lowRate, highRate)
	}
	if *length < shortest || *length > longest {
		fault("-phase %v is not between %v and %v", *length, shortest, longest)
	}
	if *wait < hasty || *wait > stoical {
		fault("-patience %v is not between %v and %v", *wait, hasty, stoical)
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	if *once && !given["svg"] {
		dir, err := os.MkdirTemp("", "gatemesh-authoutage-")
		if err != nil {
			return err
		}
		*svg = filepath.Join(dir, "authoutage.svg")
	}
	// A mistake is seen now, and what the file holds stays until there is better.
	file, err := os.OpenFile(*svg, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("-svg: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	s, err := start(ctx, config{rate: *rate, phase: *length, wait: *wait, broken: *broken})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if *broken != "" {
		fmt.Fprintf(stdout, "without %s, the facts must fail:\n", guards[*broken])
	}
	fmt.Fprintf(stdout, "Two gateways of %d workers, %d requests a second to each, %d phases of %v.\n\n",
		workersFor(*rate), *rate, len(phases), *length)
	if err := s.play(ctx, stdout); err != nil {
		return err
	}
	fmt.Fprintln(stdout)
	s.tables(stdout)
	if err := errors.Join(file.Truncate(0), s.chart(file)); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\nThe latencies over time are drawn in %s.\n\n", *svg)
	var r report
	s.facts(&r)
	if *strict {
		s.latencies(&r)
	}
	r.print(stdout)
	if r.failed() > 0 {
		return errFailed
	}
	return nil
}

// guards are what -break can take away.
var guards = map[string]string{
	"cache": "the cache of verified tokens", "breaker": "the breaker around the auth service", "retry": "the question at another replica",
}

// chart writes the chart to w.
func (s *story) chart(w io.Writer) error {
	// Enough requests in every point that its median says something.
	every := max(s.phase/30, 30*time.Second/time.Duration(s.rate))
	var lines []line
	for i, label := range []string{"naive: asks about every request", "ours: cache, breaker, replicas"} {
		lines = append(lines, line{names[i], label, curve(s.crowds[i].since(0), every)})
	}
	return writeChart(w, s.spans, lines, s.wait)
}
