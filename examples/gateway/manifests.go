package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/examples/gateway/edge"
	"github.com/gatemesh-go/gatemesh/manifest"
	"github.com/gatemesh-go/gatemesh/ratelimit"
	"github.com/gatemesh-go/gatemesh/routing"
	"github.com/gatemesh-go/gatemesh/routing/pool"
)

// version is what the manifests of one moment amount to, on top of the flags.
type version struct {
	edge     edge.Config
	set      *manifest.Set
	services map[gatemesh.Destination]*service               // that resolve by DNS
	policies map[gatemesh.Destination]manifest.TrafficPolicy // of those that flags say
	keys     *manifest.Authentication                        // of RequestAuthentications; or nil
}

// service is one that resolves by DNS. Versions share it.
type service struct {
	name     string
	policy   manifest.TrafficPolicy // of its DestinationRule
	upstream routing.Upstream
	pool     *pool.Pool
}

// close closes what v has and other, which may be nil, has not. What calls are
// still using stays as it is for them.
func (v *version) close(other *version) {
	for d, s := range v.services {
		if other == nil || other.services[d] != s {
			_ = s.pool.Close() // it has no errors that matter to anybody now
			if t, ok := s.upstream.Transport.(interface{ CloseIdleConnections() }); ok {
				t.CloseIdleConnections()
			}
		}
	}
	if v.keys != nil {
		_ = v.keys.Close() // which knows who else has them
	}
}

func (o *options) buildManifests(b *built, observer gatemesh.Observer) error {
	if b.plain = o.manifests == ""; b.plain {
		err := o.checkCredentials(b.edge.Auth)
		if !slices.ContainsFunc(o.upstreams, func(u routing.Upstream) bool { return u.Service == "default" }) {
			err = errors.Join(err, errors.New("nothing to do: give -manifests DIR, or -upstream default=URL for a plain reverse proxy"))
		}
		return err
	}
	set, err := manifest.LoadDir(o.manifests)
	if err != nil {
		return err
	}
	b.edge.Manifests = set
	v, err := o.newVersion(b, set, nil, observer)
	if err != nil {
		return err
	}
	b.version.Store(v)
	b.edge = v.edge
	if err := b.usePolicies(v.policies, observer); err != nil {
		return err
	}
	for _, s := range v.services {
		b.ready.pool(s.name, s.pool)
	}
	for _, keys := range v.keys.KeySets() {
		b.ready.keys(keys)
	}
	return nil
}

// newVersion returns what set amounts to. What old, which may be nil, has got
// to do with already, such as endpoints and keys, goes on.
func (o *options) newVersion(b *built, set *manifest.Set, old *version, observer gatemesh.Observer) (*version, error) {
	set, err := o.ours(set)
	if err != nil {
		return nil, err
	}
	v := &version{edge: b.edge, set: set, services: map[gatemesh.Destination]*service{}}
	v.edge.Manifests = set
	v.edge.Workload = b.edge.Workload.Clone()
	delete(v.edge.Workload.Labels, gatemesh.GatewayLabel) // of the set before
	if name, namespace := set.Gateway(); namespace == v.edge.Workload.Namespace {
		v.edge.Workload.Labels[gatemesh.GatewayLabel] = name
	}
	v.policies, err = o.policies(b, set, v.edge.Workload)
	err = errors.Join(err, o.checkListeners(b, set), o.checkTargets(set, v.edge.Workload), o.findServices(b, v, old, observer), o.authenticate(b, v, old, observer))
	if err != nil {
		v.close(old)
		return nil, err
	}
	return v, nil
}

// ours returns set as the Gateway reads it that -gateway names.
func (o *options) ours(set *manifest.Set) (*manifest.Set, error) {
	if o.gateway == "" {
		if all := set.Gateways(); len(all) > 1 {
			return nil, fmt.Errorf("the manifests have several Gateways; say by -gateway which one this is: %s", strings.Join(all, ", "))
		}
		return set, nil
	}
	namespace, name, _ := strings.Cut(o.gateway, "/")
	return set.For(namespace, name)
}

// checkTargets refuses policies for the Gateway if, to judge by its namespace,
// that is somebody else: a DENY that is for nobody would go unnoticed.
func (o *options) checkTargets(set *manifest.Set, self gatemesh.Workload) (err error) {
	refuse := func(position gatemesh.Position, gateways []string) {
		if gateways != nil && !self.Serves(gateways) {
			err = errors.Join(err, fmt.Errorf("%s: the Gateway of its targetRefs is not in the namespace of -workload %s", position, o.workload))
		}
	}
	for _, p := range set.Policies() {
		refuse(p.Position, p.Gateways)
	}
	for _, a := range set.RequestAuthentications() {
		refuse(a.Position, a.Gateways)
	}
	return err
}

// findServices adds upstreams for the services that no flag says anything of.
func (o *options) findServices(b *built, v, old *version, observer gatemesh.Observer) error {
	var errs []error
	var found []routing.Upstream
	var to []gatemesh.Destination
	for _, r := range v.set.Routes() {
		for _, backend := range r.Backends {
			if !backend.Unserved {
				to = append(to, backend.Destination)
			}
		}
	}
	for _, d := range append(to, goesTo(v.set, v.edge.Workload)...) {
		// DNS does not know the labels of pods.
		if d.Subset != "" || v.services[d] != nil || slices.ContainsFunc(b.flags, func(u routing.Upstream) bool {
			return u.Service == d.Service && (u.Namespace == "" || u.Namespace == d.Namespace) && (u.Port == 0 || u.Port == d.Port)
		}) {
			continue
		}
		policy, _ := v.set.TrafficPolicy(d)
		if policy.TLS == manifest.TLSMesh && o.meshCert == "" {
			errs = append(errs, fmt.Errorf("%s: tls mode ISTIO_MUTUAL for %s takes -mesh-cert", policy.Position, upstreamName(d)))
			continue
		}
		policy.Position = gatemesh.Position{}
		var s *service
		if old != nil && old.services[d] != nil && old.services[d].policy == policy {
			s = old.services[d]
		}
		if s == nil {
			var err error
			if s, err = o.byDNS(d, policy, observer); err != nil {
				errs = append(errs, err)
				continue
			}
			one := []routing.Upstream{s.upstream}
			errs = append(errs, o.secure(b, one))
			s.upstream = one[0]
		}
		v.services[d] = s
		found = append(found, s.upstream)
	}
	v.edge.Upstreams = slices.Concat(b.flags, found)
	return errors.Join(append(errs, o.checkPlainText(found))...)
}

// authenticate says whose credentials are good: what the flags say, and else
// the RequestAuthentications. With -api-keys, a call has to have a key or a
// token; a file that appears in the folder does not make that optional.
func (o *options) authenticate(b *built, v, old *version, observer gatemesh.Observer) error {
	cfg := manifest.AuthenticationConfig{
		Workload: v.edge.Workload, Audience: list(o.audience),
		Fetch: auth.JWKSConfig{Cooldown: o.cooldown, Observer: observer},
	}
	if o.jwks == "" {
		cfg.Algorithms = list(o.algs)
	}
	if old != nil {
		cfg.Previous = old.keys
	}
	var err error
	if v.keys, err = v.set.Authentication(cfg); err != nil {
		return err
	}
	who := v.keys.Config()
	switch {
	case o.jwks != "" && len(who.Issuers) > 0:
		return fmt.Errorf("-jwks and the RequestAuthentications for %s both say which tokens are good; leave out either", o.workload)
	case o.jwks != "" && b.flagAuth != nil: // without, there is a fault already
		who = *b.flagAuth
	case len(who.Issuers) == 0 && o.audience+o.algs != "":
		return errors.New("-audience and -algs say which tokens are good, which takes -jwks or a RequestAuthentication")
	case o.apiKeys != "" && b.flagAuth != nil:
		who.APIKeys, who.InsecureAnonymous = b.flagAuth.APIKeys, false
	}
	who.Observer = observer
	v.edge.Auth = &who
	return o.checkCredentials(&who)
}

// checkCredentials refuses flags that mean nobody if nobody is authenticated.
func (o *options) checkCredentials(who *auth.Config) error {
	if who != nil && (len(who.Issuers) > 0 || who.APIKeys != nil) || o.jwks != "" || o.apiKeys != "" {
		return nil
	}
	var errs []error
	if o.rate.Limit != (ratelimit.Limit{}) {
		errs = append(errs, errors.New("-rate counts consumers, which takes -jwks, -api-keys or a RequestAuthentication; to limit addresses use -client-rate"))
	}
	if o.identityKey != "" {
		errs = append(errs, errors.New("-identity-key signs who was authenticated, which takes -jwks, -api-keys or a RequestAuthentication"))
	}
	return errors.Join(errs...)
}

// warmup is how long a new version waits for the addresses of services that are
// new in it.
const warmup = 5 * time.Second

// follow puts in use what happens to the manifests, until stop is called.
func (o *options) follow(b *built, g *edge.Gateway, observer gatemesh.Observer) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	w, err := manifest.NewWatcher(manifest.WatcherConfig{
		Dir: o.manifests, Current: b.version.Load().set, Interval: o.reread, Observer: observer,
		Apply: func(set *manifest.Set) error {
			old := b.version.Load()
			v, err := o.newVersion(b, set, old, observer)
			if err != nil {
				return err
			}
			v.warm(ctx, old)
			if err := g.Update(v.edge); err != nil {
				v.close(old)
				return err
			}
			b.version.Store(v)
			old.close(v)
			return b.usePolicies(v.policies, observer)
		},
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return func() {
		cancel()
		_ = w.Close() // it has no errors
	}, nil
}

// warm waits until the services that are new in v have been found, so that the
// first calls to them are. One that is not there does not keep the others back.
func (v *version) warm(ctx context.Context, old *version) {
	ctx, cancel := context.WithTimeout(ctx, warmup)
	defer cancel()
	for d, s := range v.services {
		if old.services[d] != s {
			_ = s.pool.WaitReady(ctx) // the pool reports why not
		}
	}
}
