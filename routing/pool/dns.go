package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// maxTargets bounds how many SRV targets are looked up, and targetsAtOnce how
// many of them at the same time.
const (
	maxTargets    = limitMaxEndpoints
	targetsAtOnce = 16
)

// DNSConfig configures [DNS]. The zero DNSConfig is invalid: either Host and
// Port or SRV are required.
type DNSConfig struct {
	// Host is the name whose A and AAAA records are the endpoints, such as a
	// headless service, "orders.shop.svc.cluster.local.". End it with a dot:
	// without one, the search domains of a pod cost several queries more.
	Host string
	// Port is the port of every endpoint. Required with Host, and only there.
	// For a headless service it is the port at which the pods listen, the
	// targetPort, and not that of the service: nobody translates it, and address
	// records do not say it. Where it differs, or may, use SRV.
	Port uint16
	// SRV is the name of SRV records (RFC 2782), such as
	// "_http._tcp.orders.shop.svc.cluster.local.". The addresses of their
	// targets, which take a query each, and their ports are the endpoints.
	// Kubernetes has such records for every named port of a service, and those
	// of a headless one have the ports at which the pods listen. Of
	// several priorities, the lowest number alone is used. Weights say nothing:
	// the load goes by what the endpoints are measured to carry.
	SRV string
	// Network is "ip" for both families, "ip4" or "ip6". Default: "ip". Where
	// every endpoint has an address of each family, choose one, else each
	// counts as two.
	Network string
	// Resolver asks the DNS. Default: [net.DefaultResolver]. Unless its
	// PreferGo is set, net may ask through the C library, where a lookup that
	// timed out holds a thread until the library gives up. With both families,
	// set its StrictErrors too: without it, net takes the answer for one family
	// for the whole if the other fails.
	Resolver *net.Resolver
}

// DNS is a [Resolver] that asks the DNS at every lookup. It is safe for
// concurrent use and needs no closing. Make it with [NewDNS].
type DNS struct{ cfg DNSConfig }

// NewDNS returns a DNS for cfg. It reports every invalid field at once.
func NewDNS(cfg DNSConfig) (*DNS, error) {
	if cfg.Network == "" {
		cfg.Network = "ip"
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("pool: DNSConfig."+format, args...))
	}
	switch {
	case (cfg.Host == "") == (cfg.SRV == ""):
		fault("Host or SRV is required, and not both")
	case cfg.Host != "" && !validHost(cfg.Host):
		fault("Host %q is not a host name", cfg.Host)
	case cfg.SRV != "" && (!validHost(cfg.SRV) || cfg.SRV[0] != '_'):
		fault(`SRV %q is not a name such as "_http._tcp.example.com"`, cfg.SRV)
	}
	if cfg.Host != "" && cfg.Port == 0 {
		fault("Port is required with Host")
	}
	if cfg.SRV != "" && cfg.Port != 0 {
		fault("Port is not for SRV, whose records have one")
	}
	if n := cfg.Network; n != "ip" && n != "ip4" && n != "ip6" {
		fault(`Network %q is not "ip", "ip4" or "ip6"`, n)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	cfg.Resolver = obedient(cfg.Resolver)
	return &DNS{cfg}, nil
}

// obedient returns a resolver like r whose lookups end with their context. That
// of package net returns then, but goes on reading for up to ten seconds, with
// a socket and two goroutines: while a server is a black hole, every lookup
// would add some, and Close would not be the end.
func obedient(r *net.Resolver) *net.Resolver {
	dial := r.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &net.Resolver{PreferGo: r.PreferGo, StrictErrors: r.StrictErrors, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = c.Close() }) // mostly closed already
		}
		return c, err
	}}
}

// fault is for [New]: the zero DNS has no name to ask for.
func (d *DNS) fault() error {
	if d == nil || d.cfg.Resolver == nil {
		return errors.New("the DNS was not made by NewDNS")
	}
	return nil
}

// Resolve implements [Resolver]. A target of an SRV record that does not exist
// is left out, as it may be leaving; one that cannot be looked up fails the
// whole, because a part of the endpoints would get the load of all.
func (d *DNS) Resolve(ctx context.Context) ([]string, error) {
	if err := d.fault(); err != nil {
		return nil, err
	}
	if d.cfg.Host != "" {
		return d.addrs(ctx, d.cfg.Host, d.cfg.Port)
	}
	_, records, err := d.cfg.Resolver.LookupSRV(ctx, "", "", d.cfg.SRV)
	if err != nil {
		return nil, err
	}
	return d.targets(ctx, targets(records))
}

// targets returns what of the answer to an SRV query is looked up: every target
// once, of the lowest priority.
func targets(records []*net.SRV) []net.SRV {
	lowest := uint16(0xffff)
	for _, r := range records {
		lowest = min(lowest, r.Priority)
	}
	seen := map[net.SRV]bool{}
	var found []net.SRV
	for _, r := range records {
		t := net.SRV{Target: strings.ToLower(r.Target), Port: r.Port}
		// A target of "." says that there is no such service.
		if r.Priority != lowest || r.Port == 0 || !validHost(t.Target) || seen[t] || len(found) == maxTargets {
			continue
		}
		seen[t] = true
		found = append(found, t)
	}
	return found
}

func (d *DNS) targets(ctx context.Context, targets []net.SRV) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		next  int
		found []string
		fault error
	)
	for range min(targetsAtOnce, len(targets)) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				enough := i >= len(targets) || fault != nil || len(found) >= limitMaxEndpoints
				mu.Unlock()
				if enough {
					return
				}
				addrs, err := d.addrs(ctx, targets[i].Target, targets[i].Port)
				var notFound *net.DNSError
				if errors.As(err, &notFound) && notFound.IsNotFound {
					err = nil
				}
				mu.Lock()
				found = append(found, addrs...)
				if err != nil && fault == nil {
					fault = err
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if fault != nil {
		return nil, fault
	}
	return found, nil
}

func (d *DNS) addrs(ctx context.Context, host string, port uint16) ([]string, error) {
	ips, err := d.cfg.Resolver.LookupNetIP(ctx, d.cfg.Network, host)
	if err != nil {
		return nil, err
	}
	addrs := make([]string, 0, len(ips))
	for _, ip := range ips {
		// A zone or the unspecified address leads nowhere from here.
		if ip.Zone() == "" && !ip.IsUnspecified() {
			addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), port).String())
		}
	}
	return addrs, nil
}
