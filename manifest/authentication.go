package manifest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
)

// maxIssuers bounds the issuers of a workload: each has a goroutine that fetches,
// and a token looks for its own among them.
const maxIssuers = 64

// asymmetric are the algorithms of public keys: what Istio accepts, without
// HS256, HS384 and HS512, whose keys are secrets, and without none.
func asymmetric() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// AuthenticationConfig says what a RequestAuthentication leaves open. The zero
// AuthenticationConfig is invalid: Workload is required.
type AuthenticationConfig struct {
	// Workload says who we are. Required. RequestAuthentications are matched
	// against its namespace and labels; those that do not select it play no part.
	Workload gatemesh.Workload
	// RootNamespace is the namespace whose RequestAuthentications apply to the
	// workloads of every namespace. Default: "istio-system".
	RootNamespace string
	// Algorithms are the signature algorithms of all issuers; Istio has no field
	// for them. Default: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384,
	// ES512 and EdDSA. HS256, HS384 and HS512 are errors: what they verify with
	// would be a secret in a manifest. A key is good for the algorithms of its
	// kind alone, whatever stands here.
	Algorithms []string
	// Audience is whom tokens may be for where a rule has no audiences. Default:
	// such a rule is an error. Istio lets it accept tokens for anybody, those
	// that its users gave to other services included.
	Audience []string
	// Fetch says how the keys of jwksUri, and of issuers without it, are
	// fetched. URL, Discovery and File must be empty, and the timeout of a rule
	// goes before FetchTimeout. The default is that of [auth.JWKSConfig]: https
	// alone, without InsecureHTTP, no redirects, and limits for time and size.
	//
	// Who can write the manifests chooses which hosts are asked. Names may
	// resolve to inner addresses, as those of an issuer in the cluster do, so
	// where that is too much, a Client has to bound it by its dialer.
	Fetch auth.JWKSConfig
	// Previous is what was made of the manifests before. Key sets that both have
	// go on with the keys they hold, so a reload while an issuer is away costs
	// nobody his token; of Fetch, they keep what they were made with. Each has
	// to be closed, in any order. Default: none.
	Previous *Authentication
}

// Authentication is what the RequestAuthentications of a [Set] mean for one
// workload. It follows the key sets of their issuers until Close. It is
// immutable and safe for concurrent use; the zero Authentication accepts no
// credential.
type Authentication struct {
	cfg     auth.Config
	sources []*keySource
}

// Authentication returns what the RequestAuthentications that select
// cfg.Workload say together. It has begun to fetch keys and does not wait for
// them. It reports all faults at once, with file and line, as soon as two rules
// for the workload have the same issuer or read tokens in different places:
// [auth.Config] has one of each.
func (set *Set) Authentication(cfg AuthenticationConfig) (*Authentication, error) {
	b := authBuilder{cfg: cfg, a: &Authentication{cfg: auth.Config{InsecureAnonymous: true}}}
	b.options()
	for _, ra := range set.RequestAuthentications() {
		if !selects(&ra, &cfg.Workload, cmp.Or(cfg.RootNamespace, "istio-system")) {
			continue
		}
		for i := range ra.Rules {
			b.rule(&ra, &ra.Rules[i])
		}
	}
	if len(b.errs) == 0 { // else nothing is fetched
		b.build()
	}
	if err := errors.Join(b.errs...); err != nil {
		return nil, errors.Join(err, b.a.Close())
	}
	return b.a, nil
}

// Config returns the configuration of an [auth.Authenticator]: the issuers,
// where tokens are, and [auth.Config.InsecureAnonymous], because Istio lets a
// call without a token pass. It then has no principal, and an
// AuthorizationPolicy whose rule has no requestPrincipals, or only
// notRequestPrincipals, lets it in. Without a RequestAuthentication for the
// workload there are no issuers, and tokens are not looked at.
//
// Other fields may be set before it is used. The key sets stay with a, to be
// closed after the Authenticator has got another configuration or its last call.
func (a *Authentication) Config() auth.Config {
	cfg := a.cfg
	cfg.InsecureAnonymous = true // the zero Authentication, too
	cfg.Issuers = slices.Clone(cfg.Issuers)
	for i := range cfg.Issuers {
		is := &cfg.Issuers[i]
		is.Audience, is.Algorithms = slices.Clone(is.Audience), slices.Clone(is.Algorithms)
	}
	return cfg
}

// KeySets returns the key sets that are fetched, so that a server can wait for
// them before it asks for traffic. They are closed by Close alone.
func (a *Authentication) KeySets() (all []*auth.JWKS) {
	for _, s := range a.sources {
		if j, ok := s.keys.(*auth.JWKS); ok {
			all = append(all, j)
		}
	}
	return all
}

// Close ends the fetching of key sets, but of those that another
// Authentication has, too. It may be called more than once.
func (a *Authentication) Close() error {
	var errs []error
	for _, s := range a.sources {
		errs = append(errs, s.release(a))
	}
	return errors.Join(errs...)
}

func selects(ra *RequestAuthentication, w *gatemesh.Workload, root string) bool {
	if ra.Gateways != nil {
		return ra.Namespace == w.Namespace && w.Serves(ra.Gateways)
	}
	return (ra.Namespace == w.Namespace || ra.Namespace == root) && w.HasLabels(ra.Selector)
}

// authBuilder collects an Authentication and faults.
type authBuilder struct {
	cfg   AuthenticationConfig
	a     *Authentication
	rules []selected
	errs  []error
}

func (b *authBuilder) fault(err error) {
	if err != nil {
		b.errs = append(b.errs, err)
	}
}

// options checks what has no position.
func (b *authBuilder) options() {
	if err := b.cfg.Workload.Validate(); err != nil {
		b.fault(fmt.Errorf("manifest: AuthenticationConfig.Workload is required: %w", err))
	}
	if f := &b.cfg.Fetch; f.URL+f.Discovery+f.File != "" {
		b.fault(errors.New("manifest: AuthenticationConfig.Fetch: the manifests say where keys are, so URL, Discovery and File must be empty"))
	}
	if b.cfg.Algorithms == nil {
		b.cfg.Algorithms = asymmetric()
	}
	for _, alg := range b.cfg.Algorithms {
		if !slices.Contains(asymmetric(), alg) {
			b.fault(fmt.Errorf("manifest: AuthenticationConfig.Algorithms: %q is not one of %s", alg, strings.Join(asymmetric(), ", ")))
		}
	}
	if len(b.cfg.Algorithms) == 0 {
		b.fault(errors.New("manifest: AuthenticationConfig.Algorithms is empty; leave it nil for the default"))
	}
}

// selected is a rule that selects the workload, and the object it stands in.
type selected struct {
	*JWTRule
	object string
}

func (b *authBuilder) faultAt(r selected, text string) {
	b.fault(fault{file: r.Position.File, line: r.Position.Line, object: r.object, text: text})
}

func (b *authBuilder) rule(ra *RequestAuthentication, rule *JWTRule) {
	r := selected{rule, "RequestAuthentication " + ra.Namespace + "/" + ra.Name}
	fault := func(text string) { b.faultAt(r, text) }
	if len(r.Audiences) == 0 {
		r.Audiences = slices.Clone(b.cfg.Audience)
	}
	if len(r.Audiences) == 0 {
		fault("audiences is required: without it, tokens for any other service of the issuer would be good here, too")
	}
	if len(b.rules) > maxIssuers {
		return // it has been said
	}
	for _, o := range b.rules {
		switch {
		case o.Issuer == r.Issuer:
			fault(fmt.Sprintf("not supported by gatemesh: %s is the issuer of another rule for this workload, in %s", quote(r.Issuer), o.Position))
		case o.Parameter != r.Parameter || o.Cookie != r.Cookie:
			fault(fmt.Sprintf("not supported by gatemesh: tokens are read in other places than those of another rule for this workload, in %s", o.Position))
		}
	}
	if b.rules = append(b.rules, r); len(b.rules) == maxIssuers+1 {
		fault(fmt.Sprintf("there are more than %d rules for this workload", maxIssuers))
	}
}

// build makes the configuration of rules that go together.
func (b *authBuilder) build() {
	cfg := &b.a.cfg
	for _, r := range b.rules {
		source, err := b.source(r.JWTRule)
		if err != nil {
			b.faultAt(r, inOneLine.Replace(err.Error()))
			continue
		}
		b.a.sources = append(b.a.sources, source)
		cfg.TokenParameter, cfg.TokenCookie = r.Parameter, r.Cookie
		cfg.Issuers = append(cfg.Issuers, auth.Issuer{
			Issuer: r.Issuer, Audience: r.Audiences, Algorithms: b.cfg.Algorithms, Keys: source.keys,
		})
	}
	if len(b.errs) == 0 {
		_, err := auth.New(*cfg) // so that it is known to be taken
		b.fault(err)
	}
}

// keyPlace is where the keys of an issuer are.
type keyPlace struct {
	issuer, uri, jwks string
	timeout           time.Duration
}

// keySource are the keys of one issuer, and who uses them.
type keySource struct {
	place keyPlace
	keys  auth.KeySource
	close func() error

	mu    sync.Mutex
	users map[*Authentication]bool // empty once it is closed
}

// source returns the keys of a rule, those of before if they are the same.
func (b *authBuilder) source(r *JWTRule) (*keySource, error) {
	place := keyPlace{r.Issuer, r.JWKSURI, r.JWKS, r.Timeout}
	if b.cfg.Previous != nil {
		for _, s := range b.cfg.Previous.sources {
			if s.place == place && s.take(b.a) {
				return s, nil
			}
		}
	}
	s := &keySource{place: place, close: func() error { return nil }, users: map[*Authentication]bool{b.a: true}}
	if r.JWKS != "" {
		keys, err := auth.ParseJWKS([]byte(r.JWKS))
		s.keys = keys
		return s, err
	}
	cfg := b.cfg.Fetch
	if cfg.URL = r.JWKSURI; cfg.URL == "" {
		cfg.Discovery = r.Issuer
	}
	if r.Timeout > 0 {
		cfg.FetchTimeout = r.Timeout
	}
	keys, err := auth.NewJWKS(cfg)
	if err != nil {
		return nil, err
	}
	s.keys, s.close = keys, keys.Close
	return s, nil
}

// take reports whether a may use s, which is not closed.
func (s *keySource) take(a *Authentication) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.users) == 0 {
		return false
	}
	s.users[a] = true
	return true
}

// release closes s with its last user.
func (s *keySource) release(a *Authentication) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.users, a); len(s.users) > 0 {
		return nil
	}
	return s.close() // closing twice is harmless
}

// noKeys stands for keys that are not there yet.
type noKeys struct{}

func (noKeys) Keys(time.Time) *auth.Keys                  { return nil }
func (noKeys) Refresh(context.Context, string) *auth.Keys { return nil }
