package policy

import (
	"errors"
	"strings"

	"github.com/gatemesh-go/gatemesh"
)

// claim says what of a principal a condition reads. What every principal has
// is not looked up among its claims, so that it is the same for a token, an API
// key and an identity.
type claim uint8

const (
	claimAtPath claim = iota
	claimWords        // at a path, and strings are lists separated by spaces
	claimIssuer
	claimSubject
	claimAudience
	claimScopes
)

// ErrKey is in the error of [New] if a [Condition.Key] is none that the
// engine can judge, for whoever wants to tell that from a fault of the values.
var ErrKey = errors.New("policy: the key of a condition cannot be judged")

// keyError says what is wrong with a key.
type keyError struct{ error }

func (keyError) Is(target error) bool { return target == ErrKey }

var (
	errKey        = errors.New("is not an attribute that gatemesh knows")
	errKeyClaim   = errors.New("claims are named request.auth.claims[NAME], and claims within claims request.auth.claims[A][B]")
	errKeyHeader  = errors.New("header fields are named request.headers[NAME]")
	errKeyMissing = errors.New("is required")
)

var plainKeys = map[string]field{
	"source.ip": fieldAddr, "remote.ip": fieldClient, "destination.ip": fieldLocal, "destination.port": fieldPort,
	"source.principal": fieldPrincipal, "source.namespace": fieldNamespace, "source.serviceAccount": fieldServiceAccount,
	"request.auth.principal": fieldUser, "connection.sni": fieldSNI,
}

// parseKey returns a condition that reads what key names.
func parseKey(key string) (condition, error) {
	if f, ok := plainKeys[key]; ok {
		return condition{field: f}, nil
	}
	const claims, headers = "request.auth.claims", "request.headers"
	switch {
	case key == "":
		return condition{}, errKeyMissing
	case key == "request.auth.audiences":
		return condition{field: fieldClaim, name: "audience", claim: claimAudience}, nil
	case key == "request.auth.presenter":
		return condition{field: fieldClaim, name: "presenter", path: []string{"azp"}}, nil
	case strings.HasPrefix(key, claims):
		path, ok := brackets(key[len(claims):])
		if !ok {
			return condition{}, errKeyClaim
		}
		return condition{field: fieldClaim, name: "claim " + bare(strings.Join(path, ".")), path: path, claim: claimOf(path)}, nil
	case strings.HasPrefix(key, headers):
		path, ok := brackets(key[len(headers):])
		if !ok || len(path) != 1 {
			return condition{}, errKeyHeader
		}
		name, err := headerName(path[0])
		c := condition{field: fieldHeader, name: name}
		for _, s := range singleFields {
			c.single = c.single || s == name
		}
		return c, err
	}
	return condition{}, errKey
}

// brackets returns A and B of "[A][B]".
func brackets(s string) (path []string, ok bool) {
	for s != "" {
		name, rest, closed := strings.Cut(s, "]")
		if !closed || len(name) < 2 || name[0] != '[' || strings.Contains(name[1:], "[") || strings.TrimSpace(name[1:]) != name[1:] {
			return nil, false
		}
		path, s = append(path, name[1:]), rest
	}
	return path, len(path) > 0
}

func claimOf(path []string) claim {
	if len(path) == 1 {
		switch path[0] {
		case "iss":
			return claimIssuer
		case "sub":
			return claimSubject
		case "aud":
			return claimAudience
		case "scope":
			return claimScopes
		case "permission":
			return claimWords // as in Istio, besides scope
		}
	}
	return claimAtPath
}

// holdsClaim judges what c reads of p, which may be nil: then there is no claim.
func (c *condition) holdsClaim(p *gatemesh.Principal) bool {
	if p == nil {
		return c.not
	}
	matched := false
	odd := c.eachWord(p, func(word string) bool {
		matched = c.matches(&text{word})
		return !matched
	})
	switch {
	case matched:
		return !c.not
	case odd:
		return c.unknown
	}
	return c.not
}

// eachWord yields what c compares of p until yield returns false. It reports
// whether it met what is no text to compare: a number, a boolean or an object.
func (c *condition) eachWord(p *gatemesh.Principal, yield func(string) bool) (odd bool) {
	switch c.claim {
	case claimIssuer:
		yield(p.Issuer())
		return false
	case claimSubject:
		yield(p.Subject())
		return false
	case claimAudience:
		p.AllAudience()(yield)
		return false
	case claimScopes:
		p.AllScopes()(yield)
		return false
	}
	for v := range p.ClaimElements(c.path...) {
		s, isText := v.(string)
		if !isText {
			odd = true
			continue
		}
		for more := true; more; {
			word := s
			if more = false; c.claim == claimWords {
				word, s, more = strings.Cut(s, " ")
			}
			if !yield(word) {
				return odd
			}
		}
	}
	return odd
}
