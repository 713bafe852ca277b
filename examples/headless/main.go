package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
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
		fmt.Fprintln(os.Stderr, "headless:", strings.ReplaceAll(err.Error(), "\n", "\nheadless: "))
		os.Exit(1)
	}
}

// errFailed ends the program after the table has said what failed.
var errFailed = errors.New("a fact did not hold")

const (
	lowRate, highRate = 20, 1000
	shortest, longest = time.Second, 20 * time.Second
	least, most       = time.Second, time.Minute
)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("headless", flag.ContinueOnError)
	flags.SetOutput(stderr)
	once := flags.Bool("once", false, "play the scenes once, in about 25 s; without, they are played again until ctrl-C or a failure")
	broken := flags.String("break", "", "take the `guard` \"retry\" or \"resolve\" away from our clients; the facts must then fail")
	strict := flags.Bool("strict", false, "fail also if the direct way is not faster than the one with a proxy, as it is on a machine that has nothing else to do")
	rate := flags.Int("rate", 100, "calls a second of each client, 20 to 1000")
	length := flags.Duration("scene", 3*time.Second, "`duration` of each scene beyond what it waits for, 1s to 20s")
	within := flags.Duration("within", 10*time.Second, "`duration` after which a new pod must be in use, 1s to 1m")
	patience := flags.Duration("patience", 5*time.Second, "`duration` after which clients give up, 1s to 1m")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if flags.NArg() > 0 {
		fault("unexpected argument %q, see -h", flags.Arg(0))
	}
	flags.Visit(func(f *flag.Flag) {
		if f.Name == "break" && guards[*broken] == "" {
			fault("-break: there is no guard %q; the guards are retry and resolve", *broken)
		}
	})
	if *rate < lowRate || *rate > highRate {
		fault("-rate %d is not between %d and %d", *rate, lowRate, highRate)
	}
	if *length < shortest || *length > longest {
		fault("-scene %v is not between %v and %v", *length, shortest, longest)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"within", *within}, {"patience", *patience}} {
		if d.value < least || d.value > most {
			fault("-%s %v is not between %v and %v", d.name, d.value, least, most)
		}
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	if *broken != "" {
		fmt.Fprintf(stdout, "without the %s, the facts must fail:\n", guards[*broken])
	}
	for {
		err := show(ctx, config{*rate, *length, *within, *patience, *broken, *strict}, stdout)
		if err != nil || *once {
			return err
		}
	}
}

// show plays the story once, with a view of it and the tables after it.
func show(ctx context.Context, cfg config, w io.Writer) (err error) {
	s, err := start(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	stop := newView(w).watch(s)
	err = s.play(ctx)
	stop()
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	s.report.print(w)
	if s.report.failed() > 0 {
		return errFailed
	}
	return nil
}
