package manifest

import (
	"maps"
	"net/url"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
)

// requestAuthSpec is the spec of a RequestAuthentication.
type requestAuthSpec struct {
	mark     `refused:"targetRef" why:"targetRef=write targetRefs"`
	Selector selector   `json:"selector"`
	Targets  targetRefs `json:"targetRefs" check:"items=16"`
	JWTRules []jwtRule  `json:"jwtRules" check:"required items=64"`
}

type jwtRule struct {
	mark                 `refused:"outputPayloadToHeader outputClaimToHeaders spaceDelimitedClaims jwks_uri" why:"outputPayloadToHeader=claims go upstream in the signed X-Gatemesh-Identity; outputClaimToHeaders=claims go upstream in the signed X-Gatemesh-Identity; spaceDelimitedClaims=scope and scp are taken apart, and no other claim; jwks_uri=write jwksUri; presence=an AuthorizationPolicy with requestPrincipals [\"*\"] asks for a token"`
	Issuer               text        `json:"issuer" check:"required"`
	Audiences            []text      `json:"audiences"`
	JWKSURI              literal     `json:"jwksUri"`
	JWKS                 literal     `json:"jwks"`
	FromHeaders          []jwtHeader `json:"fromHeaders" check:"items=1"`
	FromParams           []text      `json:"fromParams" check:"items=1 len=64 format=place"`
	FromCookies          []text      `json:"fromCookies" check:"items=1 len=64 format=place"`
	ForwardOriginalToken boolean     `json:"forwardOriginalToken"`
	Timeout              text        `json:"timeout" check:"format=timeout"`
	Presence             text        `json:"presence" check:"default=OPTIONAL enum=OPTIONAL not=REQUIRED"`
}

type jwtHeader struct {
	mark
	Name   text    `json:"name" check:"required format=header"`
	Prefix literal `json:"prefix" check:"required"`
}

type (
	// literal is a text in which white space counts.
	literal struct {
		mark
		V string
	}
	boolean struct {
		mark
		V bool
	}
)

func (l *literal) decode(s scope, n *yaml.Node, _ checks) {
	if !s.isText(n, l.mark) {
		return
	}
	if l.V = n.Value; l.V == "" {
		s.fault(l.mark, "is empty")
	}
}

func (f *boolean) decode(s scope, n *yaml.Node, _ checks) {
	if !s.expect(n, f.mark, yaml.ScalarNode) {
		return
	}
	if n.ShortTag() != "!!bool" || n.Value != "true" && n.Value != "false" {
		s.fault(f.mark, "must be true or false, not %s", describe(n))
		return
	}
	f.V = n.Value == "true"
}

func (a *requestAuthSpec) check(s scope) {
	a.Targets.check(s, &a.Selector)
	seen := make(names)
	for i := range a.JWTRules {
		r := &a.JWTRules[i]
		if first, twice := seen.first(r.Issuer.V, r.mark); twice {
			s.fault(r.Issuer.mark, "not supported by gatemesh: %s is the issuer of %s already", quote(r.Issuer.V), first.path)
		}
	}
}

func (r *jwtRule) check(s scope) {
	switch {
	case r.JWKS.present() && r.JWKSURI.present():
		s.fault(r.JWKS.mark, "stands beside jwksUri; only one of them can say what the keys are")
	case r.JWKS.present():
		if err := r.rule(s).verify(); err != nil {
			s.fault(r.JWKS.mark, "%s", inOneLine.Replace(err.Error()))
		}
		if r.Timeout.present() {
			s.fault(r.Timeout.mark, "has no effect: the keys of jwks are not fetched")
		}
	case r.JWKSURI.present():
		if !isEndpoint(r.JWKSURI.V) {
			// Not quoted: there may be a password in it.
			s.fault(r.JWKSURI.mark, "is not an absolute https URL without user and fragment")
		}
	default:
		if !isEndpoint(r.Issuer.V) || strings.Contains(r.Issuer.V, "?") {
			s.fault(r.Issuer.mark, "%s is not a URL at which its keys can be discovered, so jwksUri or jwks is required", quote(r.Issuer.V))
		}
	}
	if r.ForwardOriginalToken.V {
		s.fault(r.ForwardOriginalToken.mark, "true is not supported by gatemesh: a credential does not go upstream, the signed X-Gatemesh-Identity does")
	}
	// What the gateway reads is one setting for all issuers. The Authorization
	// field is always read.
	if (r.FromParams != nil || r.FromCookies != nil) && r.FromHeaders == nil {
		s.fault(r.sub("fromHeaders"), `not supported by gatemesh: the Authorization field is read in any case; say so with name Authorization and prefix "Bearer "`)
	}
	for _, h := range r.FromHeaders {
		if !strings.EqualFold(h.Name.V, "Authorization") || h.Prefix.V != "Bearer " {
			s.fault(h.mark, `not supported by gatemesh: the one field that is read is Authorization, with prefix "Bearer "`)
		}
	}
}

// isEndpoint reports whether keys may be at a URL. Whether it may have http is
// for [AuthenticationConfig.Fetch] to say.
func isEndpoint(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.User == nil && !strings.Contains(raw, "#")
}

// RequestAuthentication says whose tokens are good at the workloads that it
// selects. It is what Istio's document of that kind says; [Set.Authentication]
// makes a configuration of it.
type RequestAuthentication struct {
	Name, Namespace string
	// Position is where it was written.
	Position gatemesh.Position
	// Selector are labels that a workload must have; with none, it is every one
	// in the namespace, or anywhere if it is the root namespace.
	Selector map[string]string
	// Gateways are names of Gateways in Namespace, in place of Selector: it is
	// for the workloads that serve one of them, see [gatemesh.GatewayLabel].
	Gateways []string
	// Rules are one for each issuer.
	Rules []JWTRule
}

// JWTRule says which tokens of one issuer are good.
type JWTRule struct {
	Position  gatemesh.Position
	Issuer    string
	Audiences []string // may be empty; see AuthenticationConfig.Audience
	// JWKSURI is where the keys are, or JWKS holds them. With neither, they are
	// where the issuer's metadata says.
	JWKSURI, JWKS string
	// Parameter and Cookie are where a token may be, besides the Authorization
	// field; "" is nowhere else.
	Parameter, Cookie string
	// Timeout bounds a fetch of keys. 0 if the file does not say.
	Timeout time.Duration
}

// RequestAuthentications returns all RequestAuthentications, in the order of
// files and lines. Each call returns new slices and maps.
func (set *Set) RequestAuthentications() []RequestAuthentication {
	var out []RequestAuthentication
	for _, a := range set.requestAuths {
		to := RequestAuthentication{
			Name: a.Metadata.Name.V, Namespace: a.Metadata.Namespace.V,
			Position: a.scope.position(a.mark), Selector: maps.Clone(a.Spec.Selector.MatchLabels.V), Gateways: a.Spec.Targets.names(),
		}
		for i := range a.Spec.JWTRules {
			to.Rules = append(to.Rules, a.Spec.JWTRules[i].rule(a.scope))
		}
		out = append(out, to)
	}
	return out
}

func (r *jwtRule) rule(s scope) JWTRule {
	out := JWTRule{Position: s.position(r.mark), Issuer: r.Issuer.V, JWKSURI: r.JWKSURI.V, JWKS: r.JWKS.V}
	copyValues([]valueList{{r.Audiences, &out.Audiences}})
	if r.FromHeaders == nil { // Istio's default
		out.Parameter = "access_token"
	}
	for _, p := range r.FromParams {
		out.Parameter = p.V
	}
	for _, c := range r.FromCookies {
		out.Cookie = c.V
	}
	out.Timeout, _ = time.ParseDuration(r.Timeout.V) // it has its format
	return out
}

// inOneLine takes off what auth says besides what is wrong with the keys.
var inOneLine = strings.NewReplacer("auth: ", "", "Config.Issuers[0].Keys: ", "", "\n", "; ")

// verify asks auth whether it takes a rule, before there is a workload.
func (r JWTRule) verify() error {
	is := auth.Issuer{Issuer: r.Issuer, Audience: []string{"any"}, Algorithms: asymmetric(), Keys: noKeys{}}
	if r.JWKS != "" {
		keys, err := auth.ParseJWKS([]byte(r.JWKS))
		if err != nil {
			return err
		}
		is.Keys = keys
	}
	_, err := auth.New(auth.Config{Issuers: []auth.Issuer{is}, TokenParameter: r.Parameter, TokenCookie: r.Cookie})
	return err
}
