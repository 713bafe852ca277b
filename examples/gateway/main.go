// The gateway is a front door to copy: TLS, limits, JWT and API keys, policy,
// routing and canaries from Gateway API and Istio YAML, in front of any
// upstreams. Without -manifests, -upstream default=URL alone makes it a plain
// reverse proxy.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/canary"
	"github.com/gatemesh-go/gatemesh/examples/gateway/edge"
	"github.com/gatemesh-go/gatemesh/serve"
	"github.com/gatemesh-go/gatemesh/trace"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, oneLine(err))
		os.Exit(1)
	}
}

// oneLine prefixes every fault, so that each can be found and none is lost.
func oneLine(err error) string {
	return "gateway: " + strings.ReplaceAll(err.Error(), "\n", "\ngateway: ")
}

// run serves as args say until ctx ends. Logs go to w, one JSON object a line.
func run(ctx context.Context, args []string, w io.Writer) error {
	o, err := parseFlags(args, w)
	if err != nil {
		return err
	}
	return o.serve(ctx, w)
}

func (o *options) serve(ctx context.Context, w io.Writer) error {
	log := slog.New(gatemesh.LogHandler(trace.LogHandler(slog.NewJSONHandler(w, nil))))
	observer := gatemesh.SlogObserver(log)
	var metrics *trace.Metrics
	var exported http.Handler
	if o.health != "" { // else nobody could read them
		var err error
		if metrics, exported, err = newMetrics(o.self(), log); err != nil {
			return err
		}
		defer func() { _ = metrics.Close() }() // the process is about to end
		observer = gatemesh.Observers(observer, metrics)
	}
	b, err := o.build(observer)
	if err != nil {
		return err
	}
	defer b.close()
	g, err := edge.New(b.edge)
	if err != nil {
		return err
	}
	defer func() { _ = g.Close() }() // the process is about to end
	if metrics != nil {
		if _, err := metrics.Register("", components{b, g}); err != nil {
			return err
		}
	}
	if !b.plain {
		followed, err := o.follow(b, g, observer)
		if err != nil {
			return err
		}
		defer followed()
	}
	servers := o.servers(b, serve.Server{Handler: g})
	if o.admin != "" {
		admin := http.NewServeMux()
		admin.Handle("/", g.Admin())
		if b.minter != nil {
			admin.Handle("GET /jwks.json", b.minter.JWKSHandler())
		}
		if len(b.edge.Rollouts) > 0 {
			admin.Handle("/rollouts", canary.NewPage(canary.PageConfig{Rollouts: b.edge.Rollouts, Actions: true}))
		}
		servers = append(servers, serve.Server{Name: "admin", Addr: o.admin, Handler: localOnly(admin)})
	}
	return serve.Run(ctx, serve.Config{
		Servers: servers, Health: o.health, Metrics: exported, Ready: b.ready.check, LameDuck: o.lameDuck, Drain: o.drain, Logger: log, Started: o.started,
	})
}
