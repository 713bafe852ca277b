// The service is a server to copy: behind mutual TLS, with the caller's
// workload and the user's identity verified and an AuthorizationPolicy judged
// in process, before your handler in app.go runs. With -dev it makes a mesh of
// its own to try it with; see -h.
//
// A copy needs one change: the import of paymentspb in grpc.go, which is yours then.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/serve"
	"github.com/gatemesh-go/gatemesh/trace"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stderr, nil)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "service: "+strings.ReplaceAll(err.Error(), "\n", "\nservice: "))
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	listen, grpc                 string
	health, manifests            string
	workload, trustDomain, edge  string
	cert, key, ca                string
	spire, devCA                 string
	identityJWKS, identityIssuer string
	dev                          string
	reload, lameDuck, drain      time.Duration
}

func parseFlags(args []string, w io.Writer) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("service", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // a mistake is one line; only -h explains every flag
	fs.StringVar(&o.listen, "listen", ":8443", "`address` of the service over HTTP")
	fs.StringVar(&o.grpc, "grpc", "", "`address` of the service over gRPC, a port of its own; default: no gRPC")
	fs.StringVar(&o.health, "health", "", "`address` of the plain port for probes, /healthz and /readyz, and for /metrics in the format of Prometheus")
	fs.StringVar(&o.workload, "workload", "payment-service.production", "who we are, as `name.namespace`; our label app is the name")
	fs.StringVar(&o.trustDomain, "trust-domain", "cluster.local", "SPIFFE trust `domain`")
	fs.StringVar(&o.edge, "edge", "main-gateway.production", "the gateway, as `name.namespace`: it alone may say who the client is")
	fs.StringVar(&o.manifests, "manifests", "", "`folder` of AuthorizationPolicy and PeerAuthentication YAML, followed while we run; without a policy that selects us, nobody may call")
	fs.StringVar(&o.cert, "cert", "", "PEM `file` of our SPIFFE certificate; -cert, -key and -ca are reloaded when they change")
	fs.StringVar(&o.key, "key", "", "PEM `file` of the key of -cert")
	fs.StringVar(&o.ca, "ca", "", "PEM `file` of the trust domain's roots")
	fs.StringVar(&o.spire, "spire", "", "`address` of the SPIFFE Workload API, such as unix:///run/spire/agent.sock, in place of -cert, -key and -ca")
	fs.StringVar(&o.devCA, "dev-ca", "", "unix `socket` of a development CA, as cmd/devca prints it, in place of -cert, -key and -ca")
	fs.StringVar(&o.identityJWKS, "identity-jwks", "", "JWKS `file` of the edge that signs identities; reloaded when it changes")
	fs.StringVar(&o.identityIssuer, "identity-issuer", "", "`iss` of the identities, as the edge is configured")
	fs.StringVar(&o.dev, "dev", "", "for development: make a CA, an edge key and a policy, write what a client needs into this `folder`, and print curl lines")
	fs.DurationVar(&o.reload, "reload", 5*time.Second, "how often files and manifests are looked at")
	fs.DurationVar(&o.lameDuck, "lame-duck", 0, "how long /readyz refuses before the listener closes")
	fs.DurationVar(&o.drain, "drain", 20*time.Second, "how long running requests may take after that")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(w)
			fs.Usage()
		}
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q; all settings are flags, see -h", fs.Arg(0))
	}
	given := []struct{ name, value string }{
		{"-manifests", o.manifests}, {"-identity-jwks", o.identityJWKS}, {"-identity-issuer", o.identityIssuer},
		{"-cert", o.cert}, {"-key", o.key}, {"-ca", o.ca}, {"-spire", o.spire}, {"-dev-ca", o.devCA},
	}
	var errs []error
	if o.dev != "" {
		for _, f := range given {
			if f.value != "" {
				errs = append(errs, fmt.Errorf("-dev has a mesh and a policy of its own; leave out %s", f.name))
			}
		}
		return o, errors.Join(errs...)
	}
	required := given[:3]
	switch files := o.cert != "" || o.key != "" || o.ca != ""; {
	case o.spire != "" && o.devCA != "", files && o.spire+o.devCA != "":
		errs = append(errs, errors.New("certificates come from one source: -cert, -key and -ca, or -spire, or -dev-ca"))
	case !files && o.spire+o.devCA == "":
		errs = append(errs, errors.New("certificates come from -cert, -key and -ca, or -spire, or -dev-ca; one of them is required (or -dev FOLDER to try it)"))
	case files:
		required = given[:6]
	}
	for _, f := range required {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("%s is required (or -dev FOLDER to try it)", f.name))
		}
	}
	return o, errors.Join(errs...)
}

func (o *options) self() gatemesh.Workload { return o.named(o.workload) }

func (o *options) isEdge(p *gatemesh.Peer) bool { return p.ID() == o.named(o.edge).SPIFFEID() }

func (o *options) named(workload string) gatemesh.Workload {
	name, namespace, _ := strings.Cut(workload, ".")
	return gatemesh.Workload{
		Name: name, TrustDomain: o.trustDomain, Namespace: namespace, ServiceAccount: name,
		Labels: map[string]string{"app": name},
	}
}

// run serves until ctx ends. Logs go to w, one JSON object a line.
func run(ctx context.Context, args []string, w io.Writer, started func(map[string]net.Addr)) error {
	o, err := parseFlags(args, w)
	if err != nil {
		return err
	}
	log := slog.New(gatemesh.LogHandler(trace.LogHandler(slog.NewJSONHandler(w, nil))))
	self := o.self()
	if err := self.Validate(); err != nil {
		return fmt.Errorf("-workload %s: %w", o.workload, err)
	}
	observer := gatemesh.SlogObserver(log)
	var metrics *trace.Metrics
	var exported http.Handler
	if o.health != "" { // else nobody could read them
		if metrics, exported, err = newMetrics(self, log); err != nil {
			return err
		}
		defer func() { _ = metrics.Close() }() // the process is about to end
		observer = gatemesh.Observers(observer, metrics)
	}
	var t trust
	if o.dev != "" {
		t, err = develop(self, o.dev, o.listen, w)
	} else {
		t, err = o.load(ctx, observer)
	}
	defer func() { _ = t.end() }() // the process is about to end
	if err != nil {
		return err
	}
	m, err := newMesh(self, t, o.isEdge, observer)
	if err != nil {
		return err
	}
	if metrics != nil {
		if _, err := metrics.Register("", m.peers); err != nil {
			return err
		}
	}
	if t.set != nil {
		w, err := manifest.NewWatcher(manifest.WatcherConfig{Dir: o.manifests, Current: t.set, Apply: m.apply, Interval: o.reload, Observer: observer})
		if err != nil {
			return err
		}
		defer func() { _ = w.Close() }()
	}
	// The listener takes plain text, too, where a PeerAuthentication says so.
	servers := []serve.Server{{
		Name: self.Name, Addr: o.listen, Handler: m.chain.Handler(app(log)),
		Wrap: func(l net.Listener) net.Listener { return m.peers.Listener(l, nil) },
	}}
	if o.grpc != "" {
		server, err := newGRPC(m.chain, m.peers, log)
		if err != nil {
			return err
		}
		servers = append(servers, serve.Server{Name: self.Name + " grpc", Addr: o.grpc, GRPC: server})
	}
	return serve.Run(ctx, serve.Config{
		Servers: servers, Health: o.health, Metrics: exported, LameDuck: o.lameDuck, Drain: o.drain, Logger: log, Started: started,
	})
}
