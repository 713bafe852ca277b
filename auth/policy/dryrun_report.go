package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// DryRun is what a [Candidate] would have changed since it was configured.
type DryRun struct {
	// Judged counts the calls that both judged, Differing those that they
	// judged differently.
	Judged    uint64 `json:"judged"`
	Differing uint64 `json:"differing"`
	// Unlisted counts those of Differing that are in no Difference, as the list
	// was full.
	Unlisted uint64 `json:"unlisted"`
	// Failed counts the calls that the candidate failed to judge, with a panic.
	Failed uint64 `json:"failed"`
	// Differences are ordered by how often they occurred, the most frequent first.
	Differences []Difference `json:"differences"`
}

// Difference stands for all calls of one caller with one method, at one host
// and port, to paths of one shape, that were decided by the same rules. Paths
// have one shape if they differ in segments with a digit alone, as in
// /v1/payments/42 and /v1/payments/43. The rest of the fields is that of the
// first such call. No header field, query or claim is kept.
type Difference struct {
	// Count is how many calls there were, First and Last when they arrived.
	Count       uint64
	First, Last time.Time
	// Live is what became of the call, Candidate what would have.
	Live, Candidate Explanation
	// Peer is the SPIFFE id of the caller, "" if there was none.
	Peer string
	// Issuer and Subject are the authenticated user.
	Issuer, Subject string
	Protocol        gatemesh.Protocol
	// Method, Host and Path are canonical. Those longer than 512 bytes are cut.
	Method, Host, Path, SNI string
	// RemoteAddr, LocalAddr and Client are those of [gatemesh.Call].
	RemoteAddr, LocalAddr netip.AddrPort
	Client                netip.Addr
	// Partial says that these fields alone do not lead to the same verdicts:
	// they hang on what is not kept, such as a claim.
	Partial bool
}

// MarshalJSON writes a flat object for pages and scripts; verdicts are "allow" and "deny".
func (d Difference) MarshalJSON() ([]byte, error) {
	type why struct {
		Verdict   string `json:"verdict"`
		Policy    string `json:"policy,omitempty"`
		Namespace string `json:"namespace,omitempty"`
		Rule      int    `json:"rule,omitempty"`
		Position  string `json:"position,omitempty"`
		Reason    string `json:"reason"`
	}
	explained := func(e Explanation) why {
		return why{e.Verdict.String(), e.Policy, e.Namespace, e.Rule, e.Position.String(), e.Reason}
	}
	return json.Marshal(struct {
		Count     uint64         `json:"count"`
		First     time.Time      `json:"first"`
		Last      time.Time      `json:"last"`
		Live      why            `json:"live"`
		Candidate why            `json:"candidate"`
		Peer      string         `json:"peer,omitempty"`
		Issuer    string         `json:"issuer,omitempty"`
		Subject   string         `json:"subject,omitempty"`
		Protocol  string         `json:"protocol"`
		Method    string         `json:"method"`
		Host      string         `json:"host,omitempty"`
		Path      string         `json:"path"`
		SNI       string         `json:"sni,omitempty"`
		From      netip.AddrPort `json:"remoteAddr,omitzero"`
		To        netip.AddrPort `json:"localAddr,omitzero"`
		Client    netip.Addr     `json:"client,omitzero"`
		Partial   bool           `json:"partial,omitempty"`
	}{
		d.Count, d.First, d.Last, explained(d.Live), explained(d.Candidate), d.Peer, d.Issuer, d.Subject,
		d.Protocol.String(), d.Method, d.Host, d.Path, d.SNI, d.RemoteAddr, d.LocalAddr, d.Client, d.Partial,
	})
}

// MarshalText returns "allow" or "deny".
func (v Verdict) MarshalText() ([]byte, error) {
	if v != Allow && v != Deny {
		return nil, errors.New("policy: the verdict is neither Allow nor Deny")
	}
	return []byte(v.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (v *Verdict) UnmarshalText(b []byte) error {
	switch string(b) {
	case "allow":
		*v = Allow
	case "deny":
		*v = Deny
	default:
		return fmt.Errorf("the verdict %s is neither allow nor deny", quote(string(b)))
	}
	return nil
}
