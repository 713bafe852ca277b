package spire

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/mtls"
)

// Config configures a [Source]. The zero Config is valid where the environment
// names the agent, and takes the first identity that the agent has for us.
type Config struct {
	// Addr is the address of the agent, such as "unix:///run/spire/agent.sock".
	// TCP is for loopback addresses only, as private keys travel in plain text.
	// Default: the environment variable SPIFFE_ENDPOINT_SOCKET.
	Addr string
	// ID is the SPIFFE id to take if the agent has several for us. Default: the
	// first, which is the default identity (Workload API §5.3).
	ID string
	// Hint takes the identity with this hint of the operator instead. Not
	// together with ID.
	Hint string
	// TrustDomain is our own trust domain; a certificate of another one is
	// refused. Default: that of the certificate.
	TrustDomain string
	// Timeout is how long [New] waits for the agent. Default: 30 s. Must not be
	// negative.
	Timeout time.Duration
	// Observer receives a notice for every change, and a fault for an agent
	// that is away, refuses, or sends what cannot be used. Default: nobody.
	Observer gatemesh.Observer
}

// Source is an [mtls.Source] that follows the Workload API. It trusts every
// trust domain whose bundle the agent sends; who of them may connect is for the
// Authorizers to say.
//
// An answer that cannot be used, as a whole or in part, changes nothing: a
// bundle that is empty or holds no CA, a certificate that has expired, or that
// is of another trust domain, or none of the wanted id. Then, and while the
// agent is away or says that there is no identity for us, the last good
// credentials stay, whether or not they have expired: handshakes judge that. An
// agent that comes back is found within about 10 s.
//
// So a workload that loses its registration goes on until the end of its
// certificate, where Workload API §5.2.1 would rather have it stop at once:
// agents say the same for a moment when they are started, and a workload that
// means harm would not stop. The Observer hears of it at once.
//
// A Source owns goroutines, which [Source.Close] ends. It is safe for concurrent
// use. Printing it shows its SPIFFE id and no key. The zero Source has no
// credentials.
type Source struct {
	cfg     Config
	current atomic.Pointer[mtls.Credentials]
	ready   chan struct{} // closed when there are credentials
	stop    context.CancelFunc
	close   func() error

	// of the goroutine that watches
	bundles [32]byte // the fingerprint of the bundles of current

	mu     sync.Mutex
	failed error // the fault that was reported last
}

// New returns a Source with the credentials that the agent has for us. It waits
// for them until Config.Timeout, or until ctx ends, which later does not matter
// any more. It reports every invalid field at once.
func New(ctx context.Context, cfg Config) (*Source, error) {
	if cfg.Addr == "" {
		cfg.Addr, _ = workloadapi.GetDefaultAddress()
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(cfg.Addr), workloadapi.WithBackoffStrategy(strategy{}),
		// Else a connection that failed is not tried again for up to 2 minutes.
		workloadapi.WithDialOptions(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: firstRetry, Multiplier: 2, Jitter: 0.2, MaxDelay: maxRetry}, MinConnectTimeout: maxRetry,
		})))
	if err != nil {
		return nil, fmt.Errorf("spire: %w", err)
	}
	s := &Source{cfg: cfg, ready: make(chan struct{})}
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	var wg sync.WaitGroup
	wg.Go(func() { s.watch(run, client) })
	s.close = sync.OnceValue(func() error {
		stop()
		wg.Wait()
		if err := client.Close(); err != nil {
			return fmt.Errorf("spire: %w", err)
		}
		return nil
	})
	select {
	case <-s.ready:
		return s, nil
	case <-ctx.Done():
		err := s.Close() // now nobody reports any more
		return nil, errors.Join(fmt.Errorf("spire: no credentials from the agent at %s: %w", cfg.Addr, ctx.Err()), s.failed, err)
	}
}

func (cfg *Config) validate() error {
	var errs []error
	if cfg.Addr == "" {
		errs = append(errs, fmt.Errorf("spire: Config.Addr or the environment variable %s is required", workloadapi.SocketEnv))
	} else if err := checkAddr(cfg.Addr); err != nil {
		errs = append(errs, fmt.Errorf("spire: Config.Addr: %w", err))
	}
	if cfg.ID != "" {
		if id, err := mtls.ParseID(cfg.ID); err != nil {
			errs = append(errs, fmt.Errorf("spire: Config.ID: %w", err))
		} else if cfg.TrustDomain != "" && id.TrustDomain() != cfg.TrustDomain {
			errs = append(errs, fmt.Errorf("spire: Config.ID is not of Config.TrustDomain %s", cfg.TrustDomain))
		}
		if cfg.Hint != "" {
			errs = append(errs, errors.New("spire: Config.Hint must not be set together with Config.ID"))
		}
	}
	if td := cfg.TrustDomain; td != "" {
		if id, err := mtls.ParseID("spiffe://" + td + "/x"); err != nil || id.TrustDomain() != td {
			errs = append(errs, fmt.Errorf("spire: Config.TrustDomain: %q is not a trust domain", td))
		}
	}
	if cfg.Timeout < 0 {
		errs = append(errs, errors.New("spire: Config.Timeout must not be negative"))
	}
	return errors.Join(errs...)
}

// checkAddr applies the rules of the Workload Endpoint, and keeps private keys
// off the network.
func checkAddr(addr string) error {
	if err := workloadapi.ValidateAddress(addr); err != nil {
		return err
	}
	u, err := url.Parse(addr)
	if err != nil || u.Scheme != "tcp" {
		return err
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err != nil || !ip.Unmap().IsLoopback() {
		return fmt.Errorf("%s is not a loopback address", u.Hostname())
	}
	return nil
}

// Credentials returns what the agent has sent last, as far as it was good. The
// pointer stays the same until something changes.
func (s *Source) Credentials() *mtls.Credentials { return s.current.Load() }

// Close ends the connection to the agent, and waits for the goroutines. The
// credentials stay. It may be called more than once.
func (s *Source) Close() error {
	if s.close == nil { // the zero Source
		return nil
	}
	return s.close()
}

// Format prints the SPIFFE id, whatever the verb.
func (s *Source) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "agent with %v", s.current.Load()) }
