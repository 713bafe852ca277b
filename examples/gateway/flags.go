package main

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/auth/identity"
	"github.com/gatemesh-go/gatemesh/examples/gateway/edge"
	"github.com/gatemesh-go/gatemesh/mtls"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
)

// options are the flags as they were given.
type options struct {
	listen                           listenFlag
	admin, health                    string
	manifests, workload, trustDomain string
	gateway                          string
	upstreams                        []routing.Upstream
	jwks, issuer, audience, algs     string
	apiKeys                          string
	rate, clientRate                 limitFlag
	tls                              tlsFlags
	trusted                          []netip.Prefix
	identityKey                      string
	meshCert, meshKey, meshCA        string
	lameDuck, drain                  time.Duration
	rollouts                         rolloutFlag
	rolloutState                     string

	// For tests.
	started  func(map[string]net.Addr)
	resolver *net.Resolver // asks the DNS
	cooldown time.Duration // between two fetches of keys
	reread   time.Duration // between two looks at the files that are followed
	turn     time.Duration // between two looks of a rollout at what it knows
}

func parseFlags(args []string, w io.Writer) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("gateway", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // a mistake is one line; only -h explains every flag
	fs.Var(&o.listen, "listen", "`address` of the front door (default :8080); or PORT=ADDRESS, repeatable, for each port of the Gateway in -manifests, as -listen 80=:8080 -listen 443=:8443. Listeners of HTTPS speak TLS, those of HTTP do not")
	fs.StringVar(&o.admin, "admin", "", "loopback `address` that shows the configuration at /config; with -rollout, a page at /rollouts that shows them and lets whoever reaches it pause, resume, promote and roll back; and with -identity-key its public key at /jwks.json")
	fs.StringVar(&o.health, "health", "", "`address` of the plain port for probes: /healthz, and /readyz, which waits for the first answers about keys and endpoints; and for /metrics, in the format of Prometheus")
	fs.StringVar(&o.manifests, "manifests", "", "`folder` of Gateway, HTTPRoute, GRPCRoute, VirtualService, DestinationRule, AuthorizationPolicy and RequestAuthentication YAML, which is followed; without a policy that selects -workload, nobody may call")
	fs.StringVar(&o.workload, "workload", "main-gateway.default", "who the gateway is for AuthorizationPolicies, as `name.namespace`; its label app is the name")
	fs.StringVar(&o.trustDomain, "trust-domain", "cluster.local", "SPIFFE trust `domain` of the mesh")
	fs.StringVar(&o.gateway, "gateway", "", "the Gateway in -manifests that this is, as `namespace/name`; required if there are several")
	fs.Func("upstream", "where a service is, as `name[.namespace][/subset][:port]=URL`; repeatable. With h2c:// it speaks HTTP/2 without TLS. Several of the same name share the calls, and one that fails is left alone for a while. Others resolve by DNS, at the port of the service; if the pods of a headless service listen at another one, give the SRV name of its port, as http://_http._tcp.orders.shop.svc.cluster.local. \"default\" serves everything without -manifests", func(s string) error {
		u, err := parseUpstream(s)
		o.upstreams = append(o.upstreams, u)
		return err
	})
	fs.StringVar(&o.jwks, "jwks", "", "`URL or file` of the keys that tokens are verified with; turns authentication by token on, instead of RequestAuthentications")
	fs.StringVar(&o.issuer, "issuer", "", "`iss` of the tokens")
	fs.StringVar(&o.audience, "audience", "", "accepted `aud` of the tokens, comma-separated; with RequestAuthentications, for rules without audiences")
	fs.StringVar(&o.algs, "algs", "", "accepted signature `algorithms`, comma-separated, such as RS256,ES256")
	fs.StringVar(&o.apiKeys, "api-keys", "", "`file` of API keys, which is followed; turns authentication by key on. Without this and -jwks, calls need no credential, and policies decide; with RequestAuthentications, a call needs a key or a token")
	fs.Var(&o.rate, "rate", "`limit` for each consumer, such as 1000/1m; needs -jwks, -api-keys or a RequestAuthentication")
	fs.Var(&o.clientRate, "client-rate", "`limit` for each client address before authentication, such as 100/1s,burst=200")
	o.tls.define(fs)
	fs.Func("trusted-proxies", "comma-separated `networks` of proxies that overwrite X-Forwarded-For", func(s string) error {
		for p := range strings.SplitSeq(s, ",") {
			prefix, err := netip.ParsePrefix(strings.TrimSpace(p))
			if err != nil {
				return err
			}
			o.trusted = append(o.trusted, prefix)
		}
		return nil
	})
	fs.StringVar(&o.identityKey, "identity-key", "", "PKCS #8 PEM `file` of the Ed25519 key that signs the internal identity; needs -jwks, -api-keys or a RequestAuthentication")
	fs.StringVar(&o.meshCert, "mesh-cert", "", "PEM `file` of our SPIFFE certificate; upstreams at https URLs are then called with mutual TLS and must be who they are expected to be")
	fs.StringVar(&o.meshKey, "mesh-key", "", "PEM `file` of its key")
	fs.StringVar(&o.meshCA, "mesh-ca", "", "PEM `file` of the trust domain's roots")
	fs.Var(&o.rollouts, "rollout", rolloutUsage)
	fs.StringVar(&o.rolloutState, "rollout-state", "", "`folder` that keeps where the rollouts are; gateways that share it agree. Required with -rollout")
	o.drain = 20 * time.Second
	fs.Var((*durationFlag)(&o.lameDuck), "lame-duck", "how long, as a `duration`, /readyz refuses before the listeners close")
	fs.Var((*durationFlag)(&o.drain), "drain", "how long, as a `duration`, running requests may take after that")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(w)
			fs.Usage()
		}
		return nil, err
	}
	if len(o.listen) == 0 {
		o.listen = listenFlag{{0, ":8080"}}
	}
	var empty []error
	fs.Visit(func(f *flag.Flag) {
		if f.Value.String() == "" && f.DefValue == "" && f.Name != "upstream" && f.Name != "listen" && f.Name != "rollout" && f.Name != "trusted-proxies" {
			// As "$UNSET" in a script, which must not turn a guard off.
			empty = append(empty, fmt.Errorf("-%s is given and empty", f.Name))
		}
	})
	if err := errors.Join(empty...); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q; all settings are flags, see -h", fs.Arg(0))
	}
	return o, nil
}

// limitFlag is a ratelimit.Limit as a flag.
type limitFlag struct{ ratelimit.Limit }

func (l *limitFlag) String() string {
	if l == nil || l.Limit == (ratelimit.Limit{}) {
		return ""
	}
	return l.Limit.String()
}

func (l *limitFlag) Set(s string) (err error) {
	l.Limit, err = ratelimit.ParseLimit(s)
	return err
}

// durationFlag is a time.Duration as a flag, not negative.
type durationFlag time.Duration

func (d *durationFlag) String() string { return time.Duration(*d).String() }

func (d *durationFlag) Set(s string) error {
	v, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return errors.New("must be a number and its unit, such as 5s, 500ms or 1m30s")
	case v < 0:
		return errors.New("must not be negative")
	}
	*d = durationFlag(v)
	return nil
}

// built is what the options amount to.
type built struct {
	edge   edge.Config
	tls    *tls.Config
	mesh   *mtls.TLS        // or nil
	minter *identity.Minter // or nil
	plain  bool             // a reverse proxy without manifests

	bound     map[uint16]net.Listener // by port of the Gateway; nil with one address for all
	encrypted map[uint16]bool         // which of these speak TLS
	version   atomic.Pointer[version] // of the manifests; or nil

	// What the flags say, whatever the manifests do.
	flags    []routing.Upstream
	balanced map[gatemesh.Destination]*balanced // those of them with several endpoints
	flagAuth *auth.Config                       // or nil
	ready    readiness
	measured []gatemesh.Measurable // beside those of the version and of the edge
	closes   []func() error
}

func (b *built) close() {
	if v := b.version.Load(); v != nil {
		v.close(nil)
	}
	for _, c := range slices.Backward(b.closes) {
		_ = c() // the process is about to end
	}
}

// self is who we are.
func (o *options) self() gatemesh.Workload {
	name, namespace, _ := strings.Cut(o.workload, ".")
	return gatemesh.Workload{
		Name: name, TrustDomain: o.trustDomain, Namespace: namespace, ServiceAccount: name,
		Labels: map[string]string{"app": name},
	}
}

// build reads every file and reports all faults at once.
func (o *options) build(observer gatemesh.Observer) (b *built, err error) {
	b = &built{balanced: map[gatemesh.Destination]*balanced{}, edge: edge.Config{
		Upstreams: slices.Clone(o.upstreams), TrustedProxies: o.trusted,
		ClientLimit: o.clientRate.Limit, ConsumerLimit: o.rate.Limit, Observer: observer,
	}}
	b.edge.Workload = o.self()
	err = errors.Join(o.byList(b, observer), o.bySRV(b, observer), o.buildAuth(b, observer), o.buildTLS(b, observer), o.buildMesh(b, observer), b.buildCalls(observer),
		o.secure(b, b.edge.Upstreams), o.checkPlainText(o.upstreams))
	b.flags, b.flagAuth = b.edge.Upstreams, b.edge.Auth
	err = errors.Join(err, o.buildListeners(b), o.buildManifests(b, observer), o.checkUpstreams(b), o.checkAdmin(), o.checkRollouts(b))
	if o.drain == 0 {
		err = errors.Join(err, errors.New("-drain must be longer than 0"))
	}
	if err == nil {
		err = o.startRollouts(b, observer)
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// checkPlainText refuses to send identities, which are good at every service
// until they expire, in plain text over a network.
func (o *options) checkPlainText(upstreams []routing.Upstream) error {
	var errs []error
	for _, u := range upstreams {
		to, err := url.Parse(u.URL)
		if o.identityKey != "" && err == nil && to.Scheme != "https" && !loopback(to.Hostname()) {
			errs = append(errs, fmt.Errorf("-upstream %s: %s://%s is plain text, and -identity-key would send identities over it", u.Service, to.Scheme, to.Host))
		}
	}
	return errors.Join(errs...)
}

// checkAdmin keeps the admin port, which asks nobody who they are, on this machine.
func (o *options) checkAdmin() error {
	if o.admin == "" {
		return nil
	}
	name, _, err := net.SplitHostPort(o.admin)
	if err != nil {
		return fmt.Errorf("-admin: %w", err)
	}
	if !loopback(name) {
		return fmt.Errorf("-admin %s: must be a loopback address, such as 127.0.0.1:9901", o.admin)
	}
	return nil
}

func loopback(name string) bool {
	addr, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && addr.IsLoopback()
}

func (o *options) buildAuth(b *built, observer gatemesh.Observer) error {
	var cfg auth.Config
	var errs []error
	if o.apiKeys != "" {
		keys, err := auth.NewKeyFile(auth.KeyFileConfig{Path: o.apiKeys, Interval: o.reread, Observer: observer})
		if err == nil {
			b.closes = append(b.closes, keys.Close)
			cfg.APIKeys = keys
		}
		errs = append(errs, err)
	}
	if o.jwks != "" {
		keys, err := o.keySource(b, observer)
		errs = append(errs, err)
		cfg.Issuers = []auth.Issuer{{
			Issuer: o.issuer, Audience: list(o.audience), Algorithms: list(o.algs), Keys: keys,
		}}
		for _, f := range []struct{ name, value string }{{"-issuer", o.issuer}, {"-audience", o.audience}, {"-algs", o.algs}} {
			if f.value == "" {
				errs = append(errs, fmt.Errorf("%s is required with -jwks", f.name))
			}
		}
	} else if o.issuer != "" || o.manifests == "" && o.audience+o.algs != "" {
		errs = append(errs, errors.New("-issuer, -audience and -algs say which tokens are good, which takes -jwks"))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if cfg.APIKeys != nil || cfg.Issuers != nil {
		cfg.Observer = observer
		b.edge.Auth = &cfg
	}
	return nil
}

func (o *options) keySource(b *built, observer gatemesh.Observer) (auth.KeySource, error) {
	cfg := auth.JWKSConfig{File: o.jwks, Cooldown: o.cooldown, Observer: observer}
	if strings.Contains(o.jwks, "://") {
		cfg.File, cfg.URL = "", o.jwks
	}
	keys, err := auth.NewJWKS(cfg)
	if err != nil {
		return nil, fmt.Errorf("-jwks: %w", err)
	}
	b.closes = append(b.closes, keys.Close)
	b.measured = append(b.measured, keys)
	b.ready.keys(keys)
	return keys, nil
}

// buildMesh makes us a member of the mesh towards the upstreams.
func (o *options) buildMesh(b *built, observer gatemesh.Observer) error {
	if o.identityKey != "" {
		if err := o.buildMinter(b, observer); err != nil {
			return err
		}
	}
	if o.meshCert+o.meshKey+o.meshCA == "" {
		return nil
	}
	if o.meshCert == "" || o.meshKey == "" || o.meshCA == "" {
		return errors.New("-mesh-cert, -mesh-key and -mesh-ca go together")
	}
	files, err := mtls.NewFiles(mtls.FilesConfig{
		Cert: o.meshCert, Key: o.meshKey, Bundle: o.meshCA, TrustDomain: o.trustDomain, Observer: observer,
	})
	if err != nil {
		return err
	}
	b.closes = append(b.closes, files.Close)
	members, err := mtls.MemberOf(o.trustDomain)
	if err != nil {
		return err
	}
	if b.mesh, err = mtls.New(mtls.Config{Source: files, Authorize: members, Observer: observer}); err != nil {
		return err
	}
	b.measured = append(b.measured, b.mesh)
	return nil
}

// secure has the upstreams at https URLs called as members of the mesh.
func (o *options) secure(b *built, upstreams []routing.Upstream) error {
	if b.mesh == nil {
		return nil
	}
	for i := range upstreams {
		u := &upstreams[i]
		if !strings.HasPrefix(u.URL, "https://") {
			continue
		}
		if u.Namespace == "" {
			return fmt.Errorf("-upstream %s: a mesh upstream needs its namespace, as in %[1]s.production=URL", u.Service)
		}
		callee, err := mtls.Exactly(gatemesh.Workload{
			TrustDomain: o.trustDomain, Namespace: u.Namespace, ServiceAccount: u.Service,
		}.SPIFFEID())
		if err != nil {
			return err
		}
		if u.Transport, err = b.mesh.Transport(callee); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) buildMinter(b *built, observer gatemesh.Observer) error {
	data, err := os.ReadFile(o.identityKey)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return fmt.Errorf("%s: not PEM", o.identityKey)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return fmt.Errorf("%s: not an Ed25519 key in PKCS #8", o.identityKey)
	}
	b.minter, err = identity.NewMinter(identity.MinterConfig{
		Issuer: b.edge.Workload.SPIFFEID(), Audience: []string{o.trustDomain},
		Key: identity.SigningKey{Private: key}, Observer: observer,
	})
	return err
}

func list(s string) (items []string) {
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
