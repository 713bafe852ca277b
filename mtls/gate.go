package mtls

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

const layerName = "peer"

var (
	denyMissing = gatemesh.Deny(gatemesh.Unauthenticated, "peer_missing", "A client certificate is required.")
	denyInvalid = gatemesh.Deny(gatemesh.Unauthenticated, "peer_invalid", "The client certificate is not acceptable.")
	denyAllowed = gatemesh.Deny(gatemesh.PermissionDenied, "peer_not_allowed", "This workload may not connect.")

	// A peer that is not welcome any more loses its connection: HTTP/1.1
	// closes it after the answer, net/http makes a GOAWAY of the field for
	// HTTP/2, and grpcmesh one for gRPC; neither sends the field, which HTTP/2
	// forbids (RFC 9113 §8.2.2). A client that has renewed its certificate, or
	// has got one, then comes back with it.
	closeMissing = denyMissing.WithField("Connection", "close")
	closeInvalid = denyInvalid.WithField("Connection", "close")
	closeAllowed = denyAllowed.WithField("Connection", "close")
)

var (
	errHandshake = errors.New("mtls: the handshake is not complete")
	errNoLeaf    = errors.New("mtls: the peer has no certificate to verify")
)

// Peer returns the verified workload at the other end of a server's
// connection, for [gatemesh.EntryConfig]. It returns nil without error if the
// client sent no certificate. Nothing depends on who configured the handshake:
// the chain is verified here unless it was before, by t and against the same
// bundles. Authorize is not asked; that is for the handshake and the gate.
//
// Its errors are of type [*gatemesh.Denial].
func (t *TLS) Peer(cs *tls.ConnectionState) (*gatemesh.Peer, error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return nil, nil
	}
	if !cs.HandshakeComplete { // else the client may not hold the private key
		return nil, denyInvalid.WithCause(errHandshake)
	}
	v, err := t.client(cs.PeerCertificates, t.latest(), time.Now())
	if err != nil {
		return nil, closeInvalid.WithCause(err)
	}
	return v.peer, nil
}

// Admit judges the peer of a call as of now, not as of the handshake: its
// certificate must still be valid and trusted, and the peer welcome. The
// consent ends with the certificate, or after [Config.Recheck].
//
// A call without a peer is answered 401, one whose certificate has lost
// validity or trust 401 and one that Authorize refuses 403; all of them lose
// their connection.
//
// Where [Config.Modes] let plain text in, a call on a connection without TLS is
// admitted and has no Peer, which package auth/policy sees: no rule that names
// principals, namespaces or service accounts matches it, and those that exclude
// some do. Whoever comes with TLS has to be somebody.
func (t *TLS) Admit(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, error) {
	s := set(t.state.For(c))
	peer, until, err := t.judge(c, s, c.Received())
	if err != nil {
		return gatemesh.Admission{}, err
	}
	if peer == nil {
		t.plain.count(ctx, c, s.Observer)
	}
	return gatemesh.Admission{Peer: peer, Until: until}, nil
}

// AdmitCached is Admit, which never waits for anybody.
func (t *TLS) AdmitCached(ctx context.Context, c *gatemesh.Call) (gatemesh.Admission, bool, error) {
	adm, err := t.Admit(ctx, c)
	return adm, true, err
}

// Revalidate judges the peer of an open stream again.
func (t *TLS) Revalidate(_ context.Context, c *gatemesh.Call) (time.Time, error) {
	_, until, err := t.judge(c, t.latest(), time.Now())
	return until, err
}

// judge returns the peer, or nil for a call that may come without one.
func (t *TLS) judge(c *gatemesh.Call, s *Config, now time.Time) (*gatemesh.Peer, time.Time, error) {
	until := now.Add(s.Recheck)
	p := c.Peer()
	if p == nil {
		if c.Encrypted() || s.Modes.For(c.LocalPort()) == ModeStrict {
			t.plain.refused.Add(1)
			return nil, time.Time{}, closeMissing
		}
		return nil, until, nil
	}
	v, err := t.again(p, s, now)
	if err != nil {
		return nil, time.Time{}, closeInvalid.WithCause(err)
	}
	if err := s.Authorize(v.peer); err != nil {
		return nil, time.Time{}, closeAllowed.WithCause(err)
	}
	if v.until.Before(until) {
		until = v.until
	}
	return v.peer, until, nil
}

// again verifies a peer that was verified before, by us or by somebody else.
func (t *TLS) again(p *gatemesh.Peer, s *Config, now time.Time) (*verified, error) {
	leaf := p.Leaf()
	if leaf == nil {
		return nil, errNoLeaf
	}
	creds := s.Source.Credentials()
	if creds != nil {
		t.watch(s, creds, now)
	}
	if v := t.known(leaf, creds, now); v != nil {
		return v, nil
	}
	return t.client(p.Chain(), s, now)
}
