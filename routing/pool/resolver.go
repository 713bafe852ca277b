package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Resolver says who serves now. Implementations must be safe for concurrent
// use, and must return soon after ctx has ended: [Pool.Close] waits for them.
type Resolver interface {
	// Resolve returns the endpoints as "host:port", in any order; duplicates
	// count once. An address that is none makes the lookup a failed one, like
	// an error and an empty answer: the pool keeps its last good endpoints.
	Resolve(ctx context.Context) ([]string, error)
}

// Static returns a Resolver that always answers addrs, each "host:port", of
// which it keeps a copy. A host that is a name is resolved by whoever connects.
// [New] and [Pool.Update] refuse it if an address is invalid or there is none,
// and use it before they return.
func Static(addrs ...string) Resolver { return static(asTargets(addrs)) }

type static []Target

func (s static) Targets(context.Context) ([]Target, error) { return s, nil }

func (s static) Resolve(context.Context) ([]string, error) { return s.addrs(), nil }

func (s static) addrs() []string {
	addrs := make([]string, len(s))
	for i := range s {
		addrs[i] = s[i].Address
	}
	return addrs
}

func (s static) fault() error {
	var errs []error
	if len(s) == 0 {
		errs = append(errs, errors.New("Static needs an address"))
	}
	for _, t := range s {
		if _, err := t.canonical(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// canonicalAddr returns the one spelling of "host:port" that stands for it, fit
// for the host of a URL.
func canonicalAddr(s string) (string, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		if ap.Port() == 0 || ap.Addr().Zone() != "" || ap.Addr().IsUnspecified() {
			return "", badAddr(s)
		}
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String(), nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", badAddr(s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || !validHost(host) {
		return "", badAddr(s)
	}
	return net.JoinHostPort(strings.ToLower(host), strconv.FormatUint(n, 10)), nil
}

func badAddr(s string) error {
	if len(s) > maxNameLen {
		s = s[:maxNameLen]
	}
	return fmt.Errorf("%q is not a host and a port", s)
}

// validHost reports whether s is a host name, with the underscores that SRV
// targets and container names have.
func validHost(s string) bool {
	return len(s) >= 1 && len(s) <= maxNameLen && s[0] != '.' && !strings.Contains(s, "..") &&
		strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}
