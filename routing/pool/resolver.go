package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
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
func Static(addrs ...string) Resolver { return static(slices.Clone(addrs)) }

type static []string

func (s static) Resolve(context.Context) ([]string, error) { return s, nil }

func (s static) fault() error {
	var errs []error
	if len(s) == 0 {
		errs = append(errs, errors.New("Static needs an address"))
	}
	for _, a := range s {
		if _, err := canonicalAddr(a); err != nil {
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

// canonical returns addrs in their one spelling and order, each once, and at
// most limit of them, and how many there were.
func canonical(addrs []string, limit int) (kept []string, total int, err error) {
	kept = make([]string, 0, min(len(addrs), limitMaxEndpoints))
	for _, a := range addrs {
		c, err := canonicalAddr(a)
		if err != nil {
			return nil, 0, err
		}
		kept = append(kept, c)
	}
	slices.Sort(kept)
	kept = slices.Compact(kept)
	total = len(kept)
	return kept[:min(total, limit)], total, nil
}
