package gatemesh

import (
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
)

// PrincipalInfo describes a Principal for [NewPrincipal].
type PrincipalInfo struct {
	Issuer   string         // who vouches for Subject, compared byte for byte
	Subject  string         // the user, unique within Issuer
	Consumer string         // the application or customer, as of an API key
	Scopes   []string       // what the credential may be used for
	Claims   map[string]any // decoded JSON: string, bool, json.Number, float64, []any, map[string]any
	Method   string         // how it was proved: "jwt", "api-key", "identity"
	Expires  time.Time      // when the credential ends; zero is never
	Audience []string       // whom the credential is for
	// Credential identifies the credential itself without revealing it, such
	// as a key id or a token's jti.
	Credential string
}

// Principal is the authenticated user or consumer of a call. It is immutable:
// gates share one Principal among all calls with the same credential.
// Printing it shows no claim.
type Principal struct{ info PrincipalInfo }

// NewPrincipal returns a Principal with a deep copy of in.
func NewPrincipal(in PrincipalInfo) *Principal {
	in.Scopes = slices.Clone(in.Scopes)
	in.Audience = slices.Clone(in.Audience)
	in.Claims, _ = copyJSON(in.Claims).(map[string]any)
	return &Principal{in}
}

// Issuer returns who vouches for the subject.
func (p *Principal) Issuer() string { return p.info.Issuer }

// Subject returns the user within Issuer, or "".
func (p *Principal) Subject() string { return p.info.Subject }

// Consumer returns the application or customer, or "".
func (p *Principal) Consumer() string { return p.info.Consumer }

// Method says how the principal was authenticated, such as "jwt".
func (p *Principal) Method() string { return p.info.Method }

// Expires returns when the credential ends; zero is never.
func (p *Principal) Expires() time.Time { return p.info.Expires }

// Credential returns the public id of the credential, such as a key id, or "".
func (p *Principal) Credential() string { return p.info.Credential }

// Scopes returns a copy of the scopes.
func (p *Principal) Scopes() []string { return slices.Clone(p.info.Scopes) }

// Audience returns a copy of the audience.
func (p *Principal) Audience() []string { return slices.Clone(p.info.Audience) }

// AllScopes yields the scopes, without the copy that [Principal.Scopes] makes.
func (p *Principal) AllScopes() iter.Seq[string] { return slices.Values(p.info.Scopes) }

// AllAudience yields the audience, without the copy that [Principal.Audience] makes.
func (p *Principal) AllAudience() iter.Seq[string] { return slices.Values(p.info.Audience) }

// HasScope reports whether the credential carries exactly this scope.
func (p *Principal) HasScope(scope string) bool { return slices.Contains(p.info.Scopes, scope) }

// Claim returns a copy of the claim at path, looked up by exact names.
func (p *Principal) Claim(path ...string) (any, bool) {
	v, ok := p.claim(path)
	return copyJSON(v), ok
}

// ClaimElements yields the elements of the claim at path if it is a list, or
// else the claim itself. It yields nothing if there is none, or if it is null.
// Lists and maps among what it yields are copies; without those, it makes none.
func (p *Principal) ClaimElements(path ...string) iter.Seq[any] {
	return func(yield func(any) bool) { p.eachElement(path, yield) }
}

func (p *Principal) eachElement(path []string, yield func(any) bool) {
	claim, ok := p.claim(path)
	if !ok {
		return
	}
	switch v := claim.(type) {
	case nil:
	case []any:
		for _, e := range v {
			if !yield(copyJSON(e)) {
				return
			}
		}
	case []string:
		for _, e := range v {
			if !yield(e) {
				return
			}
		}
	default:
		yield(copyJSON(v))
	}
}

// claim returns the claim itself, not to be changed.
func (p *Principal) claim(path []string) (any, bool) {
	v, ok := any(p.info.Claims), len(path) > 0
	for _, name := range path {
		m, isMap := v.(map[string]any)
		if !isMap {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, ok
}

// ClaimString returns the claim at path if it is a string.
func (p *Principal) ClaimString(path ...string) (string, bool) {
	v, _ := p.Claim(path...)
	s, ok := v.(string)
	return s, ok
}

// ClaimNames yields the names of the top-level claims in unspecified order.
func (p *Principal) ClaimNames() iter.Seq[string] { return maps.Keys(p.info.Claims) }

// Format prints issuer, subject, consumer and method, whatever the verb.
func (p Principal) Format(f fmt.State, _ rune) { // by value, so that copies are covered
	fmt.Fprintf(f, "%s principal iss=%q sub=%q consumer=%q", p.info.Method, p.info.Issuer, p.info.Subject, p.info.Consumer)
}

func copyJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = copyJSON(e)
		}
		return m
	case []any:
		s := make([]any, len(v))
		for i, e := range v {
			s[i] = copyJSON(e)
		}
		return s
	case []string:
		return slices.Clone(v)
	}
	return v
}

// Peer is the workload at the other end of a mutual-TLS connection, verified
// by its SPIFFE id (SPIFFE-ID §2). It is immutable.
type Peer struct {
	trustDomain, path, namespace, serviceAccount string
	chain                                        []*x509.Certificate
}

// NewPeer returns the Peer with the SPIFFE id spiffe://trustDomain/path whose
// verified chain starts with its leaf. Parsing and verifying are the caller's
// part; package mtls does both.
func NewPeer(trustDomain, path string, chain []*x509.Certificate) (*Peer, error) {
	if trustDomain == "" || !strings.HasPrefix(path, "/") || len(path) < 2 {
		return nil, errors.New("gatemesh: a peer needs a trust domain and a path")
	}
	p := &Peer{trustDomain: trustDomain, path: path, chain: chain}
	// Istio's layout: /ns/NAMESPACE/sa/SERVICEACCOUNT, exactly.
	if rest, ok := strings.CutPrefix(path, "/ns/"); ok {
		if ns, sa, ok := strings.Cut(rest, "/sa/"); ok && !strings.Contains(ns, "/") && !strings.Contains(sa, "/") {
			p.namespace, p.serviceAccount = ns, sa
		}
	}
	return p, nil
}

// ID returns the SPIFFE id, such as
// "spiffe://cluster.local/ns/production/sa/order-service".
func (p *Peer) ID() string { return "spiffe://" + p.trustDomain + p.path }

// TrustDomain returns the trust domain, such as "cluster.local".
func (p *Peer) TrustDomain() string { return p.trustDomain }

// Path returns the path of the SPIFFE id with its leading slash.
func (p *Peer) Path() string { return p.path }

// Namespace returns the Kubernetes namespace of an id in Istio's layout, or "".
func (p *Peer) Namespace() string { return p.namespace }

// ServiceAccount returns the service account of an id in Istio's layout, or "".
func (p *Peer) ServiceAccount() string { return p.serviceAccount }

// Leaf returns the peer's certificate, or nil for a Peer made without one. Do
// not change it.
func (p *Peer) Leaf() *x509.Certificate {
	if len(p.chain) == 0 {
		return nil
	}
	return p.chain[0]
}

// Chain returns the certificates the peer sent, leaf first. Do not change them.
func (p *Peer) Chain() []*x509.Certificate { return slices.Clone(p.chain) }

// Format prints the SPIFFE id, whatever the verb.
func (p Peer) Format(f fmt.State, _ rune) { fmt.Fprint(f, p.ID()) } // by value, so that copies are covered
