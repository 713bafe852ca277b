// The service is a server to copy: behind mutual TLS, with the caller's
// workload and the user's identity verified and an AuthorizationPolicy judged
// in process, before your handler in app.go runs. With -dev it makes a mesh of
// its own to try it with; see -h.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/auth/policy"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/mtls"
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
	identityJWKS, identityIssuer string
	dev                          string
	lameDuck, drain              time.Duration
}

func parseFlags(args []string, w io.Writer) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("service", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // a mistake is one line; only -h explains every flag
	fs.StringVar(&o.listen, "listen", ":8443", "`address` of the service over HTTP")
	fs.StringVar(&o.grpc, "grpc", "", "`address` of the service over gRPC, a port of its own; default: no gRPC")
	fs.StringVar(&o.health, "health", "", "`address` of the plain port for probes: /healthz, /readyz")
	fs.StringVar(&o.workload, "workload", "payment-service.production", "who we are, as `name.namespace`; our label app is the name")
	fs.StringVar(&o.trustDomain, "trust-domain", "cluster.local", "SPIFFE trust `domain`")
	fs.StringVar(&o.edge, "edge", "main-gateway.production", "the gateway, as `name.namespace`: it alone may say who the client is")
	fs.StringVar(&o.manifests, "manifests", "", "`folder` of AuthorizationPolicy YAML; without a policy that selects us, nobody may call")
	fs.StringVar(&o.cert, "cert", "", "PEM `file` of our SPIFFE certificate; -cert, -key and -ca are reloaded when they change")
	fs.StringVar(&o.key, "key", "", "PEM `file` of the key of -cert")
	fs.StringVar(&o.ca, "ca", "", "PEM `file` of the trust domain's roots")
	fs.StringVar(&o.identityJWKS, "identity-jwks", "", "JWKS `file` of the edge that signs identities; reloaded when it changes")
	fs.StringVar(&o.identityIssuer, "identity-issuer", "", "`iss` of the identities, as the edge is configured")
	fs.StringVar(&o.dev, "dev", "", "for development: make a CA, an edge key and a policy, write what a client needs into this `folder`, and print curl lines")
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
	if o.dev != "" {
		return o, nil
	}
	var errs []error
	for _, f := range []struct{ name, value string }{
		{"-cert", o.cert}, {"-key", o.key}, {"-ca", o.ca}, {"-manifests", o.manifests},
		{"-identity-jwks", o.identityJWKS}, {"-identity-issuer", o.identityIssuer},
	} {
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

// trust is what the outside world gives us: certificates, the edge's keys,
// the policies.
type trust struct {
	source   mtls.Source
	keys     identity.KeySource
	issuer   string
	policies []policy.Policy
	close    func() error
}

// load reads the files that the flags name.
func (o *options) load(observer gatemesh.Observer) (t trust, err error) {
	set, err := manifest.LoadDir(o.manifests)
	if err != nil {
		return t, err
	}
	keys, err := identity.NewJWKSFile(identity.JWKSFileConfig{Path: o.identityJWKS, Observer: observer})
	if err != nil {
		return t, err
	}
	files, err := mtls.NewFiles(mtls.FilesConfig{
		Cert: o.cert, Key: o.key, Bundle: o.ca, TrustDomain: o.trustDomain, Observer: observer,
	})
	if err != nil {
		return t, errors.Join(err, keys.Close())
	}
	end := func() error { return errors.Join(files.Close(), keys.Close()) }
	return trust{source: files, keys: keys, issuer: o.identityIssuer, policies: set.Policies(), close: end}, nil
}

// chain is the layers in front of the application: who calls, for whom, may
// they. Spans appear as soon as the program sets an OpenTelemetry provider.
func chain(self gatemesh.Workload, t trust, edge func(*gatemesh.Peer) bool, observer gatemesh.Observer) (*gatemesh.Chain, *mtls.TLS, error) {
	members, err := mtls.MemberOf(self.TrustDomain)
	if err != nil {
		return nil, nil, err
	}
	peers, err := mtls.New(mtls.Config{Source: t.source, Authorize: members, Observer: observer})
	if err != nil {
		return nil, nil, err
	}
	users, err := identity.NewVerifier(identity.VerifierConfig{
		Issuer: t.issuer, Audience: []string{self.TrustDomain}, Keys: t.keys, Observer: observer,
	})
	if err != nil {
		return nil, nil, err
	}
	rules, err := policy.New(policy.Config{Workload: self, Policies: t.policies, Unselected: policy.Deny, Observer: observer})
	if err != nil {
		return nil, nil, err
	}
	spans, err := trace.New(trace.Config{Observer: observer})
	if err != nil {
		return nil, nil, err
	}
	entry, err := gatemesh.NewEntry(gatemesh.EntryConfig{
		Peer: peers.Peer, TrustPeer: edge, TrustRequestID: gatemesh.AnyPeer, Observer: observer,
	})
	if err != nil {
		return nil, nil, err
	}
	c, err := gatemesh.NewChain(entry, spans.Layer(), peers.Layer(), users.Layer(), rules.Layer())
	return c, peers, err
}

// run serves until ctx ends. Logs go to w, one JSON object a line.
func run(ctx context.Context, args []string, w io.Writer, started func(map[string]net.Addr)) error {
	o, err := parseFlags(args, w)
	if err != nil {
		return err
	}
	log := slog.New(gatemesh.LogHandler(trace.LogHandler(slog.NewJSONHandler(w, nil))))
	observer := gatemesh.SlogObserver(log)
	self := o.self()
	if err := self.Validate(); err != nil {
		return fmt.Errorf("-workload %s: %w", o.workload, err)
	}
	var t trust
	if o.dev != "" {
		t, err = develop(self, o.dev, o.listen, w)
	} else {
		t, err = o.load(observer)
	}
	if err != nil {
		return err
	}
	defer func() { _ = t.close() }() // the process is about to end
	c, peers, err := chain(self, t, o.isEdge, observer)
	if err != nil {
		return err
	}
	servers := []serve.Server{{Name: self.Name, Addr: o.listen, Handler: c.Handler(app(log)), TLS: peers.ServerConfig()}}
	if o.grpc != "" {
		server, err := newGRPC(c, peers, log)
		if err != nil {
			return err
		}
		servers = append(servers, serve.Server{Name: self.Name + " grpc", Addr: o.grpc, GRPC: server})
	}
	return serve.Run(ctx, serve.Config{
		Servers: servers, Health: o.health, LameDuck: o.lameDuck, Drain: o.drain, Logger: log, Started: started,
	})
}
