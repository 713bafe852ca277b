// The platform is a payments company in one process: an auth service, a DNS
// server, a gateway on TLS, and five services behind it, HTTP and gRPC over
// mutual TLS, configured by the YAML in the folder manifests. With -once it
// plays its acts over real sockets; without, it stays up and prints what to try.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "platform:", strings.ReplaceAll(err.Error(), "\n", "\nplatform: "))
		os.Exit(1)
	}
}

// errFailed ends the program after the table has said what failed.
var errFailed = errors.New("an act failed")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("platform", flag.ContinueOnError)
	flags.SetOutput(stderr)
	once := flags.Bool("once", false, "play the acts, print the table and exit, with 1 if one failed")
	broken := flags.String("break", "", "remove the guard that this `act` proves, and play it; it must fail")
	listen := flags.String("listen", "127.0.0.1:0", "loopback `address` of the gateway")
	full := flags.Bool("full", false, "with -once, let act h take a minute: 100 certificates for each workload and 5 roots")
	verbose := flags.Bool("v", false, "with -once, show the services' log lines")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q, see -h", flags.Arg(0))
	}
	if *broken != "" && !slices.ContainsFunc(acts, func(a act) bool { return a.id == *broken }) {
		return fmt.Errorf("-break: there is no act %q; the acts are a to %s", *broken, acts[len(acts)-1].id)
	}
	name, _, _ := strings.Cut(*listen, ":")
	if addr, err := netip.ParseAddr(name); err != nil || !addr.IsLoopback() {
		return fmt.Errorf("-listen %s: must be a loopback address, such as 127.0.0.1:8443; the auth service gives tokens to everybody", *listen)
	}
	logs := io.Discard
	if *verbose || !*once && *broken == "" {
		logs = stderr
	}
	p, err := start(ctx, config{listen: *listen, broken: *broken, rolls: *once && *broken == "" || *broken == "k", full: *full, logs: logs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if !*once && *broken == "" {
		cleanup, err := p.invite(stdout)
		if err != nil {
			return err
		}
		<-ctx.Done()
		return cleanup()
	}
	if *broken != "" {
		i := slices.IndexFunc(acts, func(a act) bool { return a.id == *broken })
		fmt.Fprintf(stdout, "without %s, act (%s) must fail:\n", acts[i].guard, *broken)
	}
	r, err := p.play(ctx, *broken, stdout)
	fmt.Fprintln(stdout)
	r.print(stdout)
	if err == nil && r.failed("") > 0 {
		err = errFailed
	}
	return err
}

// invite prints what to try with curl. The gateway's root certificate is
// written to a folder that cleanup removes.
func (p *platform) invite(w io.Writer) (cleanup func() error, err error) {
	dir, err := os.MkdirTemp("", "gatemesh-platform-")
	if err != nil {
		return nil, err
	}
	cleanup = func() error { return os.RemoveAll(dir) }
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, p.edge.ca.BundlePEM(), 0o600); err != nil {
		return nil, errors.Join(err, cleanup())
	}
	fmt.Fprintf(w, `
The platform is up; ctrl-C ends it. In another terminal:

  gw() { curl -s --cacert %[1]s --connect-to %[2]s:443:%[3]s "$@"; echo; }

  # a token for user-1, good for 15 minutes
  TOKEN=$(curl -s -d sub=user-1 %[4]s/token | sed 's/.*"access_token":"\([^"]*\)".*/\1/')

  # user-service says what it saw; one user in ten is on v2, and who asks for it
  gw -H "Authorization: Bearer $TOKEN" https://%[2]s/v1/users/1
  gw -H "Authorization: Bearer $TOKEN" -H 'x-canary: true' https://%[2]s/v1/users/1

  # no token, and a path that two servers could read differently: 401, 400
  gw -i https://%[2]s/v1/users/1
  gw -i --path-as-is https://%[2]s/v1/users/../orders

  # order-service charges payment-service, and may not read it: 201, 403
  gw -H "Authorization: Bearer $TOKEN" -X POST https://%[2]s/v1/orders
  gw -H "Authorization: Bearer $TOKEN" https://%[2]s/v1/orders/1

  # order-service charges payment-service over gRPC, unary and streaming: 200
  gw -H "Authorization: Bearer $TOKEN" -X POST https://%[2]s/v1/orders/1/charges

  # an API key: 1,000 requests a minute
  gw -i -H 'X-Api-Key: %[5]s' https://%[2]s/v1/users/1

  # slow the auth service down, or black-hole it: known keys keep verifying
  curl -X POST '%[4]s/control/delay?by=200ms'
  curl -X POST '%[4]s/control/delay?by=forever'

Log lines of all services follow.
`, ca, host, p.gateway.addr, p.auth.addr, p.keys["acme"])
	return cleanup, nil
}
