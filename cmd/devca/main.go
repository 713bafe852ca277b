// Command devca is a certificate authority for the processes of one user on one
// machine, for development. It keeps its key in memory, so a new start is a new
// authority. It is not for production: whoever reaches its socket gets any
// identity.
//
//	go run github.com/gatemesh-go/gatemesh/cmd/devca
//
// Each process of the mesh then has its certificates from a devca.Client:
//
//	source, err := devca.NewClient(ctx, devca.ClientConfig{Workload: self})
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls/devca"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, w io.Writer) error {
	flags := flag.NewFlagSet("devca", flag.ContinueOnError)
	flags.SetOutput(w)
	trustDomain := flags.String("trust-domain", "cluster.local", "SPIFFE trust domain")
	socket := flags.String("socket", devca.DefaultSocket(), "path of the unix socket, in a folder that is yours alone")
	lifetime := flags.Duration("lifetime", time.Hour, "how long each certificate holds")
	rootLifetime := flags.Duration("root-lifetime", 365*24*time.Hour, "how long a root holds; the next one is there long before")
	allow := flags.String("allow", "", "SPIFFE ids that may be asked for, separated by commas (default: every id of the trust domain)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("devca: unexpected argument %q", flags.Arg(0))
	}
	ca, err := devca.NewCA(devca.Config{TrustDomain: *trustDomain, RootLifetime: *rootLifetime})
	if err != nil {
		return err
	}
	cfg := devca.ServerConfig{
		CA: ca, Socket: *socket, Lifetime: *lifetime,
		Observer: gatemesh.SlogObserver(slog.New(slog.NewTextHandler(w, nil))),
	}
	if *allow != "" {
		cfg.Allow = strings.Split(*allow, ",")
	}
	server, err := devca.NewServer(cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "devca: for development only: the authority of %s listens at %s\n", *trustDomain, *socket)
	<-ctx.Done()
	return server.Close()
}
