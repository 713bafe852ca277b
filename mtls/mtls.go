package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gatemesh-go/gatemesh"
)

// Config configures a [TLS]. The zero Config is invalid: Source and Authorize
// are required.
type Config struct {
	// Source says who we are and whom we trust. Required.
	Source Source
	// Authorize says who may connect to us. Required.
	Authorize Authorizer
	// Modes say, by port, whether callers may come in plain text, to
	// [TLS.Listener] and to grpcmesh; [ResolveModes] reads them from Istio's
	// policies. They may change while connections live: plain-text ones lose
	// theirs with the next call. Default: ModeStrict, everywhere.
	Modes Modes
	// Recheck is how long a consent holds on a stream that stays open. Then the
	// peer is judged again: validity, trust, Authorize. It never outlasts the
	// peer's certificate. Default: 1 minute. Must not be negative.
	Recheck time.Duration
	// Observer receives a notice for every verified peer that Authorize turned
	// away in a handshake; one a minute at most while callers come in plain
	// text; what becomes of our certificate when nobody renews it, see
	// [Status]; and faults of [TLS.Handler]. Handshakes with strangers are left
	// to [http.Server.ErrorLog]. Default: nobody.
	Observer gatemesh.Observer
}

// TLS makes and accepts connections between workloads, and is the gate that
// judges their calls. Make it with [New]. It is safe for concurrent use. The zero
// TLS has no credentials and refuses everybody.
type TLS struct {
	state gatemesh.Live[Config] // immutable
	cache cache

	plain   plainCalls
	refused atomic.Uint64 // handshakes
	expires atomic.Pointer[expiry]
}

// unset is what a TLS has that New did not make.
var unset = &Config{Source: noSource{}, Authorize: func(*gatemesh.Peer) error { return errNoCredentials }}

type noSource struct{}

func (noSource) Credentials() *Credentials { return nil }

func (t *TLS) latest() *Config { return set(t.state.Latest()) }

func set(s *Config) *Config {
	if s == nil {
		return unset
	}
	return s
}

// Format prints who t is, whatever the verb.
func (t *TLS) Format(f fmt.State, _ rune) {
	if creds := t.latest().Source.Credentials(); creds != nil {
		fmt.Fprintf(f, "mutual TLS of %s", creds.ID)
		return
	}
	fmt.Fprint(f, "mutual TLS without credentials")
}

// New returns a TLS for cfg. It reports every invalid field at once.
func New(cfg Config) (*TLS, error) {
	t := &TLS{}
	if err := t.Update(cfg); err != nil {
		return nil, err
	}
	return t, nil
}

// Update replaces the configuration for all handshakes and calls from now on,
// those of the [tls.Config]s and transports that t has made included. If cfg
// is invalid, the old configuration stays.
func (t *TLS) Update(cfg Config) error { return gatemesh.Apply(t.Change(cfg)) }

// Change is [TLS.Update] as a part of [gatemesh.Apply]. Handshakes and
// connections, which belong to no call, see the new configuration at once.
func (t *TLS) Change(cfg Config) gatemesh.Change {
	return gatemesh.NewChange(&t.state, func(*Config) (*Config, error) { return newState(cfg) }, nil)
}

func newState(cfg Config) (*Config, error) {
	var errs []error
	switch {
	case cfg.Source == nil:
		errs = append(errs, errors.New("mtls: Config.Source is required"))
	case cfg.Source.Credentials() == nil:
		errs = append(errs, errors.New("mtls: Config.Source has no credentials"))
	}
	if cfg.Authorize == nil {
		errs = append(errs, errors.New("mtls: Config.Authorize is required"))
	}
	if cfg.Recheck < 0 {
		errs = append(errs, errors.New("mtls: Config.Recheck must not be negative"))
	}
	errs = append(errs, cfg.Modes.check("Config.Modes")...)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	cfg.Modes.Ports = maps.Clone(cfg.Modes.Ports)
	if cfg.Recheck == 0 {
		cfg.Recheck = time.Minute
	}
	return &cfg, nil
}

var errNoCredentials = errors.New("mtls: the source has no credentials")

// client verifies the certificates of a client against today's trust, or finds
// that it has done so before.
func (t *TLS) client(certs []*x509.Certificate, s *Config, now time.Time) (*verified, error) {
	if len(certs) == 0 {
		return nil, errNoCertificate
	}
	creds := s.Source.Credentials()
	if creds == nil {
		return nil, errNoCredentials
	}
	if v := t.known(certs[0], creds, now); v != nil {
		return v, nil
	}
	v, err := verify(certs, creds.Bundles, x509.ExtKeyUsageClientAuth, now)
	if err != nil {
		return nil, err
	}
	t.cache.put(certs[0], v)
	return v, nil
}

// known returns the client whose leaf was verified before, if that still holds.
func (t *TLS) known(leaf *x509.Certificate, creds *Credentials, now time.Time) *verified {
	v := t.cache.get(leaf)
	if v == nil || creds == nil || v.bundles != creds.Bundles || !v.validAt(now) {
		return nil
	}
	return v
}

// ServerConfig returns the configuration of a server that admits verified
// workloads only: TLS 1.3, HTTP/2 and HTTP/1.1, the certificate of the moment.
// It is the caller's; where it is changed, ClientAuth and VerifyConnection must
// stay. Certificates must stay empty, as crypto/tls would prefer them to the
// Source for clients without SNI.
//
// Session tickets are off. A resumed session would be judged like any other,
// but by the certificate of the first handshake: a client that has renewed its
// own would be refused for the old one when that loses its trust.
func (t *TLS) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
		// Demanded by crypto/tls, verified below: its own verification knows
		// one set of roots and not one for each trust domain, and is skipped
		// for resumed sessions.
		ClientAuth:       tls.RequireAnyClientCert,
		VerifyConnection: t.verifyClient,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return t.certificate()
		},
	}
}

// Credentials returns what the Source has now. The pointer stays the same until
// something changes, by which others know that connections made earlier are of
// the past. It is nil if the Source has none.
func (t *TLS) Credentials() *Credentials { return t.latest().Source.Credentials() }

func (t *TLS) certificate() (*tls.Certificate, error) {
	s := t.latest()
	creds := s.Source.Credentials()
	if creds == nil {
		return nil, errNoCredentials
	}
	t.watch(s, creds, time.Now())
	return &creds.Certificate, nil
}

func (t *TLS) verifyClient(cs tls.ConnectionState) error {
	s := t.latest()
	v, err := t.client(cs.PeerCertificates, s, time.Now())
	if err != nil {
		return err
	}
	if err := s.Authorize(v.peer); err != nil {
		t.refused.Add(1)
		if s.Observer != nil {
			s.Observer.Observe(context.Background(), gatemesh.Event{
				Kind: gatemesh.EventNotice, Layer: layerName, Message: "workload refused in handshake", Err: err,
			})
		}
		return fmt.Errorf("mtls: the client is not allowed: %w", err)
	}
	return nil
}

// ClientConfig returns the configuration of a client that talks to the callee
// and to nobody else, whatever name or address it dials: TLS 1.3, our
// certificate of the moment. NextProtos is for the protocol on top to set. The
// configuration is the caller's; VerifyConnection must stay. It returns an
// error if callee is nil.
func (t *TLS) ClientConfig(callee Authorizer) (*tls.Config, error) {
	if callee == nil {
		return nil, errors.New("mtls: the callee's Authorizer is required")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The standard verification compares host names with DNS SANs, which a
		// SPIFFE certificate does not have. VerifyConnection does the rest of
		// its work, and more, for full and resumed handshakes.
		InsecureSkipVerify: true,
		VerifyConnection:   func(cs tls.ConnectionState) error { return t.verifyServer(cs, callee) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return t.certificate()
		},
	}, nil
}

func (t *TLS) verifyServer(cs tls.ConnectionState, callee Authorizer) error {
	creds := t.latest().Source.Credentials()
	if creds == nil {
		return errNoCredentials
	}
	v, err := verify(cs.PeerCertificates, creds.Bundles, x509.ExtKeyUsageServerAuth, time.Now())
	if err != nil {
		return err
	}
	if err := callee(v.peer); err != nil {
		return fmt.Errorf("mtls: the server is not the callee: %w", err)
	}
	return nil
}

// Layer returns t as the layer "peer" of a [gatemesh.Chain]. It gives
// [gatemesh.FactPeer].
func (t *TLS) Layer() gatemesh.Layer {
	return gatemesh.Layer{Name: layerName, Gives: []gatemesh.Fact{gatemesh.FactPeer}, Gate: t}
}

// Handler judges the peer of each request before next, for use without a
// [gatemesh.Chain]. It must stand behind [gatemesh.Entry.Handler].
func (t *TLS) Handler(next http.Handler) http.Handler {
	return gatemesh.GateHandler(t.Layer(), t.latest().Observer)(next)
}
