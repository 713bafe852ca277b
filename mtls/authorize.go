package mtls

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gatemesh-go/gatemesh"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// An Authorizer reports, by a nil error, that a verified peer is welcome. It
// is asked in every handshake and for every call, so it must be fast and safe
// for concurrent use, and its answer may change. Its errors go to logs only.
type Authorizer func(peer *gatemesh.Peer) error

// Exactly welcomes the workload with this SPIFFE id.
func Exactly(id string) (Authorizer, error) {
	want, err := ParseID(id)
	if err != nil {
		return nil, err
	}
	return func(p *gatemesh.Peer) error {
		if peerID(p) != want {
			return fmt.Errorf("mtls: %s is not %s", p, want)
		}
		return nil
	}, nil
}

// OneOf welcomes the workloads with these SPIFFE ids. At least one is required.
func OneOf(ids ...string) (Authorizer, error) {
	if len(ids) == 0 {
		return nil, errors.New("mtls: OneOf needs at least one SPIFFE id")
	}
	want := make(map[ID]bool, len(ids))
	var errs []error
	for _, s := range ids {
		id, err := ParseID(s)
		errs = append(errs, err)
		want[id] = true
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return func(p *gatemesh.Peer) error {
		if !want[peerID(p)] {
			return fmt.Errorf("mtls: %s is not one of the %d expected workloads", p, len(want))
		}
		return nil
	}, nil
}

// MemberOf welcomes every workload of the trust domain, such as
// "cluster.local". What each of them may do is for auth/policy to say.
func MemberOf(trustDomain string) (Authorizer, error) {
	if err := checkTrustDomain(trustDomain); err != nil {
		return nil, fmt.Errorf("mtls: MemberOf: %w", err)
	}
	return func(p *gatemesh.Peer) error {
		if p.TrustDomain() != trustDomain {
			return fmt.Errorf("mtls: %s is not of trust domain %s", p, trustDomain)
		}
		return nil
	}, nil
}

// PathPrefix welcomes the workloads of the trust domain whose path is prefix or
// goes on below it. Only whole segments match: "/ns/prod" does not match
// "/ns/production/sa/a".
func PathPrefix(trustDomain, prefix string) (Authorizer, error) {
	if err := checkTrustDomain(trustDomain); err != nil {
		return nil, fmt.Errorf("mtls: PathPrefix: %w", err)
	}
	if prefix == "" {
		return nil, errors.New("mtls: PathPrefix: the prefix is required; MemberOf takes every path")
	}
	if err := spiffeid.ValidatePath(prefix); err != nil {
		return nil, fmt.Errorf("mtls: PathPrefix %q: %w", prefix, err)
	}
	return func(p *gatemesh.Peer) error {
		rest, ok := strings.CutPrefix(p.Path(), prefix)
		if p.TrustDomain() != trustDomain || !ok || rest != "" && rest[0] != '/' {
			return fmt.Errorf("mtls: %s is not below spiffe://%s%s", p, trustDomain, prefix)
		}
		return nil
	}, nil
}

func peerID(p *gatemesh.Peer) ID { return ID{p.TrustDomain(), p.Path()} }
