package mtls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/internal/follow"
)

// EdgeConfig configures an [Edge]. It needs at least one certificate, in Pairs,
// Folder or Certificates; with several, see Default. All of it can be changed
// with [Edge.Update].
type EdgeConfig struct {
	// Pairs are files with a certificate and its key each, which are followed.
	Pairs []EdgePair
	// Folder is a folder with the files tls.crt and tls.key, as Kubernetes
	// mounts a Secret, or with folders that hold them, up to 1000, or both. It
	// is followed, too: a certificate comes and goes with its folder. Names
	// that begin with a dot are skipped.
	Folder string
	// Certificates are certificates in memory.
	Certificates []tls.Certificate
	// Default is a DNS name or IP address of the certificate for clients that
	// ask for no server name, or for one that no certificate has. Default: the
	// only certificate; if there are several, such clients are refused.
	Default string
	// Clients says whether clients are asked for a certificate. Default: they
	// are not, as callers from outside are known by their credentials.
	Clients EdgeClients
	// ClientCA is the path of the authorities of client certificates in PEM
	// form, which is followed. Nobody else is trusted, and the roots of the
	// system never are. Required with Clients, and only with it.
	ClientCA string
	// TicketRotation is how long one key encrypts session tickets. They are
	// accepted until the next key is replaced, so for up to twice as long, and
	// never for more than seven days. The keys are random, live in memory, and
	// differ for certificates with different names, so that no session is
	// resumed at another one. Default: 12 h. Must not be negative.
	TicketRotation time.Duration
	// DisableTickets makes every handshake a full one.
	DisableTickets bool
	// DisableHTTP2 offers HTTP/1.1 only, for a server that speaks nothing else:
	// the protocol is chosen here, whatever the server makes of its [tls.Config].
	DisableHTTP2 bool
	// Interval is how often the files are looked at. Default: 10 s. Must not
	// be negative.
	Interval time.Duration
	// Observer receives a notice for every change, a fault for files that
	// cannot be used, once, and news of certificates that should have been
	// renewed: see [EdgeStatus]. Handshakes that fail are left to
	// [net/http.Server.ErrorLog]. Default: nobody.
	Observer gatemesh.Observer
}

// EdgePair are the paths of a certificate, followed by its intermediates, and
// of its private key, in PEM form.
type EdgePair struct{ Cert, Key string }

// Edge is the TLS of a public listener, where callers have no SPIFFE id: TLS 1.2
// and up, HTTP/2 and HTTP/1.1, resumable sessions, and the certificate for the
// server name that the client asks for. An exact name goes before a wildcard;
// among certificates for one name, the first that the client supports and that
// is valid.
//
// Files are followed as [Files] does, and have the same limits. A pair that is missing or broken, does not
// belong together, or is not valid while the old one is, leaves the last good
// one in use; the others are not affected. At the start, and for an Update, it
// is an error. A certificate that has expired is used if there is no other, as
// it is for the client to judge, and is a fault for the Observer.
//
// Edge owns a goroutine, which [Edge.Close] ends. It is safe for concurrent use.
// The zero Edge refuses every handshake; make one with [NewEdge].
type Edge struct {
	live    gatemesh.Live[edgeState]
	loop    *follow.Loop // nil for the zero Edge
	tickets tickets
	expiry  edgeExpiry
}

// edgeState is a configuration and what it has come to.
type edgeState struct {
	cfg   EdgeConfig
	watch *follow.Watch[edgeSet]
}

var (
	errEdgeUnset  = errors.New("mtls: the Edge was not made by NewEdge")
	errEdgeClosed = errors.New("mtls: the Edge is closed")
)

// NewEdge returns an Edge for cfg. It reports every fault at once.
func NewEdge(cfg EdgeConfig) (*Edge, error) {
	e := &Edge{}
	e.loop = follow.Start(cfg.interval(), e.look)
	if err := e.Update(cfg); err != nil {
		e.loop.Close()
		return nil, err
	}
	return e, nil
}

// Update replaces the configuration, all of it at once, for all handshakes from
// now on, those of the [tls.Config]s that e has made included. Ticket keys stay,
// so that sessions are resumed across it, if the new configuration lets them.
// If cfg is invalid, its files cannot be used, or the Edge is closed, it returns
// an error and everything stays as it was.
func (e *Edge) Update(cfg EdgeConfig) error { return gatemesh.Apply(e.Change(cfg)) }

// Change is [Edge.Update] as a part of [gatemesh.Apply]. Handshakes, which
// belong to no call, see the new configuration at once.
func (e *Edge) Change(cfg EdgeConfig) gatemesh.Change {
	return gatemesh.NewChange(&e.live, func(*edgeState) (s *edgeState, err error) {
		if e.loop == nil {
			return nil, errEdgeUnset
		}
		cfg, err := cfg.complete()
		if err != nil {
			return nil, err
		}
		err = e.loop.Do(func() error {
			w, _, err := follow.Begin(e.follow(cfg), nil, time.Now())
			s = &edgeState{cfg, w}
			return err
		})
		if errors.Is(err, follow.ErrClosed) {
			err = errEdgeClosed
		}
		if err != nil {
			return nil, err
		}
		return s, nil
	}, func(_, _ *edgeState) {
		s := e.live.Latest() // another Update may have been faster
		_ = e.loop.Do(func() error { e.loop.Every(s.cfg.Interval); return nil })
		e.expiry.tell(s, time.Now())
	})
}

// look runs at every interval.
func (e *Edge) look(now time.Time) (tell func()) {
	s := e.live.Latest()
	if s == nil { // the first Update is slow
		return func() {}
	}
	told := s.watch.Look(now)
	return func() {
		told()
		e.expiry.tell(s, now)
	}
}

// Close stops looking at the files, and waits for the goroutine. Handshakes go
// on with what was last good. It may be called more than once.
func (e *Edge) Close() error {
	if e.loop != nil {
		e.loop.Close()
	}
	return nil
}

// TLSConfig returns the configuration of a listener. It is the caller's;
// GetConfigForClient must stay, and decides on everything else.
func (e *Edge) TLSConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols(false), GetConfigForClient: e.configFor}
}

func protocols(disableHTTP2 bool) []string {
	if disableHTTP2 {
		return []string{"http/1.1"}
	}
	return []string{"h2", "http/1.1"}
}

// nobody has no certificate, which crypto/tls answers with the alert
// unrecognized_name.
var nobody = &tls.Config{MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true}

func (e *Edge) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	s := e.live.Latest()
	if s == nil {
		return nil, errEdgeUnset
	}
	now := time.Now()
	c := s.watch.Current().choose(hello, now)
	if c == nil {
		return nobody, nil
	}
	return c.withKeys(e.tickets.at(now, s.cfg.TicketRotation)), nil
}

// Format prints the number of certificates, whatever the verb.
func (e *Edge) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "edge with %d certificates", len(e.Status()))
}

func (cfg *EdgeConfig) interval() time.Duration {
	if cfg.Interval > 0 {
		return cfg.Interval
	}
	return 10 * time.Second
}

// complete returns a copy of cfg with its defaults, or every fault of it.
func (cfg EdgeConfig) complete() (EdgeConfig, error) {
	errs := cfg.faults()
	cfg.Interval = cfg.interval()
	if cfg.TicketRotation == 0 {
		cfg.TicketRotation = 12 * time.Hour
	}
	cfg.Pairs, cfg.Certificates = slices.Clone(cfg.Pairs), slices.Clone(cfg.Certificates)
	cfg.Default = strings.ToLower(cfg.Default)
	if ip := net.ParseIP(cfg.Default); ip != nil {
		cfg.Default = ip.String()
	}
	return cfg, errors.Join(errs...)
}

func (cfg *EdgeConfig) faults() (errs []error) {
	if len(cfg.Pairs) == 0 && cfg.Folder == "" && len(cfg.Certificates) == 0 {
		errs = append(errs, errors.New("mtls: one of EdgeConfig.Pairs, EdgeConfig.Folder and EdgeConfig.Certificates is required"))
	}
	for i, p := range cfg.Pairs {
		if p.Cert == "" || p.Key == "" {
			errs = append(errs, fmt.Errorf("mtls: EdgeConfig.Pairs[%d] needs Cert and Key", i))
		}
	}
	switch {
	case cfg.Clients > EdgeClientsRequired:
		errs = append(errs, fmt.Errorf("mtls: EdgeConfig.Clients has no value %d", cfg.Clients))
	case cfg.Clients == EdgeClientsIgnored && cfg.ClientCA != "":
		errs = append(errs, errors.New("mtls: EdgeConfig.ClientCA is for EdgeConfig.Clients, which asks for no certificate"))
	case cfg.Clients != EdgeClientsIgnored && cfg.ClientCA == "":
		errs = append(errs, errors.New("mtls: EdgeConfig.ClientCA is required to verify the certificates of clients"))
	}
	if cfg.TicketRotation < 0 {
		errs = append(errs, errors.New("mtls: EdgeConfig.TicketRotation must not be negative"))
	}
	if cfg.Interval < 0 {
		errs = append(errs, errors.New("mtls: EdgeConfig.Interval must not be negative"))
	}
	return errs
}
